"""Whose turn it is in the bench, and what of several rounds counts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from twisted.trial import unittest

from tests.bench import turns
from tests.bench.figures import Measured
from tests.bench.turns import ROUNDS, Turns, medians


class TurnsTests(unittest.TestCase):
    def setUp(self) -> None:
        self.order: list[str] = []

    def run_of(self, key: str) -> Measured:
        self.order.append(key)
        return {"figure": float(len(self.order))}

    def test_quick_rows_are_repeated_and_begin_with_each(self) -> None:
        found = Turns({}).measure({key: lambda key=key: self.run_of(key) for key in "ab"})  # type: ignore[misc]
        self.assertEqual(["a", "b", "b", "a", "a", "b"], self.order)
        self.assertEqual({"a": {"figure": 4.0}, "b": {"figure": 3.0}}, found)
        self.assertEqual(3, ROUNDS)

    def test_others_are_measured_once(self) -> None:
        self.patch(turns, "QUICK_S", -1.0)
        found = Turns({}).measure({"a": lambda: self.run_of("a")})
        self.assertEqual((["a"], {"a": {"figure": 1.0}}), (self.order, found))

    def test_the_others_stand_still(self) -> None:
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
            stat = Path(f"/proc/{process.pid}/stat")

            def look() -> Measured:
                # A signal is on its way for a moment.
                while (state := stat.read_text().rpartition(")")[2].split()[0]) != wanted:
                    self.assertIn(state, "TRSD")
                return {}

            seats = Turns({"a": lambda: [process.pid], "b": list})
            wanted = "T"
            seats.alone("b", look)
            wanted = "S"
            seats.alone("a", look)
            process.communicate(b"\n")
        self.assertEqual(0, process.returncode)

    def test_medians(self) -> None:
        rounds: list[Measured] = [{"x": 1.0, "y": 9.0}, {"x": 3.0, "y": 1.0}, {"x": 2.0, "y": 5.0}]
        self.assertEqual({"x": 2.0, "y": 5.0}, medians(rounds))
