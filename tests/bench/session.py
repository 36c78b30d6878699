"""One server's turn: started fresh, put through the rows, its memory read, started again on the data of the run."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.bench.crowded import ROWS as CROWDED_ROWS
from tests.bench.federated import ROWS as FEDERATED_ROWS
from tests.bench.figures import OTHERS, Measured, Scale
from tests.bench.rows import ROWS
from tests.bench.targets import Target
from tests.bench.wire import WireError
from tests.bench.world import World
from tests.interop.process import ServerError, ServerProcess, machine_cpu_s, tree_cpu_s
from tests.interop.synapse import REGISTRATION_SECRET

ALL_ROWS = (*ROWS, *CROWDED_ROWS, *FEDERATED_ROWS, "memory", "start")
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Shares:
    """Of one core, over a stretch of time; the set-up of a row included."""

    elapsed_s: float
    server: float
    database: float
    generator: float
    others: float

    def describe(self) -> str:
        return (
            f"{self.elapsed_s:.1f} s with set-up; of a core: server {self.server:.0%}, database {self.database:.0%}, "
            f"generator {self.generator:.0%}, anybody else {self.others:.0%}"
        )


class Meter:
    """Who used the processors since it was made: the server, its database, this generator, or anybody else."""

    def __init__(self, server: ServerProcess, database_pid: int | None) -> None:
        self._server = server
        self._database_pid = database_pid
        self._begun = self._read()

    def _read(self) -> tuple[float, ...]:
        database_s = tree_cpu_s(self._database_pid) if self._database_pid is not None else 0.0
        return time.perf_counter(), machine_cpu_s(), self._server.cpu_s(), database_s, time.process_time()

    def shares(self) -> Shares:
        spent = [now - then for now, then in zip(self._read(), self._begun, strict=True)]
        elapsed_s, machine, server, database, generator = (
            spent[0],
            *(used_s / spent[0] for used_s in spent[1:]),
        )
        others = max(0.0, machine - server - database - generator)
        return Shares(elapsed_s, server, database, generator, others)


@dataclass(frozen=True, slots=True)
class Place:
    """The database of one session: "sqlite" or an address, and the process of the database server that we started."""

    address: str
    server_pid: int | None = None


def run_session(target: Target, place: Place, rows: Collection[str], scale: Scale, say: Say) -> Measured:
    """Every figure of the chosen rows for this target on this (empty) database."""
    measured: dict[str, float] = {}
    with ExitStack() as stack:
        prefix = f"bench-{target.name.split()[0].lower()}-"
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix)))
        server = stack.enter_context(target.prepare(folder, place.address))
        say(f"first start in {server.start():.2f} s")
        world = World(server.port, REGISTRATION_SECRET)
        meter = Meter(server, place.server_pid)
        for name in ROWS:
            if name in rows:
                measured.update(_run_row(name, server, place, world, scale, say))
        measured[OTHERS] = meter.shares().others
        if "memory" in rows:
            measured["resident_mb"] = server.resident_mb()
            say(f"memory: {measured['resident_mb']:.0f} MB")
        server.stop()
        if "start" in rows:
            measured["start_s"] = statistics.median(_restart(server) for _ in range(scale.starts))
            say(f"start: {measured['start_s']:.2f} s")
    return measured


def _run_row(
    name: str, server: ServerProcess, place: Place, world: World, scale: Scale, say: Say
) -> Measured:
    meter = Meter(server, place.server_pid)
    try:
        measured = asyncio.run(ROWS[name](world, scale))
    except (WireError, OSError) as error:
        raise ServerError(server.explain(f"failed in row {name} ({error})")) from error
    figures = ", ".join(f"{key} {value:.2f}" for key, value in measured.items())
    say(f"{name}: {figures} ({meter.shares().describe()})")
    return measured


def _restart(server: ServerProcess) -> float:
    taken_s = server.start()
    server.stop()
    return taken_s
