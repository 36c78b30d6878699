"""``python -m tests.sim --seed N --seeds M``: run so many seeds; each failing one is shrunk and its trace shown.

The first line names the first seed, each seed ends with ``seed N ok`` or ``seed N: what went wrong``, and the last line
is ``M seeds, E events, F failed``; the exit status is 0 where nothing failed. Several seeds run side by side, one on each
core; they are told in their order.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from tests.sim.run import Outcome, run_seed, shrink_seed

_TRACE_LINES = 60


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(prog="tests.sim", description="Run deterministic simulations.")
    parser.add_argument("--seed", type=int, help="the first seed (a drawn one)")
    parser.add_argument("--seeds", type=int, default=1, help="how many (1)")
    parser.add_argument("--trace", action="store_true", help="print each seed's trace")
    parser.add_argument("--digest", action="store_true", help="print a hash of each seed's trace")
    parser.add_argument(
        "--shrink", type=int, default=150, metavar="TRIES", help="tries to simplify a failure (150)"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (one a core)")
    options = parser.parse_args()
    first = secrets.randbelow(2**31) if options.seed is None else options.seed
    print(f"seed {first}", flush=True)
    failed = events = 0
    for outcome in _run(range(first, first + options.seeds), max(1, options.jobs)):
        seed = outcome.seed
        events += outcome.events
        if options.trace:
            print("\n".join(outcome.trace))
        if options.digest:
            print(f"trace {seed} {outcome.digest}")
        if not outcome.problems:
            print(f"seed {seed} ok", flush=True)
            continue
        failed += 1
        print(f"seed {seed}: {' '.join(outcome.problems[0].split())}", flush=True)
        for problem in outcome.problems[1:10]:
            print(f"  also: {problem}")
        if options.shrink:
            small = shrink_seed(outcome, options.shrink)
            print(f"  shrunk from {len(outcome.draws)} draws to {len(small.draws)}: {list(small.draws)}")
            print(f"  {small.problems[:1]}")
            print("\n".join(f"    {line}" for line in small.trace[-_TRACE_LINES:]), flush=True)
    print(f"{options.seeds} seeds, {events} events, {failed} failed")
    return 1 if failed else 0


def _run(seeds: range, jobs: int) -> Iterator[Outcome]:
    if jobs == 1 or len(seeds) == 1:
        yield from map(run_seed, seeds)
        return
    with ProcessPoolExecutor(min(jobs, len(seeds))) as pool:
        yield from pool.map(run_seed, seeds)


if __name__ == "__main__":
    sys.exit(main())
