"""Time as an argument: the `Clock` protocol and its adapters over Twisted's `IReactorTime`.

Contract:
1. `seconds()` and `now_ms()` are wall time (since 1970); they may jump when the machine's clock is set.
2. `monotonic()` never goes back; its origin means nothing. Measure durations with it, and nothing else.
3. `callLater()` treats a negative delay as zero, so that a deadline in the past is simply due.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from twisted.internet.defer import Deferred

# Protocols instead of Twisted's zope interfaces: those tell a type checker nothing.


class DelayedCall(Protocol):
    """A timer that was set: the part of Twisted's `IDelayedCall` that we use."""

    def active(self) -> bool:
        """Whether it is still to come."""

    def cancel(self) -> None:
        """Forget the call. Raises when it has been made or cancelled already."""

    def reset(self, secondsFromNow: float, /) -> None:  # noqa: N803 (Twisted's name)
        """Move the call to so many seconds from now."""


class ReactorTime(Protocol):
    """The part of Twisted's `IReactorTime` that we use."""

    def seconds(self) -> float:
        """Seconds since 1970, or virtual time."""

    def callLater(  # noqa: N802 (Twisted's name)
        self, delay: float, function: Callable[..., object], /, *args: Any, **kwargs: Any
    ) -> DelayedCall:
        """Call `function` after `delay` seconds."""


class Clock(Protocol):
    """What the server knows about time. Production, unit tests and the simulator each supply one."""

    def seconds(self) -> float:
        """Wall time in seconds since 1970."""

    def now_ms(self) -> int:
        """Wall time in whole milliseconds since 1970, the unit of `origin_server_ts`."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary origin that never go back."""

    def callLater(  # noqa: N802 (Twisted's name, so that a Clock also serves where only callLater is asked for)
        self, delay: float, function: Callable[..., object], /, *args: Any, **kwargs: Any
    ) -> DelayedCall:
        """Call `function` after `delay` seconds; the answer can be cancelled and reset."""


class TwistedClock:
    """A `Clock` over any `IReactorTime`: `twisted.internet.task.Clock` in tests, the simulator's heap."""

    __slots__ = ("_reactor",)

    def __init__(self, reactor: ReactorTime) -> None:
        self._reactor = reactor

    def seconds(self) -> float:
        return self._reactor.seconds()

    def now_ms(self) -> int:
        return int(self._reactor.seconds() * 1000)

    def monotonic(self) -> float:
        """Virtual time only moves forward, so it serves as its own monotonic clock."""
        return self._reactor.seconds()

    def callLater(  # noqa: N802
        self, delay: float, function: Callable[..., object], /, *args: Any, **kwargs: Any
    ) -> DelayedCall:
        return self._reactor.callLater(max(delay, 0.0), function, *args, **kwargs)


class ReactorClock(TwistedClock):
    """The `Clock` of a real process: the reactor's timers, and the machine's monotonic clock."""

    __slots__ = ()

    def monotonic(self) -> float:
        return time.monotonic()


@contextmanager
def unless_over(clock: Clock, delay_s: float, late: Callable[..., object], *args: Any) -> Iterator[None]:
    """Call something if the block is not over by then."""
    timer = clock.callLater(delay_s, late, *args)
    try:
        yield
    finally:
        if timer.active():
            timer.cancel()


def sleep(clock: Clock, delay_s: float) -> Deferred[None]:
    """Fire after `delay_s` seconds. Cancelling the Deferred also cancels the timer."""

    def cancel(_: Deferred[None]) -> None:
        call.cancel()

    waiting: Deferred[None] = Deferred(cancel)
    call = clock.callLater(delay_s, waiting.callback, None)
    return waiting
