"""Connections of sliding sync: those that were begun anew, and how much one keeps. proposal: MSC4186 (connections)"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from homeserver.db.schema.sync import sliding_connections
from homeserver.db.statements import statement
from homeserver.db.tx import WriteTx
from homeserver.store.sliding import sweep_connections
from homeserver.sync.sliding import lists, plan
from tests.api.test_sliding_sync import SlidingCase, one_list
from tests.support.databases import DatabaseCase, on_each_database
from tests.support.sync import SyncApp

_STATES = statement(select(sliding_connections.c.state))


def _sizes(tx: WriteTx) -> list[int]:
    return [len(state) for (state,) in tx.all(_STATES)]


def _wishes(number: int) -> list[list[str]]:
    """The topic, and what no room has."""
    return [["m.room.topic", ""], *([f"org.example.{number}.{one}.{'x' * 200}", ""] for one in range(20))]


class _Case(DatabaseCase, SlidingCase):
    def setUp(self) -> None:
        self.app = SyncApp(self, database=self.new_database())
        self.alice = self.app.register("alice")
        self.bob = self.app.register("bob")


@on_each_database
class EndedTests(_Case):
    def test_who_still_waits_does_not_bring_it_back(self) -> None:
        self.room()
        waiting = self.poll(one_list(), self.ask(one_list())["pos"])
        pos = self.ask(one_list())["pos"]
        other = self.room("other")
        found = self.app.wait(waiting)
        self.assertEqual((400, "M_UNKNOWN_POS"), (found.status, found.json.get("errcode")))
        self.app.restart()
        self.assertEqual([other], list(self.ask(one_list(), pos)["rooms"]))

    def test_nor_one_that_was_forgotten(self) -> None:
        self.room()
        waiting = self.poll(one_list(), self.ask(one_list())["pos"])
        self.app.wait(self.app.app.core.committer.work(sweep_connections, 2**60, 100))
        self.room("other")
        found = self.app.wait(waiting)
        self.assertEqual((400, "M_UNKNOWN_POS"), (found.status, found.json.get("errcode")))
        self.assertEqual([], self.app.wait(self.app.app.core.committer.work(_sizes)))


@on_each_database
class WishesTests(_Case):
    def subscribe(self, wishes: dict[str, int], pos: str | None = None) -> tuple[int, Any]:
        subscriptions = {
            room_id: {"timeline_limit": 1, "required_state": _wishes(number)}
            for room_id, number in wishes.items()
        }
        return self.refused({"room_subscriptions": subscriptions}, pos)

    def test_rooms_that_are_seen_one_after_the_other(self) -> None:
        """What they wished adds up; when it is forgotten, they tell all that is wanted of them once more."""
        self.patch(plan, "WISHES_MOST", 40_000)
        rooms = [self.room(f"r{number}", m__room__topic={"topic": "x"}) for number in range(12)]
        pos: str | None = None
        for turn in range(2):
            for number, room_id in enumerate(rooms):
                wishes = {"timeline_limit": 1, "required_state": _wishes(number)}
                answer = self.ask({"room_subscriptions": {room_id: wishes}}, pos)
                pos = answer["pos"]
                room = answer["rooms"][room_id]
                self.assertEqual(not turn, room.get("initial", False))
                self.assertEqual(["m.room.topic"], [event["type"] for event in room["required_state"]])
                self.assertLess(max(self.app.wait(self.app.app.core.committer.work(_sizes))), 40_000)
        self.app.restart()
        # What is in sight is not forgotten.
        wishes = {"timeline_limit": 1, "required_state": _wishes(len(rooms) - 1)}
        self.assertEqual({}, self.ask({"room_subscriptions": {rooms[-1]: wishes}}, pos)["rooms"])

    def test_so_many_at_once(self) -> None:
        self.patch(lists, "WISHES_MOST", 40_000)
        rooms = [self.room(f"r{number}") for number in range(6)]
        self.assertEqual((200, None), self.subscribe(dict.fromkeys(rooms, 1)))
        different = {room_id: number for number, room_id in enumerate(rooms)}
        self.assertEqual((400, "M_INVALID_PARAM"), self.subscribe(different))
        # Each room is in other lists: what little each of them wants adds up differently everywhere.
        asked = {
            f"{number}": {"ranges": [[number, number + 2]], "required_state": _wishes(number)}
            for number in range(6)
        }
        self.assertEqual((400, "M_INVALID_PARAM"), self.refused({"lists": asked}))

    def test_what_is_longer_than_any_name(self) -> None:
        self.room()
        long, short = "ü" * 128, "ü" * 127 + "x"
        for name, code in ((long, (400, "M_INVALID_PARAM")), (short, (200, None))):
            for required in (
                [[name, ""]],
                [["m.room.name", name]],
                {"include": [{"type": name}]},
                {"exclude": [{"state_key": name}]},
            ):
                self.assertEqual(code, self.refused(one_list(required_state=required)), required)
            profiles = {"org.matrix.msc4262.profiles": {"enabled": True, "fields": [name]}}
            self.assertEqual(code, self.refused({**one_list(), "extensions": profiles}))
