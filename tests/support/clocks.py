"""A machine whose clock is set while the server runs."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from homeserver.runtime.clock import Clock, TwistedClock


def set_clock(case: SynchronousTestCase, by_s: float) -> None:
    """Set the machine's clock: so many seconds off from what it was at first. Timers go on, as they do in a process."""

    def seconds(clock: Clock) -> float:
        return clock.monotonic() + by_s

    def now_ms(clock: Clock) -> int:
        return int(seconds(clock) * 1000)

    case.patch(TwistedClock, "seconds", seconds)
    case.patch(TwistedClock, "now_ms", now_ms)
