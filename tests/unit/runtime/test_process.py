"""Driving a reactor: work to its end, and a server through every order of starting, stopping and failing."""

from __future__ import annotations

import signal
from unittest import mock

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.trial.unittest import SynchronousTestCase

from homeserver.runtime.clock import TwistedClock, sleep
from homeserver.runtime.log import MemoryLog
from homeserver.runtime.process import STOP_WITHIN_S, InterruptedWorkError, run_server, run_to_end
from tests.unit.cli.fakes import FakeReactor


class RunToEndTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.clock = TwistedClock(self.reactor)

    def test_returns_what_the_work_returns(self) -> None:
        async def work() -> int:
            await sleep(self.clock, 3)
            return 42

        self.assertEqual(run_to_end(self.reactor, work), 42)
        self.assertFalse(self.reactor.running)

    def test_work_that_never_waits_ends_too(self) -> None:
        async def work() -> None:
            return None

        self.assertIsNone(run_to_end(self.reactor, work))

    def test_raises_what_the_work_raises(self) -> None:
        async def work() -> None:
            await sleep(self.clock, 1)
            raise LookupError("gone")

        with self.assertRaises(LookupError):
            run_to_end(self.reactor, work)

    def test_a_port_that_is_taken_is_said_clearly(self) -> None:
        async def work() -> None:
            raise CannotListenError("", 8008, OSError(98, "Address already in use"))

        with self.assertRaises(OSError) as caught:
            run_to_end(self.reactor, work)
        self.assertEqual(str(caught.exception), "cannot listen on any address:8008: Address already in use")

    def test_a_reactor_stopped_by_a_signal_is_an_interruption(self) -> None:
        async def work() -> None:
            await sleep(self.clock, 100)

        self.reactor.callLater(5, self.reactor.stop)
        with self.assertRaises(InterruptedWorkError):
            run_to_end(self.reactor, work)


class Life:
    """A server that takes as long as it is told to."""

    def __init__(self, clock: TwistedClock) -> None:
        self.clock = clock
        self.start_takes_s = 0.0
        self.stop_takes_s = 0.0
        self.start_error: Exception | None = None
        self.stop_error: Exception | None = None
        self.happened: list[str] = []

    async def start(self) -> None:
        await self._pass(self.start_takes_s)
        if self.start_error is not None:
            raise self.start_error
        self.happened.append("started")

    async def stop(self) -> None:
        self.happened.append("stopping")
        await self._pass(self.stop_takes_s)
        if self.stop_error is not None:
            raise self.stop_error
        self.happened.append("stopped")

    @property
    def ending(self) -> str:
        return f"{self.stop_takes_s:.0f} seconds"

    def reload(self) -> None:
        self.happened.append("reload")

    def _pass(self, duration_s: float) -> Deferred[None]:
        return sleep(self.clock, duration_s)


class RunServerTests(SynchronousTestCase):
    def setUp(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        self.reactor = FakeReactor()
        self.clock = TwistedClock(self.reactor)
        self.log = MemoryLog()
        self.life = Life(self.clock)

    def run_with_signals(self, *signals: tuple[float, signal.Signals]) -> None:
        for moment_s, number in signals:
            self.reactor.callLater(moment_s, signal.raise_signal, number)
        run_server(self.reactor, self.clock, self.log, self.life)

    def test_runs_until_the_signal(self) -> None:
        self.run_with_signals((5, signal.SIGHUP), (10, signal.SIGTERM), (10, signal.SIGINT))
        self.assertEqual(self.life.happened, ["started", "reload", "stopping", "stopped"])
        self.assertEqual(self.log.entries, [])

    def test_a_signal_during_the_start_stops_after_it(self) -> None:
        self.life.start_takes_s = 3
        self.run_with_signals((1, signal.SIGHUP), (1, signal.SIGTERM))
        self.assertEqual(self.life.happened, ["started", "stopping", "stopped"])

    def test_a_start_that_fails_lets_go_of_what_it_had(self) -> None:
        self.life.start_error = ValueError("no database")
        with self.assertRaises(ValueError):
            self.run_with_signals()
        self.assertEqual(self.life.happened, ["stopping", "stopped"])

    def test_a_stop_that_fails_is_logged_and_raised(self) -> None:
        self.life.stop_error = ValueError("disk full")
        with self.assertRaises(ValueError):
            self.run_with_signals((1, signal.SIGTERM))
        self.assertEqual(self.log.events("error"), ["stop failed"])

    def test_a_stop_that_hangs_is_left_behind_in_time(self) -> None:
        self.life.stop_takes_s = 1000
        left_at: list[float] = []

        def leave(status: int) -> None:
            self.assertEqual(status, 1)
            left_at.append(self.clock.seconds())
            self.reactor.stop()

        with mock.patch("homeserver.runtime.process.leave_now", leave):
            self.run_with_signals((10, signal.SIGTERM))
        self.assertEqual(len(left_at), 1)
        self.assertLess(left_at[0], 10 + STOP_WITHIN_S + 0.3)
        self.assertEqual(self.log.events("error"), ["stop took too long, leaving"])
        self.assertEqual(self.log.entries[-1][2]["waited_for"], "1000 seconds")

    def test_a_stop_that_hangs_is_left_behind_also_where_that_cannot_be_told(self) -> None:
        self.life.stop_takes_s = 1000
        left: list[int] = []

        def leave(status: int) -> None:
            left.append(status)
            self.reactor.stop()

        with (
            mock.patch("homeserver.runtime.process.leave_now", leave),
            mock.patch.object(MemoryLog, "error", side_effect=ValueError("no log")),
            self.assertRaises(ValueError),
        ):
            self.run_with_signals((10, signal.SIGTERM))
        self.assertEqual(left, [1])
