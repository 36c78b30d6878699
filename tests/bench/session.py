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
from typing import Self

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


class Session:
    """One server on one (empty) database, put through rows. To be used in a `with`."""

    def __init__(self, target: Target, place: Place, scale: Scale, say: Say) -> None:
        self._target = target
        self._place = place
        self._scale = scale
        self._say = say
        self._stack = ExitStack()
        self._spent: list[Shares] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            prefix = f"bench-{self._target.name.split()[0].lower()}-"
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix)))
            self._server = stack.enter_context(self._target.prepare(folder, self._place.address))
            self._say(f"first start in {self._server.start():.2f} s")
            self._world = World(self._server.port, REGISTRATION_SECRET)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def pid(self) -> int:
        """The process of the server."""
        return self._server.pid

    def run_row(self, name: str) -> Measured:
        """The figures of one row."""
        meter = Meter(self._server, self._place.server_pid)
        try:
            measured = asyncio.run(ROWS[name](self._world, self._scale))
        except (WireError, OSError) as error:
            raise ServerError(self._server.explain(f"failed in row {name} ({error})")) from error
        figures = ", ".join(f"{key} {value:.2f}" for key, value in measured.items())
        self._spent.append(meter.shares())
        self._say(f"{name}: {figures} ({self._spent[-1].describe()})")
        return measured

    def finish(self, rows: Collection[str]) -> Measured:
        """What is measured after the others, and who else used the processors; the server stops."""
        elapsed_s = sum(one.elapsed_s for one in self._spent)
        measured = {OTHERS: sum(one.others * one.elapsed_s for one in self._spent) / max(elapsed_s, 1e-9)}
        if "memory" in rows:
            measured["resident_mb"] = self._server.resident_mb()
            self._say(f"memory: {measured['resident_mb']:.0f} MB")
        self._server.stop()
        if "start" in rows:
            measured["start_s"] = statistics.median(_restart(self._server) for _ in range(self._scale.starts))
            self._say(f"start: {measured['start_s']:.2f} s")
        return measured


def _restart(server: ServerProcess) -> float:
    taken_s = server.start()
    server.stop()
    return taken_s
