"""SharedWork: work by name. One at a time for each name, whoever wants it; so many at once, and so many in all."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred, DeferredSemaphore

from federation.ids import ServerName
from homeserver.runtime.clock import Clock
from homeserver.runtime.tasks import TaskGroup


class SharedWork:
    """See the module. What comes of the work is the worker's to keep."""

    def __init__(self, label: str, tasks: TaskGroup, clock: Clock, *, parallel: int, most: int) -> None:
        self._label = label
        self._tasks = tasks
        self._clock = clock
        self._most = most
        self._places = DeferredSemaphore(parallel)
        self._running: dict[ServerName, list[Deferred[None]]] = {}

    def __contains__(self, name: ServerName) -> bool:
        return name in self._running

    @property
    def is_full(self) -> bool:
        """Whether nothing more may be begun."""
        return len(self._running) >= self._most

    def start(self, name: ServerName, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Begin, unless it runs already."""
        if name not in self._running:
            self._running[name] = []
            # A task of its own: whoever gives up waiting must not take it from the others.
            try:
                self._tasks.spawn(self._label, self._run(name, work))
            except RuntimeError:
                # The server is stopping: nothing comes of it.
                del self._running[name]

    async def wait(
        self,
        name: ServerName,
        work: Callable[[], Coroutine[Any, Any, object]],
        patience_s: float | None = None,
    ) -> None:
        """Wait for the work on this name, which is begun where it does not run; at most so long."""
        self.start(name, work)
        # Starting may have finished it already.
        waiters = self._running.get(name)
        if waiters is None:
            return
        waiter: Deferred[None] = Deferred()
        waiters.append(waiter)
        if patience_s is None:
            await waiter
            return
        timer = self._clock.callLater(patience_s, waiter.callback, None)
        try:
            await waiter
        finally:
            if timer.active():
                timer.cancel()

    async def _run(self, name: ServerName, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        try:
            await self._places.acquire()
            try:
                await work()
            finally:
                self._places.release()
        finally:
            for waiter in self._running.pop(name):
                if not waiter.called:
                    waiter.callback(None)
