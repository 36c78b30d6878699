"""What is to be done at other servers sooner or later: a table of it, tried when it is due, later and later.

Crash-safe, since it is the table that knows. One attempt at a time for each user and room, some of them side by side.

# spec: server-server-api#leaving-rooms-rejecting-invites
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Generic, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.python.failure import Failure

from homeserver.runtime.clock import Clock, DelayedCall
from homeserver.runtime.tasks import TaskGroup

# LIMIT(requests at once: the others wait for those that a dead server lets wait)
AT_ONCE = 8
LONGEST_WAIT_MS = 6 * 3600 * 1000

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


class Retries(Generic[Row]):
    """``load_next``: so many rows, by when they are due. ``try_one`` MUST delete the row, or give it a later time."""

    def __init__(
        self,
        name: str,
        load_next: Callable[[int], Awaitable[Sequence[Row]]],
        try_one: Callable[[Row], Coroutine[Any, Any, None]],
        tasks: TaskGroup,
        clock: Clock,
    ) -> None:
        self._name = name
        self._load_next = load_next
        self._try_one = try_one
        self._tasks = tasks
        self._clock = clock
        self._started = self._looking = self._again = False
        self._timer: DelayedCall | None = None
        self._running: dict[Key, Deferred[None]] = {}
        self._held: set[Key] = set()

    def start(self) -> None:
        """Begin, with what an earlier process left over."""
        self._started = True
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

    async def call_off(self, key: Key) -> None:
        """Break an attempt off; where it is too late for that, wait for its end."""
        running = self._running.get(key)
        if running is None:
            return
        if key not in self._held:
            running.cancel()
            return
        waiter: Deferred[None] = Deferred()

        def ended(outcome: Any) -> Any:
            waiter.callback(None)
            return outcome

        running.addBoth(ended)
        await waiter

    # --- the work ------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Try what is due, and set the timer for what comes next."""
        waiting: Sequence[Row] = []
        now_ms = 0
        self._again = True
        while self._again:
            self._again = False
            now_ms = self._clock.now_ms()
            waiting = await self._load_next(AT_ONCE)
            due = [one for one in waiting if one.retry_ts_ms <= now_ms]
            if due:
                await self._try_all(due)
                self._again = True
        self._looking = False
        self._stop_timer()
        if waiting:
            wait_s = (waiting[0].retry_ts_ms - now_ms) / 1000
            self._timer = self._clock.callLater(wait_s, self.look)

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    async def _try_all(self, due: Sequence[Row]) -> None:
        """Raises what went wrong here (a database that is away), when all have ended."""
        first = {(one.room_id, one.user_id): one for one in reversed(due)}
        ended: Sequence[tuple[bool, Any]] = await DeferredList(
            [self._begin(key, one) for key, one in first.items()], consumeErrors=True
        )
        for _, failure in ended:
            if isinstance(failure, Failure) and not failure.check(CancelledError):
                failure.raiseException()

    def _begin(self, key: Key, one: Row) -> Deferred[None]:
        running = self._running[key] = Deferred.fromCoroutine(self._try_one(one))

        def ended(outcome: Any) -> Any:
            del self._running[key]
            self._held.discard(key)
            return outcome

        return running.addBoth(ended)
