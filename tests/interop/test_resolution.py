"""Forks with hundreds of state events: our state resolution and Synapse's own function come to the same state."""

from __future__ import annotations

from twisted.trial import unittest

from tests.bench.resolution import make_fork, resolve_fork, resolve_fork_by_synapse


class Resolution(unittest.TestCase):
    """In the versions of algorithm 2 and of 2.1."""

    def _compare(self, version: str, members: int, fork: int) -> None:
        made = make_fork(members, fork, version)
        ours, theirs = resolve_fork(made), resolve_fork_by_synapse(made)
        wrong = {
            key: (ours.get(key), theirs.get(key))
            for key in {*ours, *theirs}
            if ours.get(key) != theirs.get(key)
        }
        self.assertEqual(wrong, {})
        # What is compared is worth it: neither branch is simply what was resolved.
        self.assertNotIn(ours, [dict(state) for state in made.states])

    def test_version_6(self) -> None:
        self._compare("6", 1_000, 200)

    def test_version_11(self) -> None:
        self._compare("11", 10_000, 100)

    def test_version_12(self) -> None:
        self._compare("12", 1_000, 200)
