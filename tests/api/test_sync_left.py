"""Classic sync over the API: what is told of rooms to who left them, and became something else there afterwards.

spec: client-server-api#get_matrixclientv3sync, #room-history-visibility
"""

from __future__ import annotations

from typing import Any

from tests.api.test_sync import bodies, state_of
from tests.support.counting import count
from tests.support.databases import DatabaseCase, on_each_database
from tests.support.sync import SyncApp, user_id

# By room: what becomes of bob long after he was kicked.
LATER: dict[str, tuple[tuple[str, str], ...]] = {
    "!banned:test.example": (("alice", "ban"),),
    "!knocked:test.example": (("bob", "knock"), ("bob", "leave")),
    "!declined:test.example": (("alice", "invite"), ("bob", "leave")),
}


def go_on(app: SyncApp, room_id: str, steps: tuple[tuple[str, str], ...]) -> None:
    """Bob is kicked, the room goes on without him, and then he becomes something else there."""
    app.say(room_id, "alice", "before")
    app.member(room_id, "alice", "leave", "bob")
    app.place(room_id, "alice", "m.room.name", {"name": "falcon"}, "")
    app.place(room_id, "alice", "m.room.topic", {"topic": "falcon"}, "")
    app.member(room_id, "alice", "invite", "carol")
    for number in range(60):
        app.say(room_id, "alice", f"after {number}")
    for sender, membership in steps:
        app.member(room_id, sender, membership, "bob")


@on_each_database
class LeftTests(DatabaseCase):
    def setUp(self) -> None:
        self.app = SyncApp(self, database=self.new_database())
        self.alice = self.app.register("alice")
        self.bob = self.app.register("bob")
        for room_id in LATER:
            self.app.make_room("alice", room_id, m__room__name={"name": "den"})
            self.app.place(room_id, "alice", "m.room.join_rules", {"join_rule": "knock"}, "")
            self.app.member(room_id, "alice", "invite", "bob")
            self.app.member(room_id, "bob", "join")
        self.since = self.app.sync(self.bob)["next_batch"]
        for room_id, steps in LATER.items():
            go_on(self.app, room_id, steps)

    def check(self, answer: Any, limit: int, *, section: str = "state", full: bool = True) -> None:
        """It ends where bob was kicked, but for what he is now."""
        for room_id, steps in LATER.items():
            room = answer["rooms"]["leave"][room_id]
            told = state_of(room, section)
            self.assertEqual({"name": "den"} if full else None, told.get(("m.room.name", "")), room_id)
            self.assertNotIn(("m.room.topic", ""), told, room_id)
            self.assertNotIn(("m.room.member", user_id("carol")), told, room_id)
            seen = ["before", "m.room.member"] if limit else []
            self.assertEqual([*seen, "m.room.member"], bodies(room), room_id)
            newest = room["timeline"]["events"][-1]["content"]["membership"]
            self.assertEqual(steps[-1][1], newest, room_id)

    def test_the_state_is_that_of_when_they_left(self) -> None:
        for limit in (0, 2):
            wanted = {"include_leave": True, "timeline": {"limit": limit}}
            self.check(self.app.sync(self.bob, filter={"room": wanted}), limit)

    def test_the_same_since_a_token(self) -> None:
        for limit in (0, 2):
            wanted = {"room": {"timeline": {"limit": limit}}}
            self.check(self.app.sync(self.bob, self.since, filter=wanted), limit, full=False)
            self.check(self.app.sync(self.bob, self.since, filter=wanted, full_state=True), limit)
            after = self.app.sync(self.bob, self.since, filter=wanted, full_state=True, use_state_after=True)
            self.check(after, limit, section="state_after")

    def test_what_came_afterwards_is_filtered_like_what_they_saw(self) -> None:
        for wanted in ({"not_rooms": list(LATER)}, {"types": ["m.room.message"]}):
            rooms = self.app.sync(self.bob, self.since, filter={"room": {"timeline": wanted}})["rooms"]
            self.assertEqual(set(LATER), set(rooms["leave"]))
            for room in rooms["leave"].values():
                types = {event["type"] for event in room["timeline"]["events"]}
                self.assertEqual(set(wanted.get("types", ())), types)

    def test_as_many_statements_for_many_rooms(self) -> None:
        """Where each of them was left does not matter to that."""
        wanted = {"room": {"include_leave": True, "timeline": {"limit": 2}}}
        counts = []
        for number in range(8):
            room_id = self.app.make_room("alice", f"!more{number}:test.example")
            self.app.member(room_id, "bob", "join")
            self.app.member(room_id, "alice", "leave", "bob")
            self.app.member(room_id, "alice", "ban", "bob")
            if number in (1, 7):
                self.app.sync(self.bob, filter=wanted)  # the numbers of names, once
                counted = count(self.app, lambda: self.app.sync(self.bob, filter=wanted))
                counts.append(len(counted.statements))
        self.assertEqual(counts[0], counts[1])
