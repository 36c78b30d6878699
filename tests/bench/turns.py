"""Servers that are measured row by row, in turn: what the machine does meanwhile happens to all of them.

A virtual machine is twice as quick in one minute as in the next, so figures are to be compared with those of the same minute.
Whoever's turn it is has the machine alone: the other servers, and their databases, are stopped by a signal until then.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

from tests.bench.figures import Measured
from tests.interop.process import list_tree

ROUNDS = 3
# A row that takes all servers together no longer than this is measured several times.
QUICK_S = 25.0

Run = Callable[[], Measured]


class Turns:
    """``processes``: of each server what runs between its turns, by the ids of the processes whose children it is."""

    def __init__(self, processes: Mapping[str, Callable[[], Iterable[int]]]) -> None:
        self._processes = processes

    def measure(self, runs: Mapping[str, Run]) -> dict[str, Measured]:
        """One row of each server; of a quick row the median of some rounds, which begin with each in turn."""
        found: dict[str, list[Measured]] = {key: [] for key in runs}
        started_s = time.monotonic()
        for number in range(ROUNDS):
            for key in list(runs) if number % 2 == 0 else reversed(list(runs)):
                found[key].append(self.alone(key, runs[key]))
            if time.monotonic() - started_s > QUICK_S:
                break
        return {key: medians(measured) for key, measured in found.items()}

    def alone(self, key: str, run: Run) -> Measured:
        """One server does something while the others stand still."""
        others = [
            pid
            for other, roots in self._processes.items()
            if other != key
            for root in roots()
            for pid in list_tree(root)
        ]
        _send(others, signal.SIGSTOP)
        try:
            return run()
        finally:
            _send(others, signal.SIGCONT)


def _send(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def medians(measured: Sequence[Measured]) -> Measured:
    """Of each figure the median of several measurements."""
    return {key: statistics.median([one[key] for one in measured]) for key in measured[0]}
