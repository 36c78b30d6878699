"""How the events of a verified answer are stored. spec: server-server-api#put_matrixfederationv2send_joinroomideventid"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from sqlalchemy import bindparam, update

from federation.event import Event
from federation.flows.join import Lot
from homeserver.db.errors import DatabaseUnavailable
from homeserver.db.schema.rooms import events
from homeserver.db.statements import statement
from homeserver.db.tx import Tx
from homeserver.rooms.arrivals import Arrived, store_outliers
from homeserver.rooms.federated import lots
from homeserver.rooms.turn import Turn
from homeserver.store import room_answers
from homeserver.store.outliers import OutlierRows, find_here, write_outliers
from tests.federation.people import VERSIONS, A, B, C, NetCase
from tests.support.databases import on_each_database

BOB, CAROL = f"@bob:{B}", f"@carol:{C}"
_REJECT = statement(
    update(events).where(events.c.event_id == bindparam("of_id")).values(rejected_reason="for a test")
)


@on_each_database
class Lots(NetCase):
    """carol of c joins a room of a with some members, of which two are stored at a time."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(lots, "AT_ONCE", 2)
        self.c = self.server(C)
        self.carol = self.c.register("carol")
        self.slowly = 0

        async def count(turn: Turn, few: Sequence[Event]) -> list[Arrived]:
            self.slowly += 1
            return await store_outliers(turn, few)

        self.patch(lots, "store_outliers", count)

    def make(self, version: str = "12") -> str:
        """A room with alice, bob, and three of a who come and go."""
        room_id = self.create(self.a, self.alice, preset="public_chat", name="Room", room_version=version)
        self.assertEqual(200, self.join(self.b, self.bob, room_id, A).status)
        for name in ("x", "y", "z"):
            user = self.a.register(f"{name}{len(self.net.requests)}")
            self.ok(self.a, user, "POST", f"/join/{quote(room_id)}", {})
        self.net.settle()
        return room_id

    def enter(self, room_id: str) -> None:
        self.assertEqual(200, self.join(self.c, self.carol, room_id, A).status)
        self.net.advance(5)

    def leave(self, room_id: str) -> None:
        self.ok(self.c, self.carol, "POST", f"/rooms/{quote(room_id)}/leave", {})
        self.net.advance(5)

    def member(self, room_id: str, user_id: str) -> str:
        """The event that says what somebody is there, by a."""
        event_id: str = self.state(self.a, self.alice, room_id)["m.room.member", user_id]
        return event_id

    def test_what_is_new_is_written_at_once(self) -> None:
        for version in VERSIONS:
            room_id = self.make(version)
            self.enter(room_id)
            self.assert_same_state(room_id, (self.a, self.alice), (self.c, self.carol))
        self.assertEqual(0, self.slowly)

    def test_members_that_come_later(self) -> None:
        self.patch(room_answers, "FEW_MEMBERS", 0)
        room_id = self.make()
        self.enter(room_id)
        self.assert_same_state(room_id, (self.a, self.alice), (self.c, self.carol))
        self.assertEqual(0, self.slowly)

    def test_what_is_rejected_before_the_room_is_complete(self) -> None:
        self.patch(room_answers, "FEW_MEMBERS", 0)
        room_id = self.make("10")
        event_id = self.member(room_id, BOB)
        finish = lots.Storing.finish

        async def reject(storing: lots.Storing, lot: Lot) -> None:
            await finish(storing, lot)
            await self.c.database.write(_reject, event_id)

        self.patch(lots.Storing, "finish", reject)
        self.enter(room_id)
        known = self.state(self.c, self.carol, room_id)
        self.assertNotIn(("m.room.member", BOB), known)
        self.assertEqual(
            {**self.state(self.a, self.alice, room_id)}, {**known, ("m.room.member", BOB): event_id}
        )

    def test_what_is_here_is_left_alone(self) -> None:
        room_id = self.make()
        self.enter(room_id)
        self.leave(room_id)
        self.enter(room_id)
        self.assert_same_state(room_id, (self.a, self.alice), (self.c, self.carol))
        self.assertEqual(0, self.slowly)

    def test_what_was_rejected_here_stays_so_with_what_rests_on_it(self) -> None:
        room_id = self.make("10")
        self.enter(room_id)
        first = self.member(room_id, BOB)
        self.leave(room_id)
        self.c.wait(self.c.database.write(_reject, first))
        path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(BOB)}"
        self.ok(self.b, self.bob, "PUT", path, {"membership": "join", "displayname": "Bobby"})
        self.net.advance(5)
        second = self.member(room_id, BOB)
        self.assertNotEqual(first, second)
        self.c.restart()  # nothing of it is in memory
        self.enter(room_id)
        self.assertLess(0, self.slowly)
        here, _ = self.c.wait(self.c.database.read(find_here, [first, second]))
        self.assertEqual([True, True], [here[one].is_rejected for one in (first, second)])
        self.assertNotIn(("m.room.member", BOB), self.state(self.c, self.carol, room_id))

    def test_a_commit_that_fails_on_the_way(self) -> None:
        room_id = self.make()
        written: list[int] = []
        broken = [True]

        def fail(tx: Tx, new: OutlierRows) -> None:
            written.append(len(new.events))
            if broken and len(written) > 1:
                raise DatabaseUnavailable("gone")
            write_outliers(tx, new)

        self.patch(lots, "write_outliers", fail)
        self.assertEqual(503, self.join(self.c, self.carol, room_id, A).status)
        broken.clear()
        self.c.log.entries.clear()
        self.enter(room_id)
        self.assert_same_state(room_id, (self.a, self.alice), (self.c, self.carol))


def _reject(tx: Tx, event_id: str) -> None:
    tx.run(_REJECT, of_id=event_id)
