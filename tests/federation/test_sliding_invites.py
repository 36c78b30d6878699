"""Sliding sync of rooms that this server is not in: invites, how filters see them, and how they end."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from tests.federation.people import B, NetCase
from tests.support.databases import on_each_database

BOB = f"@bob:{B}"
SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"


@on_each_database
class RemoteInvites(NetCase):
    """alice of a invites bob of b, who uses sliding sync."""

    def invite(self, room_id: str) -> None:
        path = f"/rooms/{quote(room_id)}/invite"
        self.assertEqual(200, self.call(self.a, self.alice, "POST", path, {"user_id": BOB}).status)

    def ask(self, pos: str | None = None, **filters: Any) -> Any:
        lists = {
            "all": {
                "ranges": [[0, 9]],
                "timeline_limit": 5,
                "required_state": [["*", "*"]],
                "filters": filters,
            }
        }
        query = {} if pos is None else {"pos": pos}
        return self.b.ok("POST", SLIDING, {"lists": lists}, self.bob, query)

    def test_invites_pass_filters_for_what_was_told_of_the_rooms(self) -> None:
        plain = self.create(self.a, self.alice, name="Plain")
        encryption = {
            "type": "m.room.encryption",
            "state_key": "",
            "content": {"algorithm": "m.megolm.v1.aes-sha2"},
        }
        secret = self.create(self.a, self.alice, name="Secret", initial_state=[encryption])
        space = self.create(self.a, self.alice, name="Space", creation_content={"type": "m.space"})
        for room_id in (plain, secret, space):
            self.invite(room_id)
        cases: tuple[tuple[dict[str, Any], set[str]], ...] = (
            ({}, {plain, secret, space}),
            ({"is_encrypted": True}, {secret}),
            ({"room_types": ["m.space"]}, {space}),
            ({"not_room_types": ["m.space"]}, {plain, secret}),
            ({"room_name_like": "plai"}, {plain}),
            ({"is_invite": False}, set()),
        )
        for filters, rooms in cases:
            self.assertEqual(rooms, set(self.ask(**filters)["rooms"]), filters)
            self.b.restart()

    def test_history_that_is_fetched_is_no_activity(self) -> None:
        """Nor is its place a stamp: below all that is here places are negative, and clients know no such stamps."""
        room_id = self.create(self.a, self.alice, preset="public_chat")
        for number in range(3):
            self.say(self.a, self.alice, room_id, str(number))
        self.assertEqual(200, self.join(self.b, self.bob, room_id, "a.example").status)
        before = self.ask()["rooms"][room_id]["bump_stamp"]
        self.assertGreater(before, 0)
        query = {"dir": "b", "limit": "50"}
        path = f"/rooms/{quote(room_id)}/messages"
        read = self.ok(self.b, self.bob, "GET", path, query=query)["chunk"]
        self.assertIn("2", [one["content"].get("body") for one in read])
        self.b.restart()
        self.assertEqual(before, self.ask()["rooms"][room_id]["bump_stamp"])
        self.say(self.b, self.bob, room_id, "news")
        self.assertGreater(self.ask()["rooms"][room_id]["bump_stamp"], before)

    def test_an_invite_that_is_refused_and_one_that_is_taken(self) -> None:
        refused = self.create(self.a, self.alice, name="Refused")
        taken = self.create(self.a, self.alice, name="Taken")
        self.invite(refused)
        self.invite(taken)
        answer = self.ask()
        for room in answer["rooms"].values():
            self.assertEqual("invite", room["membership"])
            self.assertIn(BOB, [one["state_key"] for one in room["invite_state"]])
        self.assertEqual({}, self.ask(answer["pos"])["rooms"])
        leave = self.call(self.b, self.bob, "POST", f"/rooms/{quote(refused)}/leave", {})
        self.assertEqual(200, leave.status)
        self.assertEqual(200, self.join(self.b, self.bob, taken).status)
        answer = self.ask(answer["pos"])
        self.assertEqual({refused, taken}, set(answer["rooms"]))
        gone, there = answer["rooms"][refused], answer["rooms"][taken]
        self.assertEqual("leave", gone["membership"])
        self.assertEqual(["leave"], [one["content"]["membership"] for one in gone["required_state"]])
        self.assertEqual(("join", True, "Taken"), (there["membership"], there["initial"], there["name"]))
        self.assertEqual({}, self.ask(answer["pos"])["rooms"])
