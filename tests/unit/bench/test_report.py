"""What counts as reached, and what the tables show."""

from __future__ import annotations

from twisted.trial import unittest

from tests.bench.figures import FIGURES
from tests.bench.report import DatabaseRun, build_lines, disturbances, format_document, format_plain, missed
from tests.bench.rows import ROWS, percentile
from tests.bench.session import ALL_ROWS

SEND, RATE, START = (
    next(figure for figure in FIGURES if figure.key == key)
    for key in ("send_median_ms", "sends_16", "start_s")
)


class FigureTests(unittest.TestCase):
    def test_less_is_better(self) -> None:
        self.assertEqual(SEND.ratio(ours=1.0, yardstick=16.0), 16)
        self.assertTrue(SEND.is_reached(1.0, 16.0))
        self.assertFalse(SEND.is_reached(1.1, 16.0))

    def test_more_is_better(self) -> None:
        self.assertEqual(RATE.ratio(ours=200.0, yardstick=10.0), 20)
        self.assertTrue(RATE.is_reached(200.0, 10.0))
        self.assertFalse(RATE.is_reached(199.0, 10.0))

    def test_absolute_bound_needs_no_yardstick(self) -> None:
        self.assertTrue(START.is_reached(1.9, None))
        self.assertFalse(START.is_reached(2.1, 50.0))

    def test_unknown_without_yardstick(self) -> None:
        self.assertIsNone(RATE.is_reached(200.0, None))

    def test_no_target(self) -> None:
        figure = next(one for one in FIGURES if one.factor is None)
        self.assertIsNone(figure.is_reached(1.0, 100.0))
        self.assertEqual("none", figure.describe_target())

    def test_every_row_has_a_figure(self) -> None:
        self.assertEqual({figure.row for figure in FIGURES}, set(ALL_ROWS))

    def test_percentile(self) -> None:
        values = [float(number) for number in range(1, 201)]
        self.assertEqual(percentile(values, 0.99), 198)
        self.assertEqual(percentile([7.0], 0.99), 7)


class ReportTests(unittest.TestCase):
    run_of_both = DatabaseRun(
        "SQLite",
        {
            "synapse": {"send_median_ms": 16.0, "sends_16": 10.0},
            "chaos": {"send_median_ms": 1.0, "sends_16": 150.0},
        },
    )

    def test_lines(self) -> None:
        lines = build_lines(self.run_of_both)
        self.assertEqual(
            [line[1:4] for line in lines], [("16.0 ms", "1.00 ms", "16.0×"), ("10.0/s", "150/s", "15.0×")]
        )
        self.assertEqual([line[5] for line in lines], ["yes", "**no**"])
        self.assertEqual(missed(self.run_of_both), ["sends/s, 16 senders in 16 rooms"])

    def test_one_server_alone(self) -> None:
        run = DatabaseRun("SQLite", {"synapse": {"sends_16": 10.0}})
        self.assertEqual([line[2:4] for line in build_lines(run)], [("–", "–")])
        self.assertEqual(missed(run), [])

    def test_disturbances(self) -> None:
        runs = [DatabaseRun("SQLite", {"synapse": {"others": 0.05}, "chaos": {"others": 0.5}})]
        (line,) = disturbances(runs)
        self.assertIn("while chaos was measured on SQLite, other work on the machine took 0.50", line)
        self.assertIn(line, format_document(runs, [], "", ""))

    def test_documents(self) -> None:
        text = format_document(
            [self.run_of_both], ["Synapse", "CHAOS"], "python -m tests.bench", "2026-01-01"
        )
        self.assertIn("| one sender's send, median | 16.0 ms | 1.00 ms | 16.0× | at most 1/16 | yes |", text)
        for name in ROWS:
            self.assertIn(f"- **{name}**: ", text)
        self.assertIn("== SQLite ==", format_plain(self.run_of_both))
