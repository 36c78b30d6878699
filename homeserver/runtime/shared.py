"""Work that several want at the same time is done once, and what comes of it is kept for a while.

1. Whoever stops waiting stops nothing: the work goes on for the others, and for whoever asks next.
2. What fails is kept by nobody: the next one to ask tries again.
3. Bounded: in how much is done at once, in the bytes that are kept, and in how long they are.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from homeserver.runtime.clock import Clock

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

MAX_RUNNING = 64


class Busy(Exception):  # noqa: N818 (a fact, and nobody's error)
    """So much is being done already that nothing new is begun."""


class Shared(Generic[K, V]):
    """Answers by key. ``keep_s`` 0: for those alone who wait when the answer comes."""

    def __init__(
        self,
        clock: Clock,
        *,
        keep_s: float = 0.0,
        budget: int = 0,
        size: Callable[[V], int] = lambda _: 1,
        most_running: int = MAX_RUNNING,
    ) -> None:
        self._clock = clock
        self._keep_s = keep_s
        self._budget = budget
        self._size = size
        self._most_running = most_running
        self._bytes = 0
        # In the order in which they came, which is also the order in which their time is over.
        self._kept: dict[K, tuple[float, int, V]] = {}
        self._running: dict[K, list[Deferred[V]]] = {}
        self._work: dict[K, Deferred[V]] = {}

    def get(self, key: K, work: Callable[[], Awaitable[V]]) -> Deferred[V]:
        """What is kept, or what the work under way will give, or what new work will. Raises Busy."""
        kept = self._kept.get(key)
        if kept is not None and kept[0] > self._clock.monotonic():
            return succeed(kept[2])
        waiter: Deferred[V] = Deferred()
        if key in self._running:
            self._running[key].append(waiter)
            return waiter
        if len(self._running) >= self._most_running:
            raise Busy
        self._running[key] = [waiter]
        self._begin(key, work)
        return waiter

    def _begin(self, key: K, work: Callable[[], Awaitable[V]]) -> None:
        async def run() -> V:
            return await work()

        coroutine: Coroutine[Any, Any, V] = run()
        doing = self._work[key] = Deferred.fromCoroutine(coroutine)

        def done(value: V) -> None:
            self._keep(key, value)
            for waiter in self._end(key):
                if not waiter.called:
                    waiter.callback(value)

        def failed(failure: Failure) -> None:
            for waiter in self._end(key):
                if not waiter.called:
                    waiter.errback(failure)

        doing.addCallback(done)
        doing.addErrback(failed)

    def _end(self, key: K) -> list[Deferred[V]]:
        self._work.pop(key, None)
        return self._running.pop(key, [])

    def _keep(self, key: K, value: V) -> None:
        self.forget(key)
        size = self._size(value)
        if self._keep_s <= 0 or size > self._budget:
            return
        now_s = self._clock.monotonic()
        self._kept[key] = (now_s + self._keep_s, size, value)
        self._bytes += size
        for oldest, (until_s, _, _) in list(self._kept.items()):
            if until_s > now_s and self._bytes <= self._budget:
                break
            self.forget(oldest)

    def is_wanted(self, key: K) -> bool:
        """Whether anybody still waits for work that is under way."""
        return any(not waiter.called for waiter in self._running.get(key, ()))

    def forget(self, key: K) -> None:
        """Ask anew the next time."""
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._bytes -= kept[1]

    def stop(self) -> None:
        """Break off what is being done; whoever waits for it is told so."""
        for doing in list(self._work.values()):
            doing.cancel()
