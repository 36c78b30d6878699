"""Places for answers that hold whole rooms: who may take a large one into memory, and whose turn it is.

1. What is small, or brings nothing, needs no place: a server that leaves us waiting keeps nobody else waiting.
2. So many have a place at once, and of those that one server answers a single one.
3. Who has had a place for the shortest time so far is the next: a room that comes again and again lets others go first.
"""

from __future__ import annotations

from collections.abc import Hashable

from twisted.internet.defer import Deferred

from homeserver.http.transport import AnswerTooLarge
from homeserver.rooms.federated.large_answers import Body
from homeserver.runtime.clock import Clock


class Places:
    """See the module. Each purpose waits for, or has, one place at most."""

    def __init__(self, most: int, clock: Clock) -> None:
        self._most = most
        self._clock = clock
        self._held: dict[Hashable, tuple[str, float]] = {}  # purpose -> whose answer, since when
        self._waiting: dict[Hashable, tuple[str, Deferred[None]]] = {}  # who waits for the longest first
        self._used_s: dict[Hashable, float] = {}

    def take(self, purpose: Hashable, server: str) -> bool:
        """Have a place at once, or go on having it; False: there is none."""
        if purpose in self._held:
            return True
        if len(self._held) >= self._most or any(server == other for other, _ in self._held.values()):
            return False
        self._held[purpose] = (server, self._clock.monotonic())
        return True

    async def wait(self, purpose: Hashable, server: str) -> None:
        """Have a place as soon as there is one."""
        if self.take(purpose, server):
            return
        waiting: Deferred[None] = Deferred()
        self._waiting[purpose] = (server, waiting)
        try:
            await waiting
        finally:
            self._waiting.pop(purpose, None)

    def release(self, purpose: Hashable) -> None:
        """Have a place no longer, if there was one."""
        held = self._held.pop(purpose, None)
        if held is None:
            return
        self._used_s[purpose] = self._used(purpose) + self._clock.monotonic() - held[1]
        for other in sorted(self._waiting, key=self._used):
            server, waiting = self._waiting[other]
            if self.take(other, server):
                del self._waiting[other]
                waiting.callback(None)
                return

    def forget(self, purpose: Hashable) -> None:
        """It is over."""
        self.release(purpose)
        self._used_s.pop(purpose, None)

    def _used(self, purpose: Hashable) -> float:
        return self._used_s.get(purpose, 0.0)


class Taking:
    """One answer as it comes in: beyond a size it needs a place, and ends where there is none."""

    def __init__(self, body: Body, free_bytes: int, places: Places, purpose: Hashable, server: str) -> None:
        self.body = body
        self.is_turned_away = False
        self._free_bytes = free_bytes
        self._places = places
        self._purpose = purpose
        self._server = server

    def receive(self, data: bytes) -> None:
        """The next piece; raises ``AnswerTooLarge``."""
        self.body.receive(data)
        if self.body.size > self._free_bytes and not self._places.take(self._purpose, self._server):
            self.is_turned_away = True
            raise AnswerTooLarge("there is no place for a large room just now")
