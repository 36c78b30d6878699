"""`N passed, N failed, N skipped`: the one line in which every suite ends, read and added up."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]

_LINE = re.compile(r"^(\d+) passed, (\d+) failed, (\d+) skipped$", re.MULTILINE)
# How `chaos sim` ends; each seed is a test.
_SEEDS = re.compile(r"^(\d+) seeds, \d+ events, (\d+) failed$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Totals:
    """How many tests passed, failed and were skipped."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    @classmethod
    def of(cls, output: str, status: int) -> Totals:
        """The totals of a program: its last such line, or itself as one test. A bad status is never without failure."""
        lines = _LINE.findall(output)
        simulated = _SEEDS.findall(output)
        if simulated and not lines:
            seeds, failed = map(int, simulated[-1])
            lines = [(seeds - failed, failed, 0)]
        if not lines:
            return cls(passed=1) if status == 0 else cls(failed=1)
        passed, failed, skipped = map(int, lines[-1])
        return cls(passed, failed if failed or status == 0 else 1, skipped)

    def __add__(self, other: Totals) -> Totals:
        return Totals(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"
