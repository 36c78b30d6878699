"""The clock adapters over Twisted's virtual time."""

from __future__ import annotations

import time
from typing import Any

from twisted.internet.base import ReactorBase
from twisted.internet.defer import CancelledError
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import Clock as VirtualTime
from twisted.trial.unittest import SynchronousTestCase

from homeserver.runtime.clock import LOOK_AGAIN_S, Clock, ReactorClock, Timer, TwistedClock, call_at, sleep
from tests.support.clocks import set_clock


class ClockTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.time = VirtualTime()
        self.clock: Clock = TwistedClock(self.time)

    def test_now_ms_is_whole_milliseconds_of_wall_time(self) -> None:
        self.time.advance(1_700_000_000.1239)
        self.assertEqual(self.clock.now_ms(), 1_700_000_000_123)
        self.assertIsInstance(self.clock.now_ms(), int)
        self.assertEqual(self.clock.seconds(), self.clock.monotonic())

    def test_a_call_is_made_when_due_with_its_arguments(self) -> None:
        made: list[tuple[int, str]] = []
        self.clock.callLater(2, lambda number, word="": made.append((number, word)), 7, word="x")
        self.time.advance(1.9)
        self.assertEqual(made, [])
        self.time.advance(0.2)
        self.assertEqual(made, [(7, "x")])

    def test_a_deadline_in_the_past_is_due_now(self) -> None:
        made: list[int] = []
        self.clock.callLater(-5, made.append, 1)
        self.time.advance(0)
        self.assertEqual(made, [1])

    def test_sleep_fires_and_can_be_cancelled(self) -> None:
        waiting = sleep(self.clock, 3)
        self.assertNoResult(waiting)
        self.time.advance(3)
        self.assertIsNone(self.successResultOf(waiting))
        cancelled = sleep(self.clock, 3)
        cancelled.cancel()
        self.failureResultOf(cancelled, CancelledError)
        self.assertEqual(self.time.getDelayedCalls(), [])


class RealTimeTests(SynchronousTestCase):
    """A process: its reactor, and a machine whose clock may be set."""

    def setUp(self) -> None:
        self.wall_s, self.running_s = 1_700_000_000.0, 50.0
        self.patch(time, "time", lambda: self.wall_s)
        self.patch(time, "monotonic", lambda: self.running_s)
        self.patch(ReactorBase, "seconds", staticmethod(lambda: self.wall_s))
        self.reactor: Any = SelectReactor()
        self.addCleanup(self.reactor.removeAll)
        self.clock: Clock = ReactorClock(self.reactor)

    def test_wall_time_is_the_machine_s(self) -> None:
        self.wall_s -= 1_000_000.5
        self.assertEqual(1_698_999_999.5, self.clock.seconds())
        self.assertEqual(1_698_999_999_500, self.clock.now_ms())
        self.assertEqual(50, self.clock.monotonic())

    def test_timers_do_not_wait_for_a_clock_that_was_set_back(self) -> None:
        made: list[int] = []
        self.clock.callLater(5, made.append, 1)
        self.wall_s -= 3_600
        self.running_s += 4
        self.reactor.runUntilCurrent()
        self.assertEqual([], made)
        self.running_s += 1
        self.reactor.runUntilCurrent()
        self.assertEqual([1], made)


HOUR_MS = 3_600_000


class WallTimeTests(SynchronousTestCase):
    """What is due at a wall time, while the machine's clock may be set."""

    def setUp(self) -> None:
        self.time = VirtualTime()
        self.time.rightNow = 1_700_000_000.0
        self.clock: Clock = TwistedClock(self.time)
        self.made: list[str] = []

    def pass_time(self, seconds: float) -> None:
        """Second by second, so that each timer has its moment."""
        for _ in range(int(seconds)):
            self.time.advance(1)

    def due_in(self, wait_ms: int, longest_ms: int | None = None) -> Timer:
        return call_at(
            self.clock, self.clock.now_ms() + wait_ms, self.made.append, "made", longest_ms=longest_ms
        )

    def test_called_at_its_time(self) -> None:
        for wait_ms in (10_000, HOUR_MS):
            timer = self.due_in(wait_ms)
            self.pass_time(wait_ms // 1000 - 1)
            self.assertEqual(([], True), (self.made, timer.active()))
            self.pass_time(1)
            self.assertEqual((["made"], False), (self.made, timer.active()))
            self.made.clear()
        self.assertEqual([], self.time.getDelayedCalls())

    def test_what_is_due_already_is_called_in_a_turn_of_its_own(self) -> None:
        self.due_in(-5_000)
        self.assertEqual([], self.made)
        self.time.advance(0)
        self.assertEqual(["made"], self.made)

    def test_cancelled(self) -> None:
        timers = [self.due_in(1_000), self.due_in(HOUR_MS)]
        timers[0].cancel()
        self.pass_time(2 * LOOK_AGAIN_S)
        timers[1].cancel()
        self.assertEqual([False, False], [timer.active() for timer in timers])
        self.assertEqual([], self.time.getDelayedCalls())
        self.pass_time(HOUR_MS // 1000)
        self.assertEqual([], self.made)

    def test_the_clock_is_set_forward(self) -> None:
        self.due_in(10 * HOUR_MS)
        self.pass_time(100)
        set_clock(self, 11 * 3_600)
        self.pass_time(LOOK_AGAIN_S)
        self.assertEqual(["made"], self.made)

    def test_the_clock_is_set_back(self) -> None:
        """It is called when wall time is there, once more."""
        timer = self.due_in(60_000)
        set_clock(self, -3_600)
        self.pass_time(3_600 + 59)
        self.assertEqual(([], True), (self.made, timer.active()))
        self.pass_time(1)
        self.assertEqual(["made"], self.made)

    def test_who_never_waits_so_long_is_called_soon_where_the_clock_is_set_back(self) -> None:
        self.due_in(300_000, longest_ms=600_000)
        set_clock(self, -200)
        self.pass_time(499)
        self.assertEqual([], self.made)
        set_clock(self, -3_600)
        self.pass_time(LOOK_AGAIN_S)
        self.assertEqual(["made"], self.made)
        self.due_in(HOUR_MS, longest_ms=600_000)
        self.assertEqual(["made"], self.made)
        self.time.advance(0)
        self.assertEqual(["made"] * 2, self.made)
