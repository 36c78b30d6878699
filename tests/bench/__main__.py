"""`python -m tests.bench`: measure Synapse and CHAOS in one run and print the table of both.

Without options it takes both databases and all rows, and writes docs/performance.md. It ends with status 1 when
CHAOS was measured beside Synapse and misses a target.
"""

from __future__ import annotations

import argparse
import gc
import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial

from tests.bench.crowded import ROWS as CROWDED_ROWS
from tests.bench.crowded import run_crowded
from tests.bench.federated import ROWS as FEDERATED_ROWS
from tests.bench.federated import run_federated
from tests.bench.figures import FULL, QUICK, Measured
from tests.bench.postgres import create_database, durable_cluster
from tests.bench.report import DatabaseRun, disturbances, format_document, format_plain, missed
from tests.bench.session import ALL_ROWS, Place, run_session
from tests.bench.targets import TARGETS
from tests.interop.environment import REPOSITORY

DATABASES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
DOCUMENT = REPOSITORY / "docs" / "performance.md"


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--database", choices=(*DATABASES, "both"), default="both")
    parser.add_argument(
        "--quick", action="store_true", help="less work per row: for a look, not for the record"
    )
    parser.add_argument(
        "--rows", type=_split(ALL_ROWS), default=list(ALL_ROWS), help=f"of {','.join(ALL_ROWS)}"
    )
    parser.add_argument(
        "--targets", type=_split(tuple(TARGETS)), default=list(TARGETS), help=f"of {','.join(TARGETS)}"
    )
    parser.add_argument(
        "--write", action="store_true", help="write docs/performance.md even after a partial run"
    )
    return parser.parse_args(arguments)


class _split:  # noqa: N801 - argparse shows the name of a type in its messages
    """Turns "a,b" into a list of known names."""

    def __init__(self, known: Sequence[str]) -> None:
        self._known = known

    def __call__(self, text: str) -> list[str]:
        names = [name.strip() for name in text.split(",")]
        unknown = [name for name in names if name not in self._known]
        if unknown:
            raise argparse.ArgumentTypeError(
                f"unknown: {', '.join(unknown)}; known: {', '.join(self._known)}"
            )
        return names


def _new_sqlite(_: str) -> str:
    return "sqlite"


def measure(database: str, options: argparse.Namespace) -> DatabaseRun:
    """Every chosen target in turn on one kind of database."""
    scale = QUICK if options.quick else FULL
    results: dict[str, Measured] = {}
    for key in options.targets:
        target = TARGETS[key]

        def say(text: str, name: str = target.name) -> None:
            print(f"{DATABASES[database]}, {name}: {text}", flush=True)

        with ExitStack() as stack:
            place, new_database = Place("sqlite"), _new_sqlite
            if database == "postgresql":
                # A server of its own for each target: neither meets the other's caches and dead rows.
                cluster = stack.enter_context(durable_cluster())
                place = Place(create_database(cluster.url, key), cluster.process.pid)
                new_database = partial(create_database, cluster.url)
            measured: dict[str, float] = {}
            if any(row not in FEDERATED_ROWS and row not in CROWDED_ROWS for row in options.rows):
                measured |= run_session(target, place, options.rows, scale, say)
            measured |= run_crowded(target, new_database, options.rows, scale, say)
            measured |= run_federated(target, new_database, options.rows, scale, say)
            results[key] = measured
    return DatabaseRun(DATABASES[database], results)


def main() -> int:
    options = parse_arguments(sys.argv[1:])
    databases = list(DATABASES) if options.database == "both" else [options.database]
    # The generator's own collector must not stop it in the middle of what it times.
    gc.disable()
    runs = []
    for database in databases:
        runs.append(measure(database, options))
        gc.collect()
    for run in runs:
        print(f"\n{format_plain(run)}")
    whole = options.database == "both" and not options.quick and len(options.rows) == len(ALL_ROWS)
    if options.write or (whole and all(len(run.measured) == len(TARGETS) for run in runs)):
        command = shlex.join(["python", "-m", "tests.bench", *sys.argv[1:]])
        names = [TARGETS[key].name for key in options.targets if any(key in run.measured for run in runs)]
        today = datetime.now(UTC).date().isoformat()
        DOCUMENT.parent.mkdir(exist_ok=True)
        DOCUMENT.write_text(format_document(runs, names, command, today))
        print(f"\nwritten: {DOCUMENT.relative_to(REPOSITORY)}")
    for line in disturbances(runs):
        print(f"\n{line}")
    misses = [f"{run.database}: {title}" for run in runs for title in missed(run)]
    if misses:
        print("\nnot reached:", *misses, sep="\n  ")
    return 1 if misses else 0


if __name__ == "__main__":
    raise SystemExit(main())
