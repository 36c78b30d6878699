"""Pages of history, and the surroundings of an event. Each is one unit of work; contents travel as bytes.

# spec: client-server-api#get_matrixclientv3roomsroomidmessages
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

import msgspec
from twisted.internet.defer import Deferred

from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.http.errors import MatrixError, not_found
from homeserver.rooms.reads.reading import (
    Archive,
    Asker,
    Filter,
    Found,
    Ignoring,
    Scanned,
    before_all,
    find_seen,
    scan,
    write_events,
    write_senders,
    write_state,
)
from homeserver.rooms.reads.visibility import Sight, Sights
from homeserver.rooms.transactions import TransactionCache
from homeserver.rooms.types import Requester
from homeserver.runtime.clock import Clock, sleep
from homeserver.store.client_events import join
from homeserver.store.gaps import has_gaps, has_gaps_below
from homeserver.store.history import BEGINNING, find_history_row, find_member_keys, members_among, state_after
from homeserver.store.past import find_open_hole
from homeserver.stream.tokens import asked_in_vain, parse_timeline_token, timeline_token

# How long a reader waits for history that other servers have, and how many fetches that may be.
PAST_WAIT_S = 5.0
_PAST_ROUNDS = 3
# A minute or so of asking in vain, after which the token of an empty page stays the same.
_PATIENCE = 12

T = TypeVar("T")

_encode = msgspec.json.Encoder().encode


class Past(Protocol):
    """History before ours (``homeserver.rooms.federated.backfill.Backfills`` fetches it)."""

    def may(self, room_nid: int) -> bool:
        """Whether other servers would tell us some."""

    def begin(self, room_id: str, room_nid: int, top: int = 0) -> bool:
        """Start to fetch some, of the hole below ``top``."""

    async def more(self, room_id: str, room_nid: int, wait_s: float, top: int = 0) -> bool:
        """Fetch some and wait for it so long: whether it came."""

    async def bring(self, room_id: str, room_nid: int, event_id: str, wait_s: float) -> bool:
        """Fetch it up to one event, and wait for it so long: whether the event came."""


class _Answer(NamedTuple):
    """An answer, and whether history goes on beyond its end where we have none."""

    body: bytes
    goes_on: bool = False
    is_short: bool = False  # the reader wanted more than there was
    is_empty: bool = False
    if_never: bytes | None = None  # of an empty one: what to say instead where no more is to be had, ever
    hole: int = 0  # it ends above this hole, in which history is missing


@dataclass(frozen=True, slots=True)
class PageAsked:
    """Which page somebody wants. Tokens as the client gave them."""

    backwards: bool
    limit: int
    from_token: str | None = None
    to_token: str | None = None
    wanted: Filter | None = None


class Pagination:
    """History for readers."""

    def __init__(
        self,
        database: Database,
        sights: Sights,
        transactions: TransactionCache,
        archive: Archive,
        ignoring: Ignoring,
        clock: Clock,
        past: Past,
    ) -> None:
        self._database = database
        self._sights = sights
        self._transactions = transactions
        self._archive = archive
        self._ignoring = ignoring
        self._clock = clock
        self._past = past

    async def page(self, requester: Requester, room_id: str, asked: PageAsked) -> bytes:
        """The answer of ``/messages``."""
        sight = await self._sights.find(requester, room_id)
        low, high = _bounds(asked, sight)
        asker = await self.asker(requester, sight)

        def read(across: bool) -> Deferred[_Answer]:
            return self._database.read(_write_page, self._archive, asker, asked, low, high, across=across)

        return await self._with_past(sight, read, await read(False))

    async def event(self, requester: Requester, room_id: str, event_id: str) -> bytes:
        """One event; 404 M_NOT_FOUND where the reader may not see it, for whatever reason."""
        try:
            sight = await self._sights.find(requester, room_id)
        except MatrixError:
            # spec: client-server-api#get_matrixclientv3roomsroomideventeventid (404 for both)
            raise no_event() from None
        asker = await self.asker(requester, sight)
        return await self._with_event(
            sight, event_id, lambda: self._database.read(_write_event, self._archive, asker, event_id)
        )

    async def context(
        self, requester: Requester, room_id: str, event_id: str, limit: int, wanted: Filter | None
    ) -> bytes:
        """The answer of ``/context``."""
        sight = await self._sights.find(requester, room_id)
        asker = await self.asker(requester, sight)

        def read(across: bool) -> Deferred[_Answer]:
            return self._database.read(
                _write_context, self._archive, asker, event_id, limit, wanted, across=across
            )

        answer = await self._with_event(sight, event_id, partial(read, False))
        return await self._with_past(sight, read, answer)

    async def _with_event(self, sight: Sight, event_id: str, read: Callable[[], Deferred[T]]) -> T:
        """What was read of an event; it may be one that we have not yet, such as what an old message replies to."""
        try:
            return await read()
        except MatrixError as error:
            if error.status != 404 or not sight.joined:
                raise
            if not await self._database.read(_may_be_elsewhere, sight.room_nid, event_id):
                raise
            if not await self._past.bring(sight.room_id, sight.room_nid, event_id, PAST_WAIT_S):
                raise
        return await read()

    async def _with_past(
        self, sight: Sight, read: Callable[[bool], Deferred[_Answer]], answer: _Answer
    ) -> bytes:
        """The answer, read again as long as it is short of history that other servers have, within limits.

        ``read`` is told whether to go across holes that are still open: that is, where nobody fills them just now.

        # spec: server-server-api#backfilling-and-retrieving-missing-events
        """
        past, room_nid = self._past, sight.room_nid
        until_s = self._clock.monotonic() + PAST_WAIT_S
        came = True
        for _ in range(_PAST_ROUNDS):
            wait_s = until_s - self._clock.monotonic()
            if not answer.is_short or wait_s <= 0:
                break
            hole = answer.hole
            came = await past.more(sight.room_id, room_nid, wait_s, hole)
            # Also where nothing came: another fetch may have ended between the page and this one.
            answer = await read(bool(hole) and not came)
            if not came:
                break
        if answer.is_empty and answer.is_short and not came:
            if answer.if_never is not None and not past.may(room_nid):
                return answer.if_never
            # Nobody has more just now. Whoever is told to go on does so at once, and for ever.
            await sleep(self._clock, max(until_s - self._clock.monotonic(), 0.0))
        if answer.goes_on and not answer.is_short:
            # So that the next page need not wait.
            past.begin(sight.room_id, room_nid, answer.hole)
        return answer.body

    async def asker(self, requester: Requester, sight: Sight) -> Asker:
        """Who asks, now."""
        sent = self._transactions.known_to(requester.user_nid, requester.device_nid)
        if sent is None:
            sent = await self._transactions.load_known_to(requester.user_nid, requester.device_nid)
        ignored = self._ignoring.known(requester.user_nid)
        if ignored is None:
            ignored = await self._ignoring.load(requester.user_nid)
        return Asker(sight, self._clock.now_ms(), sent, requester.user_nid, ignored)


def no_event() -> MatrixError:
    """There is none, or it is not for the reader: one answer for both."""
    return not_found("Event not found")


def _bounds(asked: PageAsked, sight: Sight) -> tuple[int, int]:
    """The span to search, ``(low, high]``."""
    start = parse_timeline_token(asked.from_token) if asked.from_token is not None else None
    stop = parse_timeline_token(asked.to_token) if asked.to_token is not None else None
    if asked.backwards:
        low, high = stop, start
    else:
        low, high = start, stop
    return BEGINNING if low is None else low, sight.upto if high is None else min(high, sight.upto)


def _may_be_elsewhere(tx: Tx, room_nid: int, event_id: str) -> bool:
    """Whether an event is none that we have and know the place of, in a room whose history is not all here."""
    row = find_history_row(tx, room_nid, event_id)
    return (row is None or row.state_before is None) and has_gaps(tx, room_nid)


def _goes_on(tx: Tx, sight: Sight, low: int, scanned: Scanned) -> bool:
    """Whether a search backwards came to the end of our history, and there is more elsewhere."""
    if low != BEGINNING or scanned.edge is not None:
        return False
    if scanned.gap_top is None or scanned.gap_top > 0:
        return has_gaps_below(tx, sight.room_nid)
    return scanned.gap_top == 0


def _scan_back(
    tx: Tx,
    archive: Archive,
    asker: Asker,
    low: int,
    high: int,
    limit: int,
    wanted: Filter | None,
    *,
    across: bool,
) -> tuple[Scanned, int]:
    """What a search backwards finds. Unless it goes ``across`` holes it ends above one that is open; and which that is."""
    search = partial(scan, tx, archive, asker.sight, backwards=True, ignored=asker.ignored)
    scanned = search(low, high, limit, wanted)
    if across or scanned.gap_top in (-1, 0):
        return scanned, 0
    hole = find_open_hole(tx, asker.sight.room_nid, low, high)
    if hole is None or (scanned.edge is not None and scanned.edge >= hole.edge):
        return scanned, 0
    scanned = search(hole.edge, high, limit, wanted)
    return scanned, hole.top if scanned.edge is None else 0


def _write_page(
    tx: Tx, archive: Archive, asker: Asker, asked: PageAsked, low: int, high: int, *, across: bool
) -> _Answer:
    backwards, wanted, sight = asked.backwards, asked.wanted, asker.sight
    start = asked.from_token or timeline_token(high if backwards else low)
    nothing = b'{"start":%b,"chunk":[]}' % _encode(start)
    if low >= high or (wanted is not None and not wanted.rooms.accepts(sight.room_id)):
        return _Answer(nothing)
    hole = 0
    if backwards:
        scanned, hole = _scan_back(tx, archive, asker, low, high, asked.limit, wanted, across=across)
    else:
        scanned = scan(
            tx, archive, sight, low, high, asked.limit, wanted, backwards=False, ignored=asker.ignored
        )
    parts = [b'{"start":', _encode(start)]
    goes_on = bool(hole) or (backwards and _goes_on(tx, sight, low, scanned))
    edge = scanned.end if goes_on else scanned.edge
    is_empty = not scanned.found
    end = asked.to_token
    if edge is None and end is None and backwards and not is_empty:
        # COMPAT(Nheko and what else is made with mtxclient, 2026): it drops the events of a page without a token, so that
        # the oldest of a room were never seen. The page after that is empty, and has none.
        edge = scanned.end
    if edge is not None:
        # No token would be the room's beginning, and the same one is taken for that: so it says how often it was given.
        is_stuck = goes_on and is_empty and edge == high
        in_vain = min(asked_in_vain(asked.from_token) + 1, _PATIENCE) if is_stuck else 0
        end = timeline_token(edge, in_vain)
    if end is not None:
        parts += [b',"end":', _encode(end)]
    parts += [b',"chunk":', join(write_events(tx, archive, asker, scanned.found))]
    if wanted is not None and wanted.lazy and scanned.found:
        parts += [b',"state":', join(write_senders(tx, archive, asker, scanned.found))]
    parts.append(b"}")
    is_short = goes_on and len(scanned.found) < asked.limit
    return _Answer(b"".join(parts), goes_on, is_short, is_empty, nothing if is_empty else None, hole)


def find_event(tx: Tx, archive: Archive, sight: Sight, event_id: str) -> Found:
    """An event of the room; 404 M_NOT_FOUND where the reader may not see it."""
    row = find_history_row(tx, sight.room_nid, event_id)
    if row is None or row.pos is None or row.pos > sight.upto:
        raise no_event()
    found = find_seen(tx, archive, sight, [row])
    if not found:
        raise no_event()
    return found[0]


def _write_event(tx: Tx, archive: Archive, asker: Asker, event_id: str) -> bytes:
    return write_events(tx, archive, asker, [find_event(tx, archive, asker.sight, event_id)])[0]


def _write_context(
    tx: Tx,
    archive: Archive,
    asker: Asker,
    event_id: str,
    limit: int,
    wanted: Filter | None,
    *,
    across: bool,
) -> _Answer:
    sight = asker.sight
    middle = find_event(tx, archive, sight, event_id)
    pos = middle.row.pos
    assert pos is not None
    before_most = limit // 2
    ignored, after_most = asker.ignored, limit - before_most
    before, hole = _scan_back(tx, archive, asker, BEGINNING, pos - 1, before_most, wanted, across=across)
    after = scan(tx, archive, sight, pos, sight.upto, after_most, wanted, backwards=False, ignored=ignored)
    # Where a side came to its end, the token still stands for it: later events come after it.
    start = before.edge if before.edge is not None else before_all([middle, *before.found])
    end = sight.upto if after.edge is None else after.edge
    shown = [*before.found, middle, *after.found]
    state = state_after(tx, [one.row for one in shown], archive.facts.bases)
    if wanted is not None and wanted.lazy:
        senders = find_member_keys(tx, {one.event.sender for one in shown})
        others = members_among(tx, state).difference(senders.values())
        state = {key_nid: nid for key_nid, nid in state.items() if key_nid not in others}
    written = write_events(tx, archive, asker, shown)
    at = len(before.found)
    goes_on = bool(hole) or _goes_on(tx, sight, BEGINNING, before)
    body = b'{"start":%b,"end":%b,"events_before":%b,"event":%b,"events_after":%b,"state":%b}' % (
        _encode(timeline_token(start)),
        _encode(timeline_token(end)),
        join(written[:at]),
        written[at],
        join(written[at + 1 :]),
        join(write_state(tx, archive, asker, list(state.values()), wanted)),
    )
    return _Answer(body, goes_on, goes_on and len(before.found) < before_most, hole=hole)
