"""Sliding sync: filters look at no more of a room than the user may know. proposal: MSC4186 (filters)"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from homeserver.sync.sliding import lists
from tests.api.test_sliding_sync import SlidingCase, one_list
from tests.support.databases import DatabaseCase, on_each_database
from tests.support.sync import SyncApp, room_path

ENCRYPTED = {"algorithm": "m.megolm.v1.aes-sha2"}


class _Case(DatabaseCase, SlidingCase):
    def setUp(self) -> None:
        self.app = SyncApp(self, database=self.new_database())
        self.alice = self.app.register("alice")
        self.bob = self.app.register("bob")

    def found(self, pos: str | None = None, **filters: Any) -> set[str]:
        """The rooms that pass filters, on a connection that knows nothing."""
        answer = self.ask({"conn_id": "search", **one_list(filters=filters)}, pos)
        self.assertEqual(answer["lists"]["all"]["count"], len(answer["rooms"]), filters)
        return set(answer["rooms"])


@on_each_database
class InsiderTests(_Case):
    """What rooms are to who is in them."""

    def space(self, child: str) -> tuple[str, str]:
        """A space with one room in it, and the event that says so."""
        creation = {"creation_content": {"type": "m.space"}, "preset": "public_chat"}
        space = self.app.ok("POST", "/_matrix/client/v3/createRoom", creation, self.alice)["room_id"]
        self.app.member(space, "bob", "join")
        return space, self.app.place(space, "alice", "m.space.child", {"via": ["test.example"]}, child)

    def test_what_is_redacted(self) -> None:
        room_id = self.room("named")
        name = self.app.place(room_id, "alice", "m.room.name", {"name": "den"}, "")
        space, child = self.space(room_id)
        self.assertEqual({room_id}, self.found(room_name_like="den"))
        self.assertEqual({room_id}, self.found(spaces=[space]))
        self.app.redact(room_id, "alice", name)
        self.app.redact(space, "alice", child)
        for _ in range(2):
            self.assertEqual(set(), self.found(room_name_like="den"))
            self.assertEqual(set(), self.found(spaces=[space]))
            self.app.restart()

    def test_a_space_that_nothing_is_called(self) -> None:
        room_id = self.room("child")
        space, _ = self.space(room_id)
        self.assertEqual(set(), self.found(spaces=["!a\0b:test.example"]))
        self.assertEqual({room_id}, self.found(spaces=["\0", space]))

    def test_lists_with_one_filter_go_through_the_rooms_once(self) -> None:
        rooms = [self.room(f"r{number}") for number in range(4)]
        seen: list[list[int]] = []

        def pick(ordered: list[int], ranges: Iterable[tuple[int, int]]) -> list[int]:
            seen.append(ordered)
            return really(ordered, ranges)

        really = lists._pick
        self.patch(lists, "_pick", pick)
        asked = {
            f"{number}": {
                "ranges": [[2, 9], [number, number]],
                "timeline_limit": 1,
                "filters": {"is_encrypted": False},
            }
            for number in range(2)
        }
        found = self.ask({"lists": asked})["rooms"]
        self.assertEqual({rooms[3]: ["0"], rooms[2]: ["1"]}, {one: found[one]["lists"] for one in rooms[2:]})
        self.assertEqual([["0", "1"]] * 2, [found[one]["lists"] for one in rooms[:2]])
        self.assertIs(seen[0], seen[1])


@on_each_database
class OutsiderTests(_Case):
    """What the room becomes without them is not theirs to find out."""

    def change(self, *rooms: str) -> None:
        """They get another name, and are encrypted."""
        for room_id in rooms:
            self.app.place(room_id, "alice", "m.room.name", {"name": "project falcon"}, "")
            self.app.place(room_id, "alice", "m.room.encryption", ENCRYPTED, "")

    def check(self, *rooms: str) -> None:
        """They are to bob what they were."""
        for _ in range(2):
            self.assertEqual(set(rooms), self.found(room_name_like="den"))
            self.assertEqual(set(), self.found(room_name_like="p"))
            self.assertEqual(set(), self.found(is_encrypted=True))
            self.assertEqual(set(rooms), self.found(is_encrypted=False))
            self.app.restart()

    def test_who_was_kicked_or_banned(self) -> None:
        rooms = [self.room(name, m__room__name={"name": "den"}) for name in ("kicked", "banned", "later")]
        self.assertEqual(set(rooms), self.found(room_name_like="den"))  # the facts are in memory
        for room_id, membership in zip(rooms, ("leave", "ban", "leave"), strict=True):
            self.app.member(room_id, "alice", membership, "bob")
        self.change(*rooms)
        self.app.member(rooms[2], "alice", "ban", "bob")
        self.check(*rooms)
        # Others in the room, and he once he is back, know it as it is.
        self.app.member(rooms[0], "bob", "join")
        self.assertEqual({rooms[0]}, self.found(room_name_like="falcon"))
        self.assertEqual({rooms[0]}, self.found(is_encrypted=True))

    def test_who_was_invited_or_knocked(self) -> None:
        rooms = [
            self.room(name, join=False, m__room__name={"name": "den"}) for name in ("invited", "knocked")
        ]
        self.app.member(rooms[0], "alice", "invite", "bob")
        self.app.place(rooms[1], "alice", "m.room.join_rules", {"join_rule": "knock"}, "")
        self.app.member(rooms[1], "bob", "knock")
        self.change(*rooms)
        self.check(*rooms)
        # A new invite tells what the room is by then.
        self.app.member(rooms[1], "alice", "invite", "bob")
        self.assertEqual({rooms[1]}, self.found(room_name_like="falcon"))

    def test_a_list_that_shows_a_room_tells_that_it_is_over(self) -> None:
        kicked = self.room("kicked", m__room__name={"name": "den"}, m__room__encryption=ENCRYPTED)
        forgotten = self.room("forgotten", m__room__name={"name": "den"}, m__room__encryption=ENCRYPTED)
        declined = self.room("declined", join=False, m__room__name={"name": "den"})
        self.app.place(declined, "alice", "m.room.encryption", ENCRYPTED, "")
        self.app.member(declined, "alice", "invite", "bob")
        body = one_list(filters={"is_encrypted": True, "room_name_like": "den"})
        shown = self.ask(body)
        self.assertEqual({kicked, forgotten, declined}, set(shown["rooms"]))
        for room_id in (kicked, forgotten):
            self.app.member(room_id, "alice", "leave", "bob")
        self.app.ok("POST", f"{room_path(forgotten)}/forget", {}, self.bob)
        self.app.member(declined, "bob", "leave")
        self.change(kicked, forgotten, declined)
        over = self.ask(body, shown["pos"])["rooms"]
        self.assertEqual(
            dict.fromkeys((kicked, forgotten, declined), "leave"),
            {room_id: room["membership"] for room_id, room in over.items()},
        )

    def test_kinds_of_rooms(self) -> None:
        """A list of spaces tells who was put out of one, and no other list does."""
        creation = {"creation_content": {"type": "m.space"}, "preset": "public_chat"}
        space = self.app.ok("POST", "/_matrix/client/v3/createRoom", creation, self.alice)["room_id"]
        self.app.member(space, "bob", "join")
        self.app.member(space, "alice", "ban", "bob")
        self.assertEqual({space}, self.found(room_types=["m.space"]))
        self.assertEqual(set(), self.found(not_room_types=["m.space"]))

    def test_a_wait_costs_no_statement(self) -> None:
        """What was told is remembered: nothing is read again to hold it against filters."""
        self.app.member(self.room("kicked"), "alice", "leave", "bob")
        self.app.member(self.room("invited", join=False), "alice", "invite", "bob")
        body = one_list(filters={"is_encrypted": False})
        pos = self.ask(body, self.ask(body)["pos"])["pos"]
        statements: list[str] = []
        self.app.engine.hook = statements.append
        self.assertEqual({}, self.ask(body, pos)["rooms"])
        self.app.engine.hook = None
        self.assertEqual([], [one for one in statements if "state" in one or "snapshots" in one])
