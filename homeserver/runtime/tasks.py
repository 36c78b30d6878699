"""Supervised background work: task groups that log failures and stop cleanly, and queues with a bound.

Contract:
1. A task never fails silently: what it raises is logged with its name, and restarted where asked for.
2. `TaskGroup.stop()` cancels every task and fires when all have ended.
3. `BoundedQueue.put()` never blocks and never grows the queue past its bound; the overflow rule is stated.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Generic, TypeVar

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.python.failure import Failure

from homeserver.runtime.clock import Clock, sleep
from homeserver.runtime.log import Log

Item = TypeVar("Item")

# A task that ran this many times its longest wait was healthy: its next failure starts with the short wait again.
_HEALTHY_FACTOR = 2


class TaskGroup:
    """The background tasks of one owner."""

    __slots__ = ("_clock", "_log", "_running", "_stopped")

    def __init__(self, clock: Clock, log: Log) -> None:
        self._clock = clock
        self._log = log
        self._running: dict[Deferred[None], str] = {}
        self._stopped = False

    def __len__(self) -> int:
        return len(self._running)

    @property
    def stopped(self) -> bool:
        """Whether nothing can be started any more: who follows the log must not try."""
        return self._stopped

    def names(self) -> list[str]:
        """What runs now, oldest first."""
        return list(self._running.values())

    def spawn(self, name: str, work: Coroutine[Any, Any, object]) -> Deferred[None]:
        """Start a task. The Deferred fires with None when it has ended, however that was."""
        if self._stopped:
            work.close()
            raise RuntimeError(f"task {name!r} was started after the group had stopped")
        running: Deferred[None] = Deferred.fromCoroutine(self._supervise(name, work))
        ended: Deferred[None] = Deferred(lambda _: running.cancel())
        self._running[running] = name

        def finish(_: object) -> None:
            self._running.pop(running, None)
            if not ended.called:
                ended.callback(None)

        running.addBoth(finish)
        return ended

    def spawn_restarting(
        self,
        name: str,
        make_work: Callable[[], Coroutine[Any, Any, object]],
        *,
        shortest_wait_s: float = 1.0,
        longest_wait_s: float = 60.0,
    ) -> Deferred[None]:
        """Start a task that is made anew after a failure, with doubling waits. It ends when it returns."""
        return self.spawn(name, self._restart(name, make_work, shortest_wait_s, longest_wait_s))

    def stop(self) -> Deferred[None]:
        """Cancel all tasks, newest first; fires when they have ended. Nothing can be started afterwards."""
        self._stopped = True
        running = list(reversed(self._running))
        waiting = [when_ended(task) for task in running]
        for task in running:
            task.cancel()
        return DeferredList(waiting).addCallback(lambda _: None)

    async def _supervise(self, name: str, work: Coroutine[Any, Any, object]) -> None:
        try:
            await work
        except CancelledError:
            if not self._stopped:
                self._log.debug("task cancelled", task=name)
        except Exception:  # noqa: BLE001 (the supervisor is where failures of tasks end up)
            self._log.error("task failed", task=name, exc_info=True)

    async def _restart(
        self,
        name: str,
        make_work: Callable[[], Coroutine[Any, Any, object]],
        shortest_wait_s: float,
        longest_wait_s: float,
    ) -> None:
        wait_s = shortest_wait_s
        while True:
            started_s = self._clock.monotonic()
            try:
                await make_work()
            except CancelledError:
                raise
            except Exception:
                if self._stopped:
                    raise  # nobody would cancel it a second time
                if self._clock.monotonic() - started_s > longest_wait_s * _HEALTHY_FACTOR:
                    wait_s = shortest_wait_s
                self._log.error("task failed, will restart", task=name, wait_s=wait_s, exc_info=True)
            else:
                return
            await sleep(self._clock, wait_s)
            wait_s = min(wait_s * 2, longest_wait_s)


async def all_of(waiting: Sequence[Deferred[Item]]) -> list[Item]:
    """What each of these came to, in order, when all have ended. Raises what the first of them raised, as it is.

    (``gatherResults`` makes an error of its own of it, of a cancellation too.)
    """
    outcomes: list[Any] = await DeferredList(waiting, consumeErrors=True)
    for succeeded, outcome in outcomes:
        if not succeeded:
            outcome.raiseException()
    return [outcome for _, outcome in outcomes]


def when_ended(task: Deferred[Any]) -> Deferred[None]:
    """A second Deferred for the same moment, which fires with None however that was, and leaves the first one's result alone."""
    ended: Deferred[None] = Deferred()

    def pass_on(outcome: Any) -> Any:
        ended.callback(None)
        return outcome

    task.addBoth(pass_on)
    return ended


class Overflow(enum.Enum):
    """What a full queue does with one item more."""

    REFUSE = "refuse"  # `put` returns False and the caller tells its own caller to wait
    DROP_OLDEST = "drop-oldest"  # for facts of which only the latest matter


class QueueClosedError(Exception):
    """The queue was closed and everything in it has been taken."""


class BoundedQueue(Generic[Item]):
    """First in, first out, never more than `maximum` items."""

    __slots__ = ("_closed", "_items", "_maximum", "_overflow", "_takers", "dropped")

    def __init__(self, maximum: int, overflow: Overflow = Overflow.REFUSE) -> None:
        if maximum < 1:
            raise ValueError("a queue holds at least one item")
        self._maximum = maximum
        self._overflow = overflow
        self._items: deque[Item] = deque()
        self._takers: deque[Deferred[Item]] = deque()
        self._closed = False
        self.dropped = 0  # items lost to DROP_OLDEST, for a metric

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Item) -> bool:
        """Add an item, or return False where the queue is full (and refuses) or closed."""
        if self._closed:
            return False
        if self._takers:
            self._takers.popleft().callback(item)
            return True
        if len(self._items) >= self._maximum:
            if self._overflow is Overflow.REFUSE:
                return False
            self._items.popleft()
            self.dropped += 1
        self._items.append(item)
        return True

    def get(self) -> Deferred[Item]:
        """The next item, when there is one. Cancelling loses nothing. Fails with `QueueClosedError` at the end."""
        taker: Deferred[Item] = Deferred(self._forget)
        if self._items:
            taker.callback(self._items.popleft())
        elif self._closed:
            taker.errback(Failure(QueueClosedError()))
        else:
            self._takers.append(taker)
        return taker

    def take_all(self) -> list[Item]:
        """Everything that waits, at once."""
        taken = list(self._items)
        self._items.clear()
        return taken

    def close(self) -> None:
        """Take no more items. What waits can still be taken; after it `get` fails with `QueueClosedError`."""
        self._closed = True
        takers, self._takers = self._takers, deque()
        for taker in takers:
            taker.errback(Failure(QueueClosedError()))

    def _forget(self, taker: Deferred[Item]) -> None:
        # `close()` empties the list before it fires each taker, and one may cancel another meanwhile.
        if taker in self._takers:
            self._takers.remove(taker)
