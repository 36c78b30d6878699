"""What is to be done at other servers sooner or later: a table of it, tried when it is due, later and later.

Crash-safe, since it is the table that knows. One attempt at a time for each user and room, some of them side by side.

A server that was away and gives a sign of life is tried early: what waits for it need not wait for its time. That is an
attempt beside the others: where it fails the row stays as it is, so a server that speaks but does not answer uses up none.

# spec: server-server-api#leaving-rooms-rejecting-invites
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.python.failure import Failure

from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.runtime.clock import Clock, Timer, call_at, sleep
from homeserver.runtime.tasks import TaskGroup, when_ended

# LIMIT(requests at once: the others wait for those that a dead server lets wait)
AT_ONCE = 8
LONGEST_WAIT_MS = 6 * 3600 * 1000
# After a sign of life, so that whoever else had given the server up has heard of it too.
EARLY_AFTER_S: Final = 2.0
# A server that speaks to us but does not answer is not tried more often than this.
EARLY_AGAIN_S: Final = 60.0
# LIMIT(memory: names of servers; what waits for others is tried when it is due)
AWAITED_MOST: Final = 10_000

Key = tuple[str, str]
"""A room and a user, by their ids."""


class Due(Protocol):
    """A row of the table."""

    @property
    def room_id(self) -> str: ...
    @property
    def user_id(self) -> str: ...
    @property
    def retry_ts_ms(self) -> int: ...


Row = TypeVar("Row", bound=Due)


def wait_after(first_wait_ms: int, attempts: int) -> int:
    """How long to wait after one more attempt in vain, in milliseconds: each time twice as long."""
    return min(first_wait_ms << (attempts + 1), LONGEST_WAIT_MS)


@dataclass(frozen=True, slots=True)
class Table(Generic[Row]):
    """How it is read."""

    load_next: Callable[[Tx, int], Sequence[Row]]  # so many rows, by when they are due
    load_of: Callable[[Tx, str, int], Sequence[Row]]  # so many of those that a server may be asked for early
    load_servers: Callable[[Tx, int], Sequence[str]]  # so many servers that there are such rows of


class Retries(Generic[Row]):
    """``try_one`` MUST delete the row, or give it a later time. When it is told that it is early, it MAY leave it as it is,
    and MUST NOT count the attempt. In a room that ``is_paused`` it MUST do no more than that."""

    def __init__(
        self,
        name: str,
        table: Table[Row],
        try_one: Callable[[Row, bool], Coroutine[Any, Any, None]],
        database: Database,
        tasks: TaskGroup,
        clock: Clock,
    ) -> None:
        self._name = name
        self._table = table
        self._database = database
        self._try_one = try_one
        self._tasks = tasks
        self._clock = clock
        self._started = self._looking = self._again = False
        self._timer: Timer | None = None
        self._running: dict[Key, Deferred[None]] = {}
        self._held: set[Key] = set()
        self._paused: Counter[str] = Counter()  # how many are about to come into a room
        # For which servers something waits, and from when on they may be tried early; which of them gave a sign of life.
        self._awaited: dict[str, float] = {}
        self._back: dict[str, None] = {}
        self._early = False

    def start(self) -> None:
        """Begin, with what an earlier process left over."""
        self._started = True
        self._tasks.spawn_restarting(f"{self._name}, by whom", self._learn)
        self.look()

    def stop(self) -> None:
        """Try nothing more."""
        self._started = False
        self._stop_timer()

    def look(self) -> None:
        """There is something new in the table."""
        self._again = True
        if self._started and not self._looking and not self._tasks.stopped:
            self._looking = True
            self._tasks.spawn_restarting(self._name, self._run)

    # --- attempts that are in the way ----------------------------------------------------------------

    def hold(self, key: Key) -> None:
        """The attempt that is under way cannot be undone from here on."""
        self._held.add(key)

    @asynccontextmanager
    async def paused(self, room_id: str) -> AsyncIterator[None]:
        """While somebody of ours tries to come into a room, nothing is done there.

        An attempt that is under way is broken off; where it is too late for that, its end is waited for.
        """
        self._paused[room_id] += 1
        failed = True
        try:
            for key in [one for one in self._running if one[0] == room_id]:
                await self._call_off(key)
            yield
            failed = False
        finally:
            self._paused[room_id] -= 1
            if not self._paused[room_id]:
                del self._paused[room_id]
            if failed:
                self.look()

    def is_paused(self, room_id: str) -> bool:
        """Whether somebody is trying to come in."""
        return room_id in self._paused

    async def _call_off(self, key: Key) -> None:
        running = self._running.get(key)
        if running is None:
            return
        if key not in self._held:
            running.cancel()
            return
        await when_ended(running)

    # --- servers that are back -----------------------------------------------------------------------

    def expect(self, server: str) -> None:
        """This server did not take something: it is tried again as soon as it gives a sign of life."""
        if len(self._awaited) < AWAITED_MOST:
            self._awaited.setdefault(server, 0.0)

    def heard_from(self, server: str) -> None:
        """A sign of life: it asked us something, or answered."""
        allowed_s = self._awaited.get(server)
        if allowed_s is None or not self._started or self._tasks.stopped:
            return
        now_s = self._clock.monotonic()
        if now_s >= allowed_s:
            self._awaited[server] = now_s + EARLY_AGAIN_S
            self._back[server] = None
            if not self._early:
                self._early = True
                self._tasks.spawn(f"{self._name}, early", self._try_early())

    async def _learn(self) -> None:
        for server in await self._database.read(self._table.load_servers, AWAITED_MOST):
            self.expect(server)

    async def _try_early(self) -> None:
        """One server after the other."""
        try:
            await sleep(self._clock, EARLY_AFTER_S)
            while self._back:
                server = next(iter(self._back))
                del self._back[server]
                await self._try_all_of(server)
        finally:
            self._early = False

    async def _try_all_of(self, server: str) -> None:
        """Until nothing is left for it, or only what has failed."""
        tried: set[Row] = set()
        while True:
            allowed_s = self._awaited.pop(server, 0.0)
            found = await self._database.read(self._table.load_of, server, AT_ONCE)
            if not found:
                return
            self._awaited[server] = allowed_s
            fresh = [one for one in found if one not in tried and _key_of(one) not in self._running]
            if not fresh:
                return
            tried.update(await self._try_all(fresh, early=True))

    # --- the work ------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Try what is due, and set the timer for what comes next."""
        waiting: Sequence[Row] = []
        self._again = True
        while self._again:
            self._again = False
            now_ms = self._clock.now_ms()
            waiting = await self._database.read(self._table.load_next, AT_ONCE)
            # None ever waits longer: what is due later than that was due by a clock that has been set back since.
            latest_ms = now_ms + LONGEST_WAIT_MS
            due = [one for one in waiting if not now_ms < one.retry_ts_ms <= latest_ms]
            if due:
                await self._try_all(due, early=False)
                self._again = True
        self._looking = False
        self._stop_timer()
        if waiting:
            due_ms = waiting[0].retry_ts_ms
            self._timer = call_at(self._clock, due_ms, self.look, longest_ms=LONGEST_WAIT_MS)

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    async def _try_all(self, rows: Sequence[Row], *, early: bool) -> Sequence[Row]:
        """Raises what went wrong here (a database that is away), when all have ended; CancelledError after ``stop``."""
        first = {_key_of(one): one for one in reversed(rows)}
        ended: Sequence[tuple[bool, Any]] = await DeferredList(
            [self._begin(key, one, early=early) for key, one in first.items()], consumeErrors=True
        )
        if not self._started:
            # The list takes a cancellation for its members' alone: whoever waits for it would go on with the next ones.
            raise CancelledError
        for _, failure in ended:
            if isinstance(failure, Failure) and not failure.check(CancelledError):
                failure.raiseException()
        return list(first.values())

    def _begin(self, key: Key, one: Row, *, early: bool) -> Deferred[None]:
        under_way = self._running.get(key)
        if under_way is not None:
            return when_ended(under_way)  # an early one; should it fail, this one is still due
        running = self._running[key] = Deferred.fromCoroutine(self._try_one(one, early))

        def ended(outcome: Any) -> Any:
            del self._running[key]
            self._held.discard(key)
            return outcome

        return running.addBoth(ended)


def _key_of(one: Due) -> Key:
    return one.room_id, one.user_id
