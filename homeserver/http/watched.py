"""A request for something large: whoever takes its body may end it, and it may not be too slow."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from twisted.internet.defer import CancelledError, Deferred

from homeserver.http.transport import PeerResponse, Unreachable
from homeserver.runtime.clock import Clock

# LIMIT(it comes at this pace once it comes at all, looked at every so often)
WATCH_S: Final = 20.0
SLOWEST_BYTES: Final = 20_480

Take = Callable[[bytes], None]
Ask = Callable[[Take], Awaitable[PeerResponse]]


class Watched:
    """One request. ``take`` raises when it wants no more, and is given nothing after that."""

    def __init__(self, clock: Clock, take: Take) -> None:
        self._clock = clock
        self._take = take
        self._came = 0
        self._asking: Deferred[PeerResponse] | None = None
        self._problem: Exception | None = None

    async def run(self, ask: Ask, wait_s: float) -> PeerResponse:
        """The answer to ``ask(receive)``, which need not begin before ``wait_s``. Raises what ended it."""

        async def asking() -> PeerResponse:
            return await ask(self._receive)

        timer = self._clock.callLater(wait_s + WATCH_S, lambda: look(0))

        def look(before: int) -> None:
            nonlocal timer
            if self._came - before < SLOWEST_BYTES:
                self._end(Unreachable("It comes too slowly"))
            else:
                timer = self._clock.callLater(WATCH_S, look, self._came)

        self._asking = Deferred.fromCoroutine(asking())
        try:
            answer = await self._asking
        except (CancelledError, Unreachable):
            if self._problem is None:
                raise
            raise self._problem from None
        finally:
            if timer.active():
                timer.cancel()
        if self._problem is not None:
            raise self._problem
        return answer

    def _receive(self, data: bytes) -> None:
        self._came += len(data)
        if self._problem is None:
            try:
                self._take(data)
            except Exception as error:  # noqa: BLE001 (it goes to whoever waits)
                self._end(error)

    def _end(self, problem: Exception) -> None:
        if self._problem is None:
            self._problem = problem
            # In a turn of its own: whoever hands the bytes over is in the middle of doing so.
            self._clock.callLater(0, self._cancel)

    def _cancel(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
