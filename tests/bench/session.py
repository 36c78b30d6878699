"""One server's turn: started fresh, put through the rows, its memory read, started again on the data of the run."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from pathlib import Path

from tests.bench.figures import Measured, Scale
from tests.bench.rows import ROWS
from tests.bench.targets import Target
from tests.bench.wire import WireError
from tests.bench.world import World
from tests.interop.process import ServerError, ServerProcess
from tests.interop.synapse import REGISTRATION_SECRET

ALL_ROWS = (*ROWS, "memory", "start")
Say = Callable[[str], None]


def run_session(target: Target, database: str, rows: Collection[str], scale: Scale, say: Say) -> Measured:
    """Every figure of the chosen rows for this target on this (empty) database."""
    measured: dict[str, float] = {}
    with ExitStack() as stack:
        prefix = f"bench-{target.name.split()[0].lower()}-"
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix)))
        server = stack.enter_context(target.prepare(folder, database))
        say(f"first start in {server.start():.2f} s")
        world = World(server.port, REGISTRATION_SECRET)
        for name in ROWS:
            if name in rows:
                measured.update(_run_row(name, server, world, scale, say))
        if "memory" in rows:
            measured["resident_mb"] = server.resident_mb()
            say(f"memory: {measured['resident_mb']:.0f} MB")
        server.stop()
        if "start" in rows:
            measured["start_s"] = statistics.median(_restart(server) for _ in range(scale.starts))
            say(f"start: {measured['start_s']:.2f} s")
    return measured


def _run_row(name: str, server: ServerProcess, world: World, scale: Scale, say: Say) -> Measured:
    started_s, server_cpu_s, own_cpu_s = time.perf_counter(), server.cpu_s(), time.process_time()
    try:
        measured = asyncio.run(ROWS[name](world, scale))
    except (WireError, OSError) as error:
        raise ServerError(server.explain(f"failed in row {name} ({error})")) from error
    elapsed_s = time.perf_counter() - started_s
    # Set-up included: this says whether the generator gets in the server's way, not what a request costs.
    shares = f"server {(server.cpu_s() - server_cpu_s) / elapsed_s:.0%}, generator "
    shares += f"{(time.process_time() - own_cpu_s) / elapsed_s:.0%} of a core"
    figures = ", ".join(f"{key} {value:.2f}" for key, value in measured.items())
    say(f"{name}: {figures} ({elapsed_s:.1f} s with set-up; {shares})")
    return measured


def _restart(server: ServerProcess) -> float:
    taken_s = server.start()
    server.stop()
    return taken_s
