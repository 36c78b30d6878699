"""What could not be stored, and what was built on it meanwhile: neither is stored then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from twisted.internet.defer import Deferred

from federation.event import Event, stored_bytes
from federation.flows.join import Held
from federation.verdict import Accept, Reject
from homeserver.db.errors import DatabaseUnavailable, IntegrityViolation
from homeserver.db.tx import Tx, WriteTx
from homeserver.rooms.actor import RoomActor
from homeserver.rooms.arrivals import Arrival, Arrived, Missing, arrive
from homeserver.rooms.committer import Committer
from homeserver.rooms.federated import lots
from homeserver.rooms.turn import Turn
from homeserver.store.check import check_db
from homeserver.store.ids import LEASE_SIZE, Interner, Nids, lease_nids
from tests.api.test_arrivals import ArrivalCase
from tests.support.accounts import now
from tests.support.databases import on_each_database


class _Lot:
    """Of a lot, what it takes to store it."""

    def __init__(self, events: Sequence[Event]) -> None:
        self._held = [_held(one) for one in events]
        self.size = len(events)

    def __len__(self) -> int:
        return self.size

    def held(self, start: int, count: int) -> list[Held]:
        return self._held[start : start + count]


def _held(event: Event) -> Held:
    ids = tuple(event.prev_event_ids), tuple(event.auth_event_ids)
    text, membership = stored_bytes(event), event.content.get("membership", "")
    return Held(
        event.event_id, event.key(), event.sender, event.depth, event.origin_server_ts, *ids, text, membership
    )


def _nothing(_: WriteTx) -> None:
    """A unit of work with which names are stored."""


def _insert(tx: Tx, names: Sequence[Any]) -> None:
    for rows, values in names:
        tx.insert(rows, values)


class UndoneCase(ArrivalCase):
    """A room, and a database that can be held up."""

    def setUp(self) -> None:
        super().setUp()
        self.room = self.make_room("11")

    @property
    def actor(self) -> RoomActor:
        actor = self.app.app.core.rooms.known(self.room.room_id)
        assert actor is not None
        return actor

    def hold(self) -> Deferred[Any]:
        """What the next transaction comes to; nothing of it is done."""
        database, held = self.app.database, Deferred[Any]()
        write = database.write

        def write_nothing(*_: Any, **__: Any) -> Deferred[Any]:
            database.write = write  # type: ignore[method-assign]
            return held

        database.write = write_nothing  # type: ignore[method-assign]
        return held

    def begin(self, *events: Event) -> Deferred[list[Arrived]]:
        """Have events take their places, and what comes of it begin to be written."""
        placing = self.actor.run(lambda turn: arrive(turn, [Arrival(one) for one in events]))
        self.app.advance(0)
        return placing

    def refused(self, waiting: Deferred[Any]) -> None:
        """It is told that the database cannot be had."""
        with self.assertRaises(DatabaseUnavailable):
            self.app.wait(waiting)


@on_each_database
class Undone(UndoneCase):
    """Jobs of one room. That nothing points at what is not there, ``check_db`` says at the end."""

    def test_what_was_said_of_it_is_asked_again(self) -> None:
        held, gate = self.hold(), Deferred[None]()
        event = self.room.say("never stored")
        first = self.begin(event)
        seen: list[bool] = []

        async def look(turn: Turn) -> bool:
            seen.append(event.event_id in turn.flying)
            if len(seen) == 1:
                await gate
            return seen[-1]

        second = self.actor.run(look)
        held.errback(DatabaseUnavailable("gone"))
        gate.callback(None)
        self.assertFalse(self.app.wait(second), "it says what the database has")
        self.assertEqual(seen, [True, False])
        self.refused(first)

    def test_what_leaves_the_head_alone_rests_on_the_state_before_it(self) -> None:
        eve = self.peer.user("eve")
        self.place(self.room, self.room.join(eve))
        held = self.hold()
        ban = self.room.add("m.room.member", {"membership": "ban"}, state_key=eve)
        first = self.begin(ban)
        said = self.room.say("rejected", sender=eve)
        second = self.begin(said)
        held.errback(DatabaseUnavailable("gone"))
        self.assertEqual([Missing((ban.event_id,), (ban.event_id,))], self.app.wait(second))
        self.refused(first)
        self.assertEqual([Accept, Reject], [self.verdict(one) for one in self.place(self.room, ban, said)])

    def test_what_was_at_work_when_it_came_back(self) -> None:
        held, gate = self.hold(), Deferred[None]()
        topic = self.room.add("m.room.topic", {"topic": "never stored"}, state_key="")
        first = self.begin(topic)
        attempts: list[int] = []
        said = self.room.say("rejected", sender=self.peer.user("eve"))

        async def place(turn: Turn) -> list[Arrived]:
            attempts.append(turn.attempt)
            arrived = await arrive(turn, [Arrival(said)])
            if len(attempts) == 1:
                await gate
            return arrived

        second = self.actor.run(place)
        held.errback(DatabaseUnavailable("gone"))
        gate.callback(None)
        self.assertEqual([Missing((topic.event_id,), ())], self.app.wait(second))
        self.assertEqual([0, 1], attempts)
        self.refused(first)

    def test_one_by_one(self) -> None:
        """Of a batch that is written again item by item, the second rests on the first, which is at fault."""
        attempts: list[tuple[str, int]] = []
        written: list[str] = []

        def job(name: str) -> Any:
            async def run(turn: Turn) -> None:
                attempts.append((name, turn.attempt))
                attempt = turn.attempt

                def write(_: WriteTx) -> None:
                    written.append(name)
                    if name == "first" and not attempt:
                        raise IntegrityViolation("on purpose")

                turn.extra.append(write)

            return run

        both = [self.actor.run(job(name)) for name in ("first", "second")]
        for one in both:
            self.app.wait(one)
        self.assertEqual([("first", 0), ("second", 0), ("first", 1), ("second", 1)], attempts)
        # Together, then the one at fault alone, and then both of the second try.
        self.assertEqual(["first", "first", "first", "second"], written)


@on_each_database
class Renumbered(UndoneCase):
    def test_what_was_at_work_when_a_name_of_its_was_another_process_s(self) -> None:
        user_id, core = self.peer.user("new"), self.app.app.core
        joined = self.room.join(user_id)
        gate, attempts = Deferred[None](), list[int]()

        async def place(turn: Turn) -> list[Arrived]:
            attempts.append(turn.attempt)
            arrived = await arrive(turn, [Arrival(joined)])
            if len(attempts) == 1:
                await gate
            return arrived

        placing = self.actor.run(place)
        ours = core.rooms.tools.interner.known_user(user_id)
        nids = Nids()
        nids.add(now(self.app.database.write(lease_nids, LEASE_SIZE)))
        other = Interner(self.app.database, nids)
        theirs = now(other.user(user_id))
        now(self.app.database.write(_insert, other.unsaved()))
        self.refused(core.committer.work(_nothing))
        gate.callback(None)
        self.assertEqual([Accept], [self.verdict(one) for one in self.app.wait(placing)])
        self.assertEqual([0, 1], attempts)
        self.assertEqual(theirs, core.rooms.tools.interner.known_user(user_id))
        self.assertNotEqual(theirs, ours)


@on_each_database
class UndoneLots(UndoneCase):
    """Events of a join that come in chunks, of which each rests on those before."""

    def setUp(self) -> None:
        super().setUp()
        dave = self.peer.user("dave")
        known = [self.room.events[one] for one in self.room.state.values()]
        joined = self.room.join(dave)
        left = self.room.add("m.room.member", {"membership": "leave"}, sender=dave, state_key=dave)
        self.assertIn(joined.event_id, left.auth_event_ids)
        known.sort(key=lambda one: one.depth)
        self.lot: Any = _Lot([*known, joined, left])
        self.patch(lots, "AT_ONCE", len(known) + 1)

    async def run_later(self, function: Any, *args: Any) -> Any:
        """Before the next chunk is prepared the one before it begins to be written."""
        self.app.advance(0)
        return function(*args)

    def store(self) -> Deferred[None]:
        return Deferred.fromCoroutine(lots.store_lot(self.actor, self.lot, cast(Any, self.run_later)))

    def undo(self) -> None:
        held = self.hold()
        storing = self.store()
        self.app.advance(0)
        held.errback(DatabaseUnavailable("gone"))
        self.refused(storing)
        self.app.advance(0)
        self.assertEqual([], self.app.wait(self.app.database.read(check_db)))

    def test_a_chunk_that_was_to_be_written_next(self) -> None:
        self.undo()
        self.app.wait(self.store())

    def test_a_chunk_that_was_to_be_placed_next(self) -> None:
        self.patch(Committer, "congested", property(lambda _: True))
        self.undo()
        self.app.wait(self.store())
