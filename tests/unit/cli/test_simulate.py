"""What `chaos sim` understands of the simulator's output."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

import homeserver
from homeserver.cli.operations import OperationError, SimulationReport
from homeserver.cli.simulate import MAX_LINE, SimulatorOutput, run_simulator


class Simulating(TestCase):
    """What is understood of the simulator's output."""

    def setUp(self) -> None:
        self.progress: list[tuple[int, int | None]] = []
        self.output = SimulatorOutput(3, self.note)

    def note(self, label: str, done: int, total: int | None = None) -> None:
        self.progress.append((done, total))

    def test_report(self) -> None:
        text = b"seed 5\nseed 5 ok\nseed 6: lost an event\n  also: another\nseed 7 ok\n3 seeds, 120 events, 1 failed\n"
        for place in range(0, len(text), 7):
            self.output.outReceived(text[place : place + 7])
        self.output.processEnded(Failure(ProcessTerminated(1)))
        report = self.successResultOf(self.output.report)
        self.assertEqual(report, SimulationReport(3, 120, {6: "lost an event"}))
        self.assertEqual(self.progress, [(1, 3), (2, 3), (3, 3)])

    def test_a_simulator_that_breaks_off(self) -> None:
        self.output.outReceived(b"seed 5\n")
        self.output.errReceived(b"Traceback\nValueError: oh\n")
        self.output.processEnded(Failure(ProcessTerminated(1)))
        failure = self.failureResultOf(self.output.report, OperationError)
        self.assertEqual(str(failure.value), "the simulator broke off: ValueError: oh")

    def test_a_simulator_that_says_nothing(self) -> None:
        self.output.processEnded(Failure(ProcessDone(0)))
        self.failureResultOf(self.output.report, OperationError)

    def test_endless_lines_take_no_memory(self) -> None:
        for _ in range(100):
            self.output.outReceived(b"x" * MAX_LINE)
        self.assertLessEqual(len(self.output._pending["out"]), MAX_LINE)
        self.output.outReceived(b"\n3 seeds, 1 events, 0 failed")
        self.output.processEnded(Failure(ProcessDone(0)))
        self.assertEqual(self.successResultOf(self.output.report).failed, {})

    def test_an_installed_server_has_none(self) -> None:
        folder = Path(self.mktemp()).absolute()
        self.patch(homeserver, "__file__", str(folder / "homeserver" / "__init__.py"))

        def nobody(label: str, done: int, total: int | None = None) -> None:
            raise AssertionError("nothing is done")

        task = Deferred.fromCoroutine(run_simulator(None, 1, 1, nobody))
        failure = self.failureResultOf(task, OperationError)
        self.assertIn("part of the source tree", str(failure.value))
