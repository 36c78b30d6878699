"""Seeds that always run, and what the simulator promises of itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.trial import unittest

from homeserver.store import room_answers
from tests.sim.clock import LifeClock, SimClock
from tests.sim.draws import Draws, shrink
from tests.sim.run import run_seed

SEEDS = range(1, 31)
# Worlds in which, if members are to come later, the answer to the commit of a join is lost; and in the last one somebody
# leaves before they have come and comes back, and what happened between is here without a state.
PARTIAL_SEEDS = (4, 8, 16, 18, 72)
REPOSITORY = Path(__file__).resolve().parents[2]


class Seeds(unittest.TestCase):
    """A few worlds; `make sim` runs more, from drawn seeds."""

    def test_nothing_goes_wrong(self) -> None:
        broken = {seed: problems for seed in SEEDS if (problems := run_seed(seed).problems)}
        self.assertEqual(broken, {})

    def test_nothing_goes_wrong_where_the_members_of_rooms_come_later(self) -> None:
        """No room is so small that who joins is told all of it at once."""
        self.patch(room_answers, "FEW_MEMBERS", 0)
        broken = {seed: problems for seed in PARTIAL_SEEDS if (problems := run_seed(seed).problems)}
        self.assertEqual(broken, {})

    def test_a_list_of_draws_replays_its_seed(self) -> None:
        once = run_seed(5)
        again = run_seed(5, once.draws)
        self.assertEqual((again.digest, again.draws), (once.digest, once.draws))

    def test_same_seed_same_trace_under_any_hash_seed(self) -> None:
        found = set()
        for hash_seed in ("0", "12345"):
            command = [
                sys.executable,
                "-m",
                "tests.sim",
                "--seed",
                "7",
                "--seeds",
                "3",
                "--digest",
                "--shrink",
                "0",
            ]
            done = subprocess.run(
                command,
                cwd=REPOSITORY,
                env={**os.environ, "PYTHONHASHSEED": hash_seed},
                capture_output=True,
                text=True,
                check=False,
            )
            traces = tuple(line for line in done.stdout.splitlines() if line.startswith("trace "))
            self.assertEqual(len(traces), 3, done.stdout + done.stderr)
            found.add(traces)
        self.assertEqual(len(found), 1, "the order of something depends on the hash seed")

    def test_the_plainest_world_is_the_one_without_draws(self) -> None:
        plain = run_seed(1, [])
        self.assertEqual(plain.problems, [])
        self.assertNotIn(
            "fault",
            "\n".join(line for line in plain.trace if "faults end" not in line and "options" not in line),
        )


class Shrinking(unittest.TestCase):
    """The reducer."""

    def test_what_matters_is_left(self) -> None:
        def fails(draws: Sequence[int]) -> bool:
            return 7 in draws and max(draws) >= 50

        found = shrink([3, 9, 7, 1, 0, 4, 88, 2, 61], fails, tries=500)
        self.assertTrue(fails(found))
        self.assertLessEqual(len(found), 2)

    def test_past_the_end_all_is_plain(self) -> None:
        draws = Draws(1, [5])
        self.assertEqual((draws.below(3), draws.below(10), draws.chance(99)), (2, 0, False))


class Time(unittest.TestCase):
    """The heap behind the clock."""

    def setUp(self) -> None:
        self.clock = SimClock()
        self.calls: list[str] = []

    def test_order(self) -> None:
        for name, delay in (("c", 2.0), ("a", 1.0), ("b", 1.0)):
            self.clock.callLater(delay, self.calls.append, name)
        self.clock.advance(1.5)
        self.assertEqual(self.calls, ["a", "b"])
        self.clock.advance(1.0)
        self.assertEqual(self.calls, ["a", "b", "c"])

    def test_moving_and_cancelling(self) -> None:
        moved = self.clock.callLater(1.0, self.calls.append, "moved")
        cancelled = self.clock.callLater(1.0, self.calls.append, "cancelled")
        moved.reset(5.0)
        cancelled.cancel()
        self.assertRaises(AlreadyCancelled, cancelled.cancel)
        self.clock.advance(4.0)
        self.assertEqual((self.calls, moved.active(), cancelled.active()), ([], True, False))
        self.clock.advance(1.0)
        self.assertEqual(self.calls, ["moved"])
        self.assertRaises(AlreadyCalled, moved.cancel)

    def test_a_life_ends_with_its_timers(self) -> None:
        life = LifeClock(self.clock)
        life.callLater(1.0, self.calls.append, "of the dead")
        life.kill()
        self.assertFalse(life.callLater(1.0, self.calls.append, "of the dead too").active())
        self.clock.advance(2.0)
        self.assertEqual(self.calls, [])
