"""Who waits for files that are still to come. In memory: whoever waits holds a connection of this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from twisted.internet.defer import Deferred

from homeserver.runtime.clock import Clock

Address = tuple[str, str]


class Waiters:
    """Deferreds by address. Each fires once: when the file has come, or when its time is over."""

    __slots__ = ("_clock", "_waiting")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: dict[Address, list[Deferred[None]]] = {}

    @contextmanager
    def wait(self, address: Address, timeout_s: float) -> Iterator[Deferred[None]]:
        """A Deferred to wait for inside the block."""
        waiting: Deferred[None] = Deferred()
        those = self._waiting.setdefault(address, [])
        those.append(waiting)
        timer = self._clock.callLater(timeout_s, _fire, waiting)
        try:
            yield waiting
        finally:
            if timer.active():
                timer.cancel()
            if waiting in those:
                those.remove(waiting)
            if not those and self._waiting.get(address) is those:
                del self._waiting[address]

    def release(self, address: Address) -> None:
        """The file is there."""
        for waiting in list(self._waiting.get(address, ())):
            _fire(waiting)


def _fire(waiting: Deferred[None]) -> None:
    if not waiting.called:
        waiting.callback(None)
