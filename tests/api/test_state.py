"""GET /state in its forms, and the room at a glance."""

from __future__ import annotations

from typing import Any

from tests.api.talk import TalkCase, user
from tests.support.databases import on_each_database


def by_key(events: list[Any]) -> dict[tuple[str, str], Any]:
    return {(event["type"], event["state_key"]): event["content"] for event in events}


@on_each_database
class ReadState(TalkCase):
    """Who reads what."""

    def test_one(self) -> None:
        room_id = self.make_room(joined=("bob",))
        self.set_state("alice", room_id, "m.room.topic", {"topic": "x"})
        for parts in (("state", "m.room.topic"), ("state", "m.room.topic", "")):
            self.assertEqual({"topic": "x"}, self.ok("bob", self.path(room_id, *parts)))
            self.assertEqual({"topic": "x"}, self.ok("bob", self.path(room_id, *parts), format="content"))

    def test_whole_event(self) -> None:
        room_id = self.make_room()
        event_id = self.set_state("alice", room_id, "m.room.topic", {"topic": "x"})
        self.app.advance(3)
        event = self.ok("alice", self.path(room_id, "state", "m.room.topic"), format="event")
        self.assertEqual((event_id, room_id, ""), (event["event_id"], event["room_id"], event["state_key"]))
        self.assertEqual({"topic": "x"}, event["content"])
        self.assertEqual(3000, event["unsigned"]["age"])
        bad = self.get("alice", self.path(room_id, "state", "m.room.topic"), format="yaml")
        self.assert_refused(bad, 400, "M_INVALID_PARAM")

    def test_absent(self) -> None:
        room_id, other = self.make_room(), self.make_room()
        self.set_state("alice", other, "org.example", {}, "k")
        for parts in (("never.used",), ("m.room.topic",), ("org.example", "k"), ("m.room.member", "x")):
            answer = self.get("alice", self.path(room_id, "state", *parts))
            self.assert_refused(answer, 404, "M_NOT_FOUND")

    def test_all(self) -> None:
        room_id = self.make_room(joined=("bob",))
        self.set_state("alice", room_id, "m.room.topic", {"topic": "old"})
        self.set_state("alice", room_id, "m.room.topic", {"topic": "new"})
        state = by_key(self.ok("bob", self.path(room_id, "state")))
        self.assertEqual(6, len(state))
        self.assertEqual({"topic": "new"}, state["m.room.topic", ""])

    def test_strangers(self) -> None:
        room_id = self.make_room()
        for parts in (
            ("state",),
            ("state", "m.room.topic"),
            ("members",),
            ("joined_members",),
            ("initialSync",),
        ):
            self.assert_refused(self.get("bob", self.path(room_id, *parts)), 403, "M_FORBIDDEN")
            self.assert_refused(self.get("bob", self.path("!none:test.example", *parts)), 403, "M_FORBIDDEN")

    def test_who_left_sees_the_state_of_then(self) -> None:
        self.add("carol")
        room_id = self.make_room(joined=("bob",))
        self.set_state("alice", room_id, "m.room.topic", {"topic": "then"})
        self.leave("bob", room_id)
        self.set_state("alice", room_id, "m.room.topic", {"topic": "now"})
        self.set_state("alice", room_id, "m.room.name", {"name": "new"})
        self.join("carol", room_id)
        self.assertEqual({"topic": "then"}, self.ok("bob", self.path(room_id, "state", "m.room.topic")))
        self.assert_refused(self.get("bob", self.path(room_id, "state", "m.room.name")), 404, "M_NOT_FOUND")
        state = by_key(self.ok("bob", self.path(room_id, "state")))
        self.assertEqual({"topic": "then"}, state["m.room.topic", ""])
        self.assertEqual({"membership": "leave"}, state["m.room.member", user("bob")])
        self.assertNotIn(("m.room.name", ""), state)
        self.assertNotIn(("m.room.member", user("carol")), state)

    def test_who_left_sees_what_they_are_now(self) -> None:
        """As sync tells them: a client that looks in shows by it whether they may join."""
        room_id = self.make_room(joined=("bob",))
        for what in ("ban", "unban"):
            body = {"user_id": user("bob"), "reason": what}
            self.app.ok("POST", self.path(room_id, what), body, self.tokens["alice"])
        now = {"membership": "leave", "reason": "unban"}
        self.assertEqual(now, self.ok("bob", self.path(room_id, "state", "m.room.member", user("bob"))))
        self.assertEqual(
            now, by_key(self.ok("bob", self.path(room_id, "state")))["m.room.member", user("bob")]
        )
        glance = self.ok("bob", self.path(room_id, "initialSync"))
        self.assertEqual("leave", glance["membership"])
        self.assertEqual(now, by_key(glance["state"])["m.room.member", user("bob")])

    def test_anybody_reads_an_open_room(self) -> None:
        room_id = self.make_room(visibility="world_readable")
        self.set_state("alice", room_id, "m.room.topic", {"topic": "open"})
        self.assertEqual({"topic": "open"}, self.ok("bob", self.path(room_id, "state", "m.room.topic")))
        self.assertEqual(6, len(self.ok("bob", self.path(room_id, "state"))))


