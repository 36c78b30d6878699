"""The clock adapters over Twisted's virtual time."""

from __future__ import annotations

from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock as VirtualTime
from twisted.trial.unittest import SynchronousTestCase

from homeserver.runtime.clock import Clock, ReactorClock, TwistedClock, sleep


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

    def test_the_reactor_clock_measures_with_another_clock_than_wall_time(self) -> None:
        self.time.advance(1_700_000_000)
        clock = ReactorClock(self.time)
        before = clock.monotonic()
        self.time.advance(-1_000_000)  # somebody sets the machine's clock back
        self.assertGreaterEqual(clock.monotonic(), before)
        self.assertEqual(clock.seconds(), 1_699_000_000)
