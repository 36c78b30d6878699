"""History that other servers have: fetched when somebody reads back to where ours has a hole.

MUSTs: 1. a hole is fetched for once at a time, and all who read there share that; 2. who waits, waits a few seconds at most,
and the fetch goes on without them; 3. what could not be had is not asked for again at once, and then of other servers first;
4. nothing is believed that the flow and the room's actor have not checked; 5. while the members of a room are still to come,
its history waits for them.

# spec: server-server-api#backfilling-and-retrieving-missing-events
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred

from federation.errors import Malformed
from federation.flows.backfill import backfill
from federation.flows.needs import Known, Limits, NeedEvents, NeedKnown, RoomNeed
from federation.ids import EventId, RoomId, ServerName, parse_server_name
from federation.versions import ROOM_VERSIONS
from homeserver.db.errors import DatabaseError
from homeserver.db.threads import Database
from homeserver.http.errors import MatrixError
from homeserver.rooms.arrivals import Arrival, Arrived, Placed, arrive
from homeserver.rooms.covered import end_covered
from homeserver.rooms.federated.fetching import FetchRoom
from homeserver.rooms.federated.staged import Staged
from homeserver.rooms.registry import RoomRegistry
from homeserver.rooms.turn import Turn
from homeserver.runtime.clock import Clock, unless_over
from homeserver.runtime.drive import drive
from homeserver.runtime.tasks import TaskGroup
from homeserver.store.gaps import Gap, load_gaps, load_gaps_left, load_likely_servers
from homeserver.stream.index import MembershipIndex

# Events of one fetch; other servers give no more at once.
PAGE = 100
# Pages that are fetched to come to one event.
REACH_MOST = 20
# Rooms that are fetched for at the same time.
RUNNING_MOST = 64
# One fetch in all, however many servers are asked for however much: a slow one must not keep others from theirs.
FETCH_S = 120.0
# Gaps that are looked at, and those that one request names.
_GAPS_MOST = 500
_STARTS_MOST = 20
_SERVERS_MOST = 20
_FIRST_WAIT_S = 15.0
_LONGEST_WAIT_S = 3600.0
# LIMIT(memory: of more failures than this the oldest are forgotten, and tried again)
_FAILURES_MOST = 10_000
_ATTEMPTS_IN_DOUBT = 4
_ONE_EVENT = Limits(1024 * 1024, 5.0, 3)


class Fetcher(Protocol):
    """Asks other servers (``homeserver.rooms.federated.fetching.RoomFetcher`` is one)."""

    async def answer(self, room: FetchRoom, need: RoomNeed) -> Any:
        """What a flow is sent."""


class _Failures:
    """Which events could not be had, how often, and until when they are left alone."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failed: dict[tuple[int, str], tuple[int, float]] = {}

    def is_due(self, room_nid: int, missing_id: str) -> bool:
        failed = self._failed.get((room_nid, missing_id))
        return failed is None or failed[1] <= self._clock.monotonic()

    def count(self, room_nid: int, missing_id: str) -> int:
        return self._failed.get((room_nid, missing_id), (0, 0.0))[0]

    def note(self, room_nid: int, missing_id: str) -> None:
        count, _ = self._failed.pop((room_nid, missing_id), (0, 0.0))
        wait_s = min(_FIRST_WAIT_S * 2.0 ** min(count, 20), _LONGEST_WAIT_S)
        self._failed[(room_nid, missing_id)] = (count + 1, self._clock.monotonic() + wait_s)
        if len(self._failed) > _FAILURES_MOST:
            del self._failed[next(iter(self._failed))]

    def forget(self, room_nid: int, missing_id: str) -> None:
        self._failed.pop((room_nid, missing_id), None)


