"""Virtual time: a heap behind Twisted's ``IReactorTime``, and each server life's own view of it.

``twisted.internet.task.Clock`` sorts its list at every call (18 ms a timer at 10,000 pending); a heap does not care.
Calls of one moment run in the order in which they were made.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from twisted.internet.error import AlreadyCalled, AlreadyCancelled

START_S = 1_700_000_000.0


class SimCall:
    """A timer."""

    __slots__ = ("_clock", "args", "function", "kwargs", "state", "when")

    def __init__(
        self, clock: SimClock, when: float, function: Callable[..., object], args: Any, kwargs: Any
    ) -> None:
        self._clock = clock
        self.when = when
        self.function = function
        self.args = args
        self.kwargs = kwargs
        self.state = "waiting"

    def active(self) -> bool:
        """Whether it is still to come."""
        return self.state == "waiting"

    def cancel(self) -> None:
        """Forget the call."""
        self._check()
        self.state = "cancelled"

    def reset(self, secondsFromNow: float) -> None:
        """Move it to so many seconds from now."""
        self._check()
        self.when = self._clock.seconds() + secondsFromNow
        self._clock.push(self)

    def _check(self) -> None:
        if self.state == "cancelled":
            raise AlreadyCancelled
        if self.state == "called":
            raise AlreadyCalled


class SimClock:
    """The time of a simulated world."""

    def __init__(self) -> None:
        self._now_s = START_S
        self._heap: list[tuple[float, int, SimCall]] = []
        self._made = 0

    def seconds(self) -> float:
        """The virtual time."""
        return self._now_s

    def callLater(
        self, delay: float, function: Callable[..., object], /, *args: Any, **kwargs: Any
    ) -> SimCall:
        """Call ``function`` after ``delay`` virtual seconds."""
        call = SimCall(self, self._now_s + max(delay, 0.0), function, args, kwargs)
        self.push(call)
        return call

    def push(self, call: SimCall) -> None:
        """Put a call in its place; an older place of it is passed over."""
        self._made += 1
        heappush(self._heap, (call.when, self._made, call))

    def step(self, upto: float) -> bool:
        """Make the next call that is due until ``upto``; False where there is none, and time is then ``upto``."""
        while self._heap and self._heap[0][0] <= upto:
            when, _, call = heappop(self._heap)
            if call.state != "waiting" or call.when != when:
                continue
            self._now_s = max(self._now_s, when)
            call.state = "called"
            call.function(*call.args, **call.kwargs)
            return True
        self._now_s = max(self._now_s, upto)
        return False

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        upto = self._now_s + seconds
        while self.step(upto):
            pass


class LifeClock:
    """The clock of one life of a server: dead when the server is, with every timer that was set."""

    def __init__(self, clock: SimClock) -> None:
        self._clock = clock
        self._calls: list[SimCall] = []
        self.dead = False

    def seconds(self) -> float:
        """Wall time."""
        return self._clock.seconds()

    def now_ms(self) -> int:
        """Wall time in milliseconds."""
        return int(self._clock.seconds() * 1000)

    def monotonic(self) -> float:
        """Virtual time never goes back."""
        return self._clock.seconds()

    def callLater(
        self, delay: float, function: Callable[..., object], /, *args: Any, **kwargs: Any
    ) -> SimCall:
        """Call ``function`` later, if the server still lives then."""
        call = self._clock.callLater(delay, function, *args, **kwargs)
        if self.dead:
            call.cancel()
            return call
        self._calls.append(call)
        if len(self._calls) > 5_000:
            self._calls = [one for one in self._calls if one.active()]
        return call

    def kill(self) -> None:
        """The process is gone."""
        self.dead = True
        for call in self._calls:
            if call.active():
                call.cancel()
        self._calls.clear()
