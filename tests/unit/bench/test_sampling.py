"""What a profile shows of the stacks that py-spy writes."""

from __future__ import annotations

from twisted.trial import unittest

from tests.bench.sampling import RATE, format_samples, shorten

STACKS = """\
thread (17): MainThread;main (/srv/x/homeserver/__main__.py:17);place (/srv/x/homeserver/rooms/actor.py:90) 500
thread (17): MainThread;main (/srv/x/homeserver/__main__.py:17);main (/srv/x/homeserver/__main__.py:17) 50
thread (18): writer;execute (/v/lib/python3.11/site-packages/sqlalchemy/engine.py:5) 250
"""


class SamplingTests(unittest.TestCase):
    def test_shortens_paths(self) -> None:
        self.assertEqual(
            shorten("place (/srv/x/homeserver/rooms/actor.py:90)"), "place (homeserver/rooms/actor.py:90)"
        )
        self.assertEqual(shorten("run (/v/lib/python3.11/site-packages/a/b.py:5)"), "run (a/b.py:5)")
        self.assertEqual(shorten("wait (/usr/lib/python3.11/threading.py:5)"), "wait (threading.py:5)")

    def test_counts_in_milliseconds(self) -> None:
        self.assertEqual(RATE, 500)
        lines = [line.strip() for line in format_samples(STACKS, 10, "").splitlines()]
        self.assertIn("1100  MainThread", lines)
        self.assertIn("500  writer", lines)
        # By itself, and with its callees: once for each sample, also where it calls itself.
        self.assertIn("100  main (homeserver/__main__.py:17)  [MainThread]", lines)
        self.assertIn("1100  main (homeserver/__main__.py:17)  [MainThread]", lines)

    def test_narrows(self) -> None:
        self.assertNotIn("MainThread", format_samples(STACKS, 10, "sqlalchemy"))
