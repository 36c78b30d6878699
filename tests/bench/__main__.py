"""`python -m tests.bench`: measure Synapse and CHAOS in one run and print the table of both.

Without options it takes both databases and all rows, and writes docs/performance.md. It ends with status 1 when
CHAOS was measured beside Synapse and misses a target.
"""

from __future__ import annotations

import argparse
import gc
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial

from scripts.setup import compile_packages
from tests.bench.crowded import ROWS as CROWDED_ROWS
from tests.bench.crowded import run_crowded
from tests.bench.federated import ROWS as FEDERATED_ROWS
from tests.bench.federated import run_federated
from tests.bench.figures import FULL, QUICK, Scale
from tests.bench.postgres import create_database, durable_cluster
from tests.bench.report import DatabaseRun, disturbances, format_document, format_plain, missed
from tests.bench.rows import ROWS
from tests.bench.session import ALL_ROWS, Place, Session
from tests.bench.targets import TARGETS
from tests.bench.turns import Run, Turns
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


class _Seat:
    """One target on one kind of database, with a database server of its own where that needs one.

    So neither meets the other's caches and dead rows.
    """

    def __init__(self, database: str, key: str, stack: ExitStack) -> None:
        self.target = TARGETS[key]
        self._label = f"{DATABASES[database]}, {self.target.name}"
        self._number = 0
        self._url = ""
        self.place = Place("sqlite")
        if database == "postgresql":
            cluster = stack.enter_context(durable_cluster())
            self._url = cluster.url
            self.place = Place(create_database(cluster.url, key), cluster.process.pid)
        self.session: Session | None = None

    def say(self, text: str) -> None:
        print(f"{self._label}: {text}", flush=True)

    def new_database(self, name: str) -> str:
        self._number += 1
        return create_database(self._url, f"{name}_{self._number}") if self._url else "sqlite"

    def processes(self) -> list[int]:
        """What runs between its turns."""
        found = [self.place.server_pid] if self.place.server_pid is not None else []
        return [*found, self.session.pid] if self.session is not None else found


def measure(database: str, options: argparse.Namespace) -> DatabaseRun:
    """Every chosen target on one kind of database, row by row in turn."""
    scale: Scale = QUICK if options.quick else FULL
    results: dict[str, dict[str, float]] = {key: {} for key in options.targets}
    with ExitStack() as stack:
        seats = {key: _Seat(database, key, stack) for key in options.targets}
        turns = Turns({key: seat.processes for key, seat in seats.items()})

        def take(runs: Mapping[str, Run]) -> None:
            for key, found in turns.measure(runs).items():
                results[key].update(found)

        if any(row not in FEDERATED_ROWS and row not in CROWDED_ROWS for row in options.rows):
            with ExitStack() as sessions:
                for seat in seats.values():
                    seat.session = sessions.enter_context(Session(seat.target, seat.place, scale, seat.say))
                opened = {key: seat.session for key, seat in seats.items() if seat.session is not None}
                for name in ROWS:
                    if name in options.rows:
                        take({key: partial(session.run_row, name) for key, session in opened.items()})
                for key, session in opened.items():
                    results[key].update(turns.alone(key, partial(session.finish, options.rows)))
                    seats[key].session = None
        for rows, run in ((CROWDED_ROWS, run_crowded), (FEDERATED_ROWS, run_federated)):
            for name in rows:
                if name in options.rows:
                    take(
                        {
                            key: partial(run, name, seat.target, seat.new_database, scale, seat.say)
                            for key, seat in seats.items()
                        }
                    )
    return DatabaseRun(DATABASES[database], results)


def main() -> int:
    options = parse_arguments(sys.argv[1:])
    databases = list(DATABASES) if options.database == "both" else [options.database]
    # Who ends it ends its servers too, those that stand still included.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    # The generator's own collector must not stop it in the middle of what it times.
    gc.disable()
    compile_packages(sys.executable)  # as an installed server is, and Synapse here
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
