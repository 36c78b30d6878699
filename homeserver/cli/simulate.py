"""Runs the simulator, which is part of the source tree and not of the product, as a program of its own.

What is agreed with it: `python -m tests.sim --seed N --seeds M` writes one line `seed N: what went wrong` for each
seed that fails and at the end `M seeds, E events, F failed`; other lines are for people and passed over here.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

import homeserver
from homeserver.cli.operations import OperationError, Progress, SimulationReport

MAX_LINE = 20_000
_FAILED = re.compile(r"seed (\d{1,19}): (.+)")
_DONE = re.compile(r"seed (\d{1,19}) ok")
_TOTAL = re.compile(r"(\d{1,19}) seeds?, (\d{1,19}) events?, (\d{1,19}) failed")


def source_tree() -> Path:
    """The folder that holds the simulator; an installed server has none."""
    folder = Path(homeserver.__file__).resolve().parents[1]
    if not (folder / "tests" / "sim" / "__main__.py").is_file():
        raise OperationError("the simulator is part of the source tree, and this is an installed server")
    return folder


async def run_simulator(reactor: Any, first_seed: int, seeds: int, progress: Progress) -> SimulationReport:
    """Run so many seeds; what failed is in the report. Raises OperationError where the simulator itself failed."""
    folder = source_tree()
    output = SimulatorOutput(seeds, progress)
    command = [sys.executable, "-m", "tests.sim", "--seed", str(first_seed), "--seeds", str(seeds)]
    process = reactor.spawnProcess(output, sys.executable, command, env=None, path=str(folder))
    # Who interrupts the command means the simulator, too.
    trigger = reactor.addSystemEventTrigger("before", "shutdown", output.give_up, process)
    try:
        return await output.report
    finally:
        reactor.removeSystemEventTrigger(trigger)


class SimulatorOutput(ProcessProtocol):
    """Reads what the simulator writes, line by line, in bounded memory."""

    def __init__(self, seeds: int, progress: Progress) -> None:
        self.report: Deferred[SimulationReport] = Deferred()
        self._seeds = seeds
        self._progress = progress
        self._pending = {"out": b"", "err": b""}
        self._last_error = ""
        self._failed: dict[int, str] = {}
        self._done = 0
        self._events: int | None = None

    def outReceived(self, data: bytes) -> None:  # noqa: N802 (Twisted's name)
        for line in self._lines("out", data):
            self._read(line)

    def errReceived(self, data: bytes) -> None:  # noqa: N802
        for line in self._lines("err", data):
            self._last_error = line.strip() or self._last_error

    def processEnded(self, reason: Failure) -> None:  # noqa: N802
        self.outReceived(b"\n")
        self.errReceived(b"\n")
        if self._events is not None:
            self.report.callback(SimulationReport(self._seeds, self._events, self._failed))
            return
        if reason.check(ProcessDone):
            problem = "it told no result"
        else:
            problem = self._last_error or str(reason.value)
        self.report.errback(OperationError(f"the simulator broke off: {problem}"))

    def give_up(self, process: Any) -> None:
        """End the simulator."""
        try:
            process.signalProcess("TERM")
        except ProcessExitedAlready:
            return

    def _lines(self, stream: str, data: bytes) -> list[str]:
        *lines, rest = (self._pending[stream] + data).split(b"\n")
        self._pending[stream] = rest[:MAX_LINE]
        return [line[:MAX_LINE].decode("utf-8", "replace") for line in lines]

    def _read(self, line: str) -> None:
        line = line.strip()
        if found := _FAILED.fullmatch(line):
            self._failed[int(found[1])] = found[2]
            self._count()
        elif _DONE.match(line):
            self._count()
        elif found := _TOTAL.fullmatch(line):
            self._events = int(found[2])

    def _count(self) -> None:
        self._done += 1
        self._progress("simulating", min(self._done, self._seeds), self._seeds)