@on_each_database
class Glance(TalkCase):
    """GET /rooms/{roomId}/initialSync."""

    def test_open_room(self) -> None:
        room_id = self.make_room(visibility="world_readable")
        for number in range(4):
            self.say("alice", room_id, str(number))
        answer = self.ok("bob", self.path(room_id, "initialSync"), limit=2)
        self.assertEqual(
            (room_id, "leave", "private"),
            tuple(answer[key] for key in ("room_id", "membership", "visibility")),
        )
        self.assertEqual(["2", "3"], self.bodies(answer["messages"]["chunk"]))
        self.assertEqual(5, len(answer["state"]))
        self.assertEqual([], answer["account_data"])
        earlier = self.page("bob", room_id, **{"from": answer["messages"]["start"]})
        self.assertEqual(["1", "0"], self.bodies(earlier["chunk"]))
        self.say("alice", room_id, "later")
        later = self.page("bob", room_id, dir="f", **{"from": answer["messages"]["end"]})
        self.assertEqual(["later"], self.bodies(later["chunk"]))

    def test_member(self) -> None:
        room_id = self.make_room()
        path = f"/_matrix/client/v3/user/{user('alice')}/rooms/{room_id}/account_data/org.example"
        self.app.ok("PUT", path, {"mine": True}, self.tokens["alice"])
        answer = self.ok("alice", self.path(room_id, "initialSync"))
        self.assertEqual("join", answer["membership"])
        self.assertEqual([{"type": "org.example", "content": {"mine": True}}], answer["account_data"])
        self.assertNotIn("start", answer["messages"])

    def test_what_is_kept_of_a_room_that_was_left(self) -> None:
        """The account data are theirs: they change on without the room."""
        room_id = self.make_room(joined=("bob",))
        path = f"/_matrix/client/v3/user/{user('bob')}/rooms/{room_id}/account_data/org.example."
        self.app.ok("PUT", f"{path}before", {"n": 1}, self.tokens["bob"])
        self.app.ok("PUT", f"{path}changed", {"n": 1}, self.tokens["bob"])
        self.app.ok("POST", self.path(room_id, "leave"), {}, self.tokens["bob"])
        self.say("alice", room_id, "unseen")
        self.app.ok("PUT", f"{path}changed", {"n": 2}, self.tokens["bob"])
        self.app.ok("PUT", f"{path}after", {"n": 3}, self.tokens["bob"])
        answer = self.ok("bob", self.path(room_id, "initialSync"))
        self.assertEqual("leave", answer["membership"])
        self.assertNotIn("unseen", self.bodies(answer["messages"]["chunk"]))
        kept = {one["type"].rpartition(".")[2]: one["content"]["n"] for one in answer["account_data"]}
        self.assertEqual({"before": 1, "changed": 2, "after": 3}, kept)
