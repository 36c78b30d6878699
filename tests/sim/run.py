"""Runs seeds, with every checker."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.sim.checkers import convergence, followers, keys, memory, queues, sends, sync_law, to_device
from tests.sim.draws import Draws, shrink
from tests.sim.world import World

LOOKS = (queues.check,)
AT_END = (
    sends.check,
    sync_law.check,
    convergence.check,
    to_device.check,
    keys.check,
    followers.check,
    memory.check,
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a seed."""

    seed: int
    problems: Sequence[str]
    draws: Sequence[int]
    trace: Sequence[str]
    digest: str
    events: int


def run_seed(seed: int, given: Sequence[int] | None = None) -> Outcome:
    """One world, from its seed or from a list of draws."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-sim-"))
    try:
        draws = Draws(seed, given)
        world = World(draws, folder)
        problems = list(world.run(LOOKS, AT_END))
        events = sum(len(client.acknowledged) for client in world.clients)
        return Outcome(seed, problems, draws.taken, world.trace, world.digest(), events)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def shrink_seed(outcome: Outcome, tries: int = 200) -> Outcome:
    """A simpler world in which the same kind of thing goes wrong."""
    kind = _kind(outcome)

    def fails(draws: Sequence[int]) -> bool:
        return _kind(run_seed(outcome.seed, draws)) == kind

    return run_seed(outcome.seed, shrink(outcome.draws, fails, tries))


def _kind(outcome: Outcome) -> str:
    return outcome.problems[0].split(":", 1)[0] if outcome.problems else ""
