"""GET /messages: pages, tokens, filters, visibility."""

from __future__ import annotations

import json as stdlib_json
from typing import Any

from tests.api.talk import TalkCase, user
from tests.support.databases import on_each_database


def as_filter(**fields: Any) -> str:
    return stdlib_json.dumps(fields)


@on_each_database
class Messages(TalkCase):
    """A page, and the next one."""

    def test_backwards_to_the_beginning(self) -> None:
        room_id = self.make_room()
        for number in range(12):
            self.say("alice", room_id, str(number))
        page = self.page("alice", room_id, limit=5)
        self.assertEqual(["11", "10", "9", "8", "7"], self.bodies(page["chunk"]))
        self.assertNotIn("state", page)
        seen, pages = page["chunk"], 1
        while "end" in page:
            last = page["end"]
            page = self.page("alice", room_id, limit=5, **{"from": last})
            self.assertEqual(last, page["start"])
            seen += page["chunk"]
            pages += 1
        self.assertEqual((16, 5), (len(seen), pages))
        self.assertEqual("m.room.create", seen[-1]["type"])
        self.assertEqual(16, len({event["event_id"] for event in seen}))
        self.assertEqual({room_id}, {event["room_id"] for event in seen})

    def test_forwards_is_the_reverse(self) -> None:
        room_id = self.make_room()
        for number in range(7):
            self.say("alice", room_id, str(number))
        backwards = self.page("alice", room_id, limit=100)
        page = self.page("alice", room_id, dir="f", limit=4)
        seen = page["chunk"]
        while "end" in page:
            page = self.page("alice", room_id, dir="f", limit=4, **{"from": page["end"]})
            seen += page["chunk"]
        self.assertEqual(backwards["chunk"], seen[::-1])
        again = self.page("alice", room_id, dir="f", **{"from": backwards["start"]})
        self.assertEqual([], again["chunk"])
        self.assertNotIn("end", again)

    def test_the_oldest_page_has_a_token_too(self) -> None:
        # Nheko drops what comes without one; the end is where nothing comes.
        room_id = self.make_room()
        for limit in (4, 5):
            page = self.page("alice", room_id, limit=limit)
            self.assertEqual((4, "m.room.create"), (len(page["chunk"]), page["chunk"][-1]["type"]))
            self.assertNotEqual(page["start"], page["end"])
            beyond = self.page("alice", room_id, limit=limit, **{"from": page["end"]})
            self.assertEqual({"start": page["end"], "chunk": []}, beyond)

    def test_limits(self) -> None:
        room_id = self.make_room()
        for number in range(12):
            self.say("alice", room_id, str(number))
        self.assertEqual(10, len(self.page("alice", room_id)["chunk"]))
        self.assertEqual(16, len(self.page("alice", room_id, limit=10**9)["chunk"]))
        self.assertEqual(3, len(self.page("alice", room_id, filter=as_filter(limit=3))["chunk"]))
        self.assertEqual(5, len(self.page("alice", room_id, filter=as_filter(limit=3), limit=5)["chunk"]))
        nothing = self.page("alice", room_id, limit=0)
        self.assertEqual([], nothing["chunk"])
        self.assertEqual(nothing["start"], nothing["end"])

    def test_to(self) -> None:
        room_id = self.make_room()
        self.say("alice", room_id, "before")
        stop = self.page("alice", room_id, limit=0)["start"]
        self.say("alice", room_id, "one")
        self.say("alice", room_id, "two")
        page = self.page("alice", room_id, to=stop)
        self.assertEqual(["two", "one"], self.bodies(page["chunk"]))
        rest = self.page("alice", room_id, to=stop, **{"from": page["end"]})
        self.assertEqual([], rest["chunk"])
        self.assertNotIn("end", rest)
        forwards = self.page("alice", room_id, dir="f", to=stop)
        self.assertEqual(["before"], self.bodies(forwards["chunk"]))

    def test_filters(self) -> None:
        room_id = self.make_room(joined=("bob",))
        for number in range(130):
            self.send("alice", room_id, {"msgtype": "m.text", "body": "a"})
            if number % 50 == 0:
                self.send("bob", room_id, {"msgtype": "m.text", "body": f"b{number}", "url": "mxc://x/y"})
        of_bob = as_filter(senders=[user("bob")], types=["m.room.mess*"])
        both = self.page("alice", room_id, filter=of_bob)
        self.assertEqual(["b100", "b50", "b0"], self.bodies(both["chunk"]))
        beyond = self.page("alice", room_id, filter=of_bob, **{"from": both["end"]})
        self.assertEqual({"start": both["end"], "chunk": []}, beyond)
        one = self.page("alice", room_id, limit=1, filter=as_filter(contains_url=True))
        self.assertEqual(["b100"], self.bodies(one["chunk"]))
        two = self.page(
            "alice", room_id, limit=1, filter=as_filter(contains_url=True), **{"from": one["end"]}
        )
        self.assertEqual(["b50"], self.bodies(two["chunk"]))
        kept = self.page("alice", room_id, limit=9, filter=as_filter(not_types=["m.room.message"]))
        self.assertEqual(5, len(kept["chunk"]))
        elsewhere = self.page("alice", room_id, filter=as_filter(not_rooms=[room_id]))
        self.assertEqual([], elsewhere["chunk"])
        self.assertNotIn("end", elsewhere)

    def test_lazy_members(self) -> None:
        self.add("carol")
        room_id = self.make_room(joined=("bob", "carol"))
        self.say("alice", room_id, "a")
        self.join("bob", room_id, displayname="Bobby")
        self.say("bob", room_id, "b")
        page = self.page("alice", room_id, limit=3, filter=as_filter(lazy_load_members=True))
        members = {event["state_key"]: event["content"] for event in page["state"]}
        self.assertEqual({user("alice"), user("bob")}, set(members))
        self.assertEqual("Bobby", members[user("bob")]["displayname"])
        self.assertEqual("Alice", members[user("alice")]["displayname"])

    def test_unsigned(self) -> None:
        room_id = self.make_room()
        self.say("alice", room_id, "early")
        first = self.set_state("alice", room_id, "m.room.topic", {"topic": "one"})
        self.set_state("alice", room_id, "m.room.topic", {"topic": "two"})
        self.join("bob", room_id)
        _, sent = self.send("bob", room_id, {"msgtype": "m.text", "body": "mine"}, txn_id="my id")
        self.app.advance(2)
        for _ in range(2):
            message, join, topic, before, early = self.page("bob", room_id, limit=5)["chunk"]
            self.assertEqual(sent["event_id"], message["event_id"])
            self.assertEqual(
                {"age": 2000, "membership": "join", "transaction_id": "my id"}, message["unsigned"]
            )
            self.assertEqual("join", join["unsigned"]["membership"])
            self.assertEqual({"topic": "one"}, topic["unsigned"]["prev_content"])
            self.assertEqual(
                (first, "leave"), (topic["unsigned"]["replaces_state"], topic["unsigned"]["membership"])
            )
            self.assertNotIn("prev_content", before["unsigned"])
            self.assertEqual({"age": 3000, "membership": "leave"}, early["unsigned"])
            self.app.restart()
        others = self.page("alice", room_id, limit=1)["chunk"][0]
        self.assertNotIn("transaction_id", others["unsigned"])

    def test_bad_arguments(self) -> None:
        room_id = self.make_room()
        path = self.path(room_id, "messages")
        for query, errcode in (
            ({}, "M_MISSING_PARAM"),
            ({"dir": "x"}, "M_INVALID_PARAM"),
            ({"dir": "b", "from": "zzz"}, "M_INVALID_PARAM"),
            ({"dir": "b", "to": "t99999999999999999999"}, "M_INVALID_PARAM"),
            ({"dir": "b", "limit": "-1"}, "M_INVALID_PARAM"),
            ({"dir": "b", "limit": "many"}, "M_INVALID_PARAM"),
            ({"dir": "b", "filter": "{"}, "M_NOT_JSON"),
            ({"dir": "b", "filter": "[]"}, "M_BAD_JSON"),
            ({"dir": "b", "filter": '{"types":1}'}, "M_BAD_JSON"),
            ({"dir": "b", "filter": '{"types":["' + "x" * 40_000 + '"]}'}, "M_BAD_JSON"),
        ):
            self.assert_refused(self.get("alice", path, **query), 400, errcode)

    def test_sync_tokens_and_empty_ones(self) -> None:
        room_id = self.make_room()
        self.say("alice", room_id, "a")
        position = self.app.app.core.changes.position
        page = self.page("alice", room_id, limit=1, **{"from": f"s{position}_0_x"})
        self.assertEqual(["a"], self.bodies(page["chunk"]))
        self.assertEqual(["a"], self.bodies(self.page("alice", room_id, limit=1, **{"from": ""})["chunk"]))

    def test_one_statement_for_a_page_that_was_just_read(self) -> None:
        room_id = self.make_room(visibility="shared", joined=("bob",))
        for number in range(60):
            self.say("alice", room_id, str(number))
        with self.statements() as cold:
            first = self.page("bob", room_id, limit=50)
        self.assertLessEqual(len(cold), 7)
        with self.statements() as warm:
            again = self.page("bob", room_id, limit=50)
        # The order of the timeline; it also says that nothing relates to these events.
        self.assertEqual(1, len(warm), warm)
        self.assertEqual(first, again)


