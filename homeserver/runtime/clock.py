"""Time as an argument: the `Clock` protocol and its adapters over Twisted's `IReactorTime`.

Contract:
1. `seconds()` and `now_ms()` are wall time (since 1970); they may jump when the machine's clock is set.
2. `monotonic()` never goes back; its origin means nothing. Measure durations with it, and nothing else.
3. `callLater()` measures as `monotonic()` does. It treats a negative delay as zero, so that a deadline in the past is
   simply due.
4. What is due at a wall time is waited for with `call_at`: by then that may be sooner or later than it seems now.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred

# Whoever waits for a wall time looks at it this often: the machine's clock may have been set.
LOOK_AGAIN_S: Final = 30.0

# Protocols instead of Twisted's zope interfaces: those tell a type checker nothing.


class Timer(Protocol):
    """A call that is to come."""

    def active(self) -> bool:
        """Whether it is still to come."""

    def cancel(self) -> None:
        """Forget the call. Raises when it has been made or cancelled already."""


class DelayedCall(Timer, Protocol):
    """A timer that was set: the part of Twisted's `IDelayedCall` that we use."""

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
    """The `Clock` of a real process: the reactor's timers, and the machine's two clocks.

    From here on the reactor measures with the monotonic one. Of itself Twisted compares its timers with wall time: where
    that is set back, all that are set already wait for as long as the step.
    """

    __slots__ = ()

    def __init__(self, reactor: Any) -> None:
        super().__init__(reactor)
        reactor.seconds = time.monotonic

    def seconds(self) -> float:
        return time.time()

    def now_ms(self) -> int:
        return int(time.time() * 1000)

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


class _WallTimer:
    """See `call_at`."""

    __slots__ = ("_args", "_call", "_clock", "_due_ms", "_function", "_longest_ms")

    def __init__(
        self,
        clock: Clock,
        due_ms: int,
        function: Callable[..., object],
        args: tuple[Any, ...],
        longest_ms: int | None,
    ) -> None:
        self._clock = clock
        self._due_ms = due_ms
        self._function = function
        self._args = args
        self._longest_ms = longest_ms
        self._call = self._set(self._left_ms())

    def _left_ms(self) -> int:
        left_ms = max(self._due_ms - self._clock.now_ms(), 0)
        return 0 if self._longest_ms is not None and left_ms > self._longest_ms else left_ms

    def _set(self, left_ms: int) -> DelayedCall:
        return self._clock.callLater(min(left_ms / 1000, LOOK_AGAIN_S), self._look)

    def _look(self) -> None:
        left_ms = self._left_ms()
        if left_ms:
            self._call = self._set(left_ms)
        else:
            self._function(*self._args)

    def active(self) -> bool:
        return self._call.active()

    def cancel(self) -> None:
        self._call.cancel()


def call_at(
    clock: Clock, due_ms: int, function: Callable[..., object], /, *args: Any, longest_ms: int | None = None
) -> Timer:
    """Call something when wall time is there. Where the clock is set forward over it, that is noticed within `LOOK_AGAIN_S`.

    Who never waits longer than `longest_ms` says so: what is due later than that was due by a clock that has been set
    back since, and is called for. Without it (a time that somebody has chosen) it is waited for, however long that is.
    """
    return _WallTimer(clock, due_ms, function, args, longest_ms)
