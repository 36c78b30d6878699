"""Storing the events of an answer that hold: as outliers of its room, in chunks, each in a turn of its actor.

That may begin while the rest of the answer is verified (``Storing.keep``).

What a lot says of its events was judged already: each by its own auth events, which are of the lot themselves. That
stands where the events that it was judged by are stored as they were judged (``_Chunks.trusted``); then nothing is
judged a second time, and the rows are written at once. A chunk of which anything is here in another form, or rejected,
goes the way of all events (``arrivals.store_outliers``), and is checked anew by what is stored.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from federation.event import parse_stored
from federation.flows.join import Held, Lot
from federation.ids import EventId
from federation.verdict import Accept
from homeserver.db.errors import DatabaseUnavailable
from homeserver.rooms.actor import RoomActor
from homeserver.rooms.arrivals import AlreadyHere, Placed, store_outliers
from homeserver.rooms.federated.join_checks import RunInThread
from homeserver.rooms.turn import Turn
from homeserver.store.outliers import Here, OutlierRows, find_here, write_outliers

# Few commits for a large room, and none that others wait for long.
AT_ONCE = 1_024


class Stored(NamedTuple):
    """An event that is stored with the text by which others of its lot were judged."""

    nid: int
    rank: int
    key_nid: int
    membership: str  # see Held


Tell = Callable[[int, int], Awaitable[None]]
"""Hears how many events of the lot are stored or on their way, and how many there are at most."""


async def store_lot(actor: RoomActor, lot: Lot, run_in_thread: RunInThread) -> None:
    """Store the events of a lot that hold."""
    storing = Storing(actor, run_in_thread)
    try:
        await storing.finish(lot)
    finally:
        storing.abandon()


class Storing:
    """The events of one lot on their way to the disk. While a chunk is written the next is prepared.

    ``stored``: what ``finish`` leaves on the disk as the lot has it, so that it need not be read again. Whoever makes one MUST call ``abandon`` in the end, however it ends.
    """

    def __init__(self, actor: RoomActor, run_in_thread: RunInThread, tell: Tell | None = None) -> None:
        self._actor = actor
        self._run = run_in_thread
        self._tell = tell
        self._chunks = _Chunks()
        self.stored = self._chunks.trusted
        self._begun = 0
        self._storing: deque[Deferred[None]] = deque()

    async def keep(self, lot: Lot) -> None:
        """Begin to store what holds by now, but for a rest."""
        while len(lot) - self._begun >= AT_ONCE:
            await self._store(lot)

    async def finish(self, lot: Lot) -> None:
        """Store the rest of a lot of which nothing more is checked; it is on the disk then."""
        while self._begun < len(lot):
            await self._store(lot)
        while self._storing:
            await self._storing.popleft()

    def abandon(self) -> None:
        """What is not stored by now may be or not."""
        for one in self._storing:
            # What rests on a chunk that is not stored is not stored either, and nobody waits for it.
            one.addErrback(lambda _: None)
        self._storing.clear()

    async def _store(self, lot: Lot) -> None:
        start, self._begun = self._begun, min(self._begun + AT_ONCE, len(lot))
        held: list[Held] = await self._run(lot.held, start, self._begun - start)
        storing = self._actor.run(partial(self._chunks.place, held))
        self._storing.append(storing.addErrback(self._chunks.give_up))
        if len(self._storing) > 1:
            await self._storing.popleft()
        if self._tell is not None:
            await self._tell(start, lot.size)


class _Chunks:
    """What has been stored of a lot."""

    def __init__(self) -> None:
        self.trusted: dict[EventId, Stored] = {}
        self._is_broken = False

    def give_up(self, failure: Failure) -> Failure:
        """A chunk is not stored. What the others take from it is in no table."""
        self._is_broken = True
        return failure

    async def place(self, held: Sequence[Held], turn: Turn) -> None:
        """One chunk; a job, which may run more than once."""
        if self._is_broken:
            raise DatabaseUnavailable("what these events rest on was not stored")
        ids = [one.event_id for one in held]
        here, redacted = await turn.tools.database.read(find_here, ids)
        flying = {one.event.event_id for one in turn.unstored()}
        if redacted or not flying.isdisjoint(ids) or not self._is_trusted(held, here, turn):
            await self._place_slowly(held, turn, here)
        else:
            await self._place_at_once([one for one in held if one.event_id not in here], turn)

    def _is_trusted(self, held: Sequence[Held], here: dict[str, Here], turn: Turn) -> bool:
        """Whether all that these were judged by is stored as it was then, or is among them before."""
        seen: set[EventId] = set()
        for one in held:
            known = here.get(one.event_id)
            if known is not None:
                if not _is_same(known, one, turn):
                    return False
                self.trusted[one.event_id] = Stored(known.nid, known.rank, known.key_nid, one.membership)
            elif any(auth_id not in self.trusted and auth_id not in seen for auth_id in one.auth_ids):
                return False
            seen.add(one.event_id)
        return True

    async def _place_at_once(self, held: Sequence[Held], turn: Turn) -> None:
        """Write the rows of events that are not here."""
        interner = turn.tools.interner
        await interner.bind_users(one.sender for one in held)
        await interner.bind_keys(one.key for one in held)
        room_nid, new, trusted = turn.head.room_nid, OutlierRows(), self.trusted
        cited: dict[
            tuple[EventId, ...], tuple[int, list[int]]
        ] = {}  # rank of what cites these, and their numbers
        for one in held:
            # Bound a moment ago; where so many names are new that it was forgotten since, it is looked up.
            sender_nid = interner.known_user(one.sender) or await interner.user(one.sender)
            key_nid = interner.known_key(one.key) or await interner.state_key(one.key)
            type_nid = interner.known_type(one.key[0]) or await interner.event_type(one.key[0])
            found = cited.get(one.auth_ids)
            if found is None:
                auth = [trusted[auth_id] for auth_id in dict.fromkeys(one.auth_ids)]
                rank = 1 + max([other.rank for other in auth], default=0)
                found = cited[one.auth_ids] = rank, list(dict.fromkeys([other.nid for other in auth]))
            rank, auth_nids = found
            nid = interner.take_nid()
            trusted[one.event_id] = Stored(nid, rank, key_nid, one.membership)
            new.events.append(
                (nid, room_nid, type_nid, key_nid, sender_nid, one.event_id, one.depth, one.ts_ms, rank)
            )
            new.json.append((nid, one.text.decode()))
            for parent_id in one.prev_ids if len(one.prev_ids) < 2 else dict.fromkeys(one.prev_ids):
                new.edges.append((parent_id, nid))
            for auth_nid in auth_nids:
                new.auth.append((nid, auth_nid))
        if held:
            turn.extra.append(partial(write_outliers, new=new))

    async def _place_slowly(self, held: Sequence[Held], turn: Turn, here: dict[str, Here]) -> None:
        rules = turn.head.rules
        events = [parse_stored(one.event_id, one.text, rules) for one in held]
        outcomes = await store_outliers(turn, events)
        for one, outcome in zip(held, outcomes, strict=True):
            self.trusted.pop(one.event_id, None)
            known = here.get(one.event_id)
            if isinstance(outcome, Placed) and isinstance(outcome.verdict, Accept):
                key_nid = await turn.tools.interner.state_key(one.key)
                rank = turn.tools.ranks.get(outcome.nid) or 0
                self.trusted[one.event_id] = Stored(outcome.nid, rank, key_nid, one.membership)
            elif isinstance(outcome, AlreadyHere) and known is not None and _is_same(known, one, turn):
                self.trusted[one.event_id] = Stored(known.nid, known.rank, known.key_nid, one.membership)


def _is_same(known: Here, held: Held, turn: Turn) -> bool:
    """Whether what is here is what was judged."""
    return known.room_nid == turn.head.room_nid and not known.is_rejected and known.text.encode() == held.text