@on_each_database
class Visibility(TalkCase):
    """Who sees which part of a history."""

    def bodies_for(self, name: str, room_id: str) -> list[str]:
        return self.bodies(self.page(name, room_id, limit=100)["chunk"])[::-1]

    def test_strangers(self) -> None:
        for visibility in ("shared", "invited", "joined", "nonsense"):
            room_id = self.make_room(visibility=visibility)
            answer = self.get("bob", self.path(room_id, "messages"), dir="b")
            self.assert_refused(answer, 403, "M_FORBIDDEN")
        unknown = self.get("bob", self.path("!none:test.example", "messages"), dir="b")
        self.assert_refused(unknown, 403, "M_FORBIDDEN")

    def test_shared(self) -> None:
        room_id = self.make_room(visibility="shared")
        self.say("alice", room_id, "before")
        self.join("bob", room_id)
        self.assertEqual(["before"], self.bodies_for("bob", room_id))

    def test_joined(self) -> None:
        room_id = self.make_room(visibility="joined")
        self.say("alice", room_id, "before")
        joined = self.join("bob", room_id)
        self.say("alice", room_id, "after")
        self.assertEqual(["after"], self.bodies_for("bob", room_id))
        ids = [event["event_id"] for event in self.page("bob", room_id, limit=100)["chunk"]]
        self.assertIn(joined, ids)

    def test_invited(self) -> None:
        room_id = self.make_room(visibility="invited")
        self.say("alice", room_id, "before")
        self.set_state("alice", room_id, "m.room.member", {"membership": "invite"}, user("bob"))
        self.say("alice", room_id, "invited")
        invited = self.get("bob", self.path(room_id, "messages"), dir="b")
        self.assert_refused(invited, 403, "M_FORBIDDEN")
        self.join("bob", room_id)
        self.say("alice", room_id, "joined")
        self.assertEqual(["invited", "joined"], self.bodies_for("bob", room_id))

    def test_changes_of_visibility(self) -> None:
        room_id = self.make_room(visibility="joined")
        self.say("alice", room_id, "hidden")
        kind = "m.room.history_visibility"
        opened = self.set_state("alice", room_id, kind, {"history_visibility": "shared"})
        self.say("alice", room_id, "seen")
        closed = self.set_state("alice", room_id, kind, {"history_visibility": "joined"})
        self.say("alice", room_id, "hidden too")
        self.join("bob", room_id)
        self.assertEqual(["seen"], self.bodies_for("bob", room_id))
        chunk = self.page("bob", room_id, limit=100)["chunk"]
        self.assertTrue({opened, closed} <= {event["event_id"] for event in chunk})
        shown = {event["event_id"]: event["unsigned"] for event in chunk}
        # What was replaced is told, what it said only where it could be seen.
        self.assertIn("replaces_state", shown[opened])
        self.assertEqual({"history_visibility": "shared"}, shown[closed]["prev_content"])

    def test_hidden_previous_content(self) -> None:
        room_id = self.make_room(visibility="joined")
        first = self.set_state("alice", room_id, "m.room.topic", {"topic": "secret"})
        self.join("bob", room_id)
        second = self.set_state("alice", room_id, "m.room.topic", {"topic": "new"})
        event = self.ok("bob", self.path(room_id, "event", second))
        self.assertEqual(first, event["unsigned"]["replaces_state"])
        self.assertNotIn("prev_content", event["unsigned"])
        own = self.ok("alice", self.path(room_id, "event", second))
        self.assertEqual({"topic": "secret"}, own["unsigned"]["prev_content"])

    def test_world_readable(self) -> None:
        room_id = self.make_room(visibility="joined")
        self.say("alice", room_id, "hidden")
        self.set_state(
            "alice", room_id, "m.room.history_visibility", {"history_visibility": "world_readable"}
        )
        self.say("alice", room_id, "open")
        self.assertEqual(["open"], self.bodies_for("bob", room_id))

    def test_who_left_sees_up_to_then(self) -> None:
        room_id = self.make_room(visibility="shared", joined=("bob",))
        self.say("alice", room_id, "one")
        left = self.leave("bob", room_id)
        self.say("alice", room_id, "two")
        self.assertEqual(["one"], self.bodies_for("bob", room_id))
        newest = self.page("bob", room_id, limit=1)["chunk"][0]
        self.assertEqual(left, newest["event_id"])
        forwards = self.page("bob", room_id, dir="f", limit=100)
        self.assertEqual(["one"], self.bodies(forwards["chunk"]))
        self.assertNotIn("end", forwards)
        self.join("bob", room_id)
        self.assertEqual(["one", "two"], self.bodies_for("bob", room_id))

    def test_who_left_and_was_banned_or_invited_later(self) -> None:
        for membership in ("ban", "invite"):
            room_id = self.make_room(visibility="shared", joined=("bob",))
            self.say("alice", room_id, "one")
            self.leave("bob", room_id)
            self.say("alice", room_id, "two")
            self.set_state("alice", room_id, "m.room.member", {"membership": membership}, user("bob"))
            self.assertEqual(["one"], self.bodies_for("bob", room_id))

    def test_never_joined_and_gone(self) -> None:
        room_id = self.make_room(visibility="shared")
        self.set_state("alice", room_id, "m.room.member", {"membership": "invite"}, user("bob"))
        self.leave("bob", room_id)
        self.assert_refused(self.get("bob", self.path(room_id, "messages"), dir="b"), 403, "M_FORBIDDEN")

    def test_rejoined_under_joined(self) -> None:
        room_id = self.make_room(visibility="joined", joined=("bob",))
        self.say("alice", room_id, "one")
        self.leave("bob", room_id)
        self.say("alice", room_id, "two")
        self.join("bob", room_id)
        self.say("alice", room_id, "three")
        self.assertEqual(["one", "three"], self.bodies_for("bob", room_id))
        memberships = [
            event["unsigned"]["membership"] for event in self.page("bob", room_id, limit=4)["chunk"]
        ]
        self.assertEqual(["join", "join", "leave", "join"], memberships)

    def test_much_that_is_hidden_is_passed_in_steps(self) -> None:
        room_id = self.make_room(visibility="joined")
        self.say("alice", room_id, "first")
        for number in range(1_100):
            self.send("alice", room_id, {"msgtype": "m.text", "body": str(number)})
        self.join("bob", room_id)
        page = self.page("bob", room_id, limit=5)
        self.assertEqual(1, len(page["chunk"]))
        self.assertIn("end", page)
        last = self.page("bob", room_id, limit=5, **{"from": page["end"]})
        self.assertEqual("m.room.create", last["chunk"][-1]["type"])
        self.assertNotIn("end", self.page("bob", room_id, limit=5, **{"from": last["end"]}))