class Backfills:
    """See the module."""

    def __init__(
        self,
        database: Database,
        rooms: RoomRegistry,
        index: MembershipIndex,
        fetcher: Fetcher,
        staged: Staged,
        allows: Callable[[str], bool],
        whole: Callable[[int], Awaitable[object]],
        clock: Clock,
        tasks: TaskGroup,
    ) -> None:
        self._database = database
        self._rooms = rooms
        self._index = index
        self._fetcher = fetcher
        self._staged = staged
        self._allows = allows
        # Comes back when the members of a room are here; MatrixError where that takes too long.
        self._whole = whole
        self._clock = clock
        self._tasks = tasks
        self._failures = _Failures(clock)
        self._waiters: dict[tuple[int, int], list[Deferred[bool]]] = {}  # by room and hole

    def may(self, room_nid: int) -> bool:
        """Whether it makes sense to ask: nobody tells a server about a room that it is not in."""
        return bool(self._index.local_members(room_nid))

    def begin(self, room_id: str, room_nid: int, top: int = 0) -> bool:
        """Start to fetch what comes before our history, unless that is under way; False where it cannot be.

        ``top``: what is missing in the hole below that position. -1: whatever is missing, wherever.
        """
        place = (room_nid, top)
        if place in self._waiters:
            return True
        if len(self._waiters) >= RUNNING_MOST or not self.may(room_nid):
            return False
        self._waiters[place] = []
        try:
            self._tasks.spawn("backfill", self._run(room_id, room_nid, top))
        except RuntimeError:
            # The server is stopping.
            del self._waiters[place]
            return False
        return True

    async def more(self, room_id: str, room_nid: int, wait_s: float, top: int = 0) -> bool:
        """Fetch, and wait for it so long: whether anything came."""
        if not self.begin(room_id, room_nid, top):
            return False
        waiters = self._waiters.get((room_nid, top))
        if waiters is None:
            return False  # it has failed already
        waiter: Deferred[bool] = Deferred()
        waiters.append(waiter)
        with unless_over(self._clock, max(wait_s, 0.0), _give_up, waiter):
            return await waiter

    async def bring(self, room_id: str, room_nid: int, event_id: str, wait_s: float) -> bool:
        """Fetch history up to one event, and wait for it so long: whether it has its place now.

        The event itself is fetched and checked first: nobody has us fetch history for an id that means nothing.
        """
        if not self.may(room_nid) or not self._failures.is_due(room_nid, event_id):
            return False
        until_s = self._clock.monotonic() + wait_s
        room = await self.room(room_id, room_nid)
        found = await self._fetcher.answer(room, NeedEvents((EventId(event_id),), _ONE_EVENT))
        if not found:
            self._failures.note(room_nid, event_id)
            return False
        return await self.reach(room, EventId(event_id), until_s)

    async def reach(self, room: FetchRoom, event_id: EventId, until_s: float) -> bool:
        """Fetch page by page until an event has its place, or until a time: whether it has."""
        for _ in range(REACH_MOST):
            known: Known = await self._fetcher.answer(room, NeedKnown((event_id,)))
            wait_s = until_s - self._clock.monotonic()
            if event_id in known.placed:
                return True
            if wait_s <= 0 or not await self.more(room.room_id, room.room_nid, wait_s, -1):
                return False
        return False

    async def room(self, room_id: str, room_nid: int, *first: str) -> FetchRoom:
        """A room and the servers that are worth asking about it; ``first`` are the best."""
        version = (await self._rooms.find(room_id)).version
        likely = await self._database.read(load_likely_servers, room_nid, _SERVERS_MOST)
        own = self._rooms.tools.signer.server_name
        servers = [one for name in dict.fromkeys([*first, *likely]) if (one := _parse(name)) is not None]
        return FetchRoom(
            room_nid,
            RoomId(room_id),
            ROOM_VERSIONS[version],
            tuple(one for one in servers if one != own and self._allows(one)),
        )

    # --- one fetch -----------------------------------------------------------------------------------

    async def _run(self, room_id: str, room_nid: int, top: int) -> None:
        came = False
        try:
            # Before that nobody knows whom to ask, and each state that is told would bring the members once more.
            await self._whole(room_nid)
            came = await self._fetch(room_id, room_nid, top)
        except (DatabaseError, MatrixError):
            # No time to write, a room that is gone, or one whose inbox is full: whoever asks again may have more luck.
            return
        finally:
            for waiter in self._waiters.pop((room_nid, top), ()):
                if not waiter.called:
                    waiter.callback(came)

    async def _fetch(self, room_id: str, room_nid: int, top: int) -> bool:
        gaps = self._choose(room_nid, await self._database.read(load_gaps, room_nid, top, _GAPS_MOST))
        if not gaps:
            return False
        filling = Deferred.fromCoroutine(self._fill(room_id, room_nid, gaps))
        timer = self._clock.callLater(FETCH_S, filling.cancel)
        came = False
        try:
            came = await filling
        except CancelledError:
            came = False  # as good as no answer
        finally:
            if timer.active():
                timer.cancel()
        missing = [gap.missing_id for gap in gaps]
        left = await self._database.read(load_gaps_left, room_nid, missing)
        for missing_id in missing:
            if missing_id not in left:
                self._failures.forget(room_nid, missing_id)
            elif not came:
                # Where something came, the page may have been full before it was the turn of this one.
                self._failures.note(room_nid, missing_id)
        return came

    async def _fill(self, room_id: str, room_nid: int, gaps: Sequence[Gap]) -> bool:
        """Fetch one page of history and put it where it is missing: whether that was anything."""
        attempts = max(self._failures.count(room_nid, gap.missing_id) for gap in gaps)
        room = await self.room(room_id, room_nid, *(gap.user_id.partition(":")[2] for gap in gaps))
        room = replace(room, servers=_turned(room.servers, attempts))
        missing = [EventId(gap.missing_id) for gap in gaps]
        filled = await drive(backfill(missing, PAGE), partial(self._fetcher.answer, room))
        if not filled.steps:
            return False
        # Servers tell of events that they accepted. If one is refused by the state that a server told, the state may be
        # a lie that is to keep us from it: so that is not final before several have been asked.
        doubted = attempts < _ATTEMPTS_IN_DOUBT
        arrivals = [Arrival(step.event, step.told, historic=True, doubted=doubted) for step in filled.steps]
        told = [*filled.outliers, *(step.event for step in filled.steps)]

        async def job(turn: Turn) -> list[Arrived]:
            # Anybody may tell a redacted copy of an event of which a whole one waits: such an answer counts as none. The rest of
            # it without that event would be what is before it alone, and what comes after it would then stand below.
            if any(self._staged.has_better(room_nid, one) for one in told):
                return []
            return await arrive(turn, arrivals, filled.outliers)

        actor = await self._rooms.find(room_id)
        arrived = await actor.run(job)
        await actor.run(end_covered)
        return any(isinstance(one, Placed) and one.nid for one in arrived)

    def _choose(self, room_nid: int, gaps: Sequence[Gap]) -> list[Gap]:
        """The gaps that a fetch begins from: of those whose time has come the newest and the oldest.

        Senders choose the depth by which they are told apart: so neither end alone, which somebody may have crowded.
        """
        due = [gap for gap in gaps if self._failures.is_due(room_nid, gap.missing_id)]
        if len(due) <= _STARTS_MOST:
            return due
        half = _STARTS_MOST // 2
        return [*due[:half], *due[-half:]]


def _turned(servers: tuple[ServerName, ...], attempts: int) -> tuple[ServerName, ...]:
    """The same servers with another one first after each failure."""
    place = attempts % len(servers) if servers else 0
    return servers[place:] + servers[:place]


def _give_up(waiter: Deferred[bool]) -> None:
    if not waiter.called:
        waiter.callback(False)


def _parse(name: str) -> ServerName | None:
    try:
        return parse_server_name(name)
    except Malformed:
        return None
