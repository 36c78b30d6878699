"""Race: several ways to one goal, begun one after the other; the first that succeeds wins. spec: RFC 8305"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from homeserver.runtime.clock import Clock, DelayedCall

T = TypeVar("T")


class Race(Generic[T]):
    """`result` fires with the first success, or fails as the last way did. Cancelling it cancels all."""

    def __init__(self, ways: Sequence[Callable[[], Deferred[T]]], clock: Clock, stagger_s: float) -> None:
        if not ways:
            raise ValueError("a race needs a way")
        self.result: Deferred[T] = Deferred(lambda _: self._end())
        self._ways = list(ways)
        self._clock = clock
        self._stagger_s = stagger_s
        self._running: list[Deferred[T]] = []
        self._timer: DelayedCall | None = None
        self._over = False
        self._next()

    def _next(self) -> None:
        """Begin one more way: when the one before has failed, or takes long."""
        self._stop_timer()
        if self._over or not self._ways:
            return
        running = self._ways.pop(0)()
        self._running.append(running)
        running.addCallbacks(self._won, self._failed, callbackArgs=(running,), errbackArgs=(running,))
        if self._ways and self._timer is None and not self.result.called:
            self._timer = self._clock.callLater(self._stagger_s, self._next)

    def _won(self, value: T, running: Deferred[T]) -> None:
        self._running.remove(running)
        if not self._over:
            self._end()
            self.result.callback(value)

    def _failed(self, failure: Failure, running: Deferred[T]) -> None:
        self._running.remove(running)
        if self._over:
            return
        if self._ways:
            self._next()
        elif not self._running:
            self._end()
            self.result.errback(failure)

    def _end(self) -> None:
        self._over = True
        self._stop_timer()
        for running in list(self._running):
            running.cancel()

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
