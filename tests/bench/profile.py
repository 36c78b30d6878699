"""`python -m tests.bench.profile ROW`: where CHAOS spends its time on one row, without the row's set-up.

`--mode sample` (py-spy) keeps the proportions and sees every thread; `--mode trace` (cProfile) counts every call of the
main thread, at the price of making calls seem dearer than they are.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import pstats
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from tests.bench.federated import ROWS as FEDERATED
from tests.bench.federated import NewDatabase, prepare_stage, run_on
from tests.bench.figures import FULL, QUICK, Measured, Scale
from tests.bench.postgres import create_database, durable_cluster
from tests.bench.present import Town
from tests.bench.rows import ROWS
from tests.bench.sampling import Sampler, format_samples
from tests.bench.targets import TARGETS, Target, prepare_chaos
from tests.bench.world import World
from tests.interop.authority import Wire
from tests.interop.process import ServerProcess
from tests.interop.synapse import REGISTRATION_SECRET

PRESENCE = "presence"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.profile", description=__doc__)
    parser.add_argument("row", choices=(*ROWS, *FEDERATED, PRESENCE))
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--mode", choices=("sample", "trace"), default="sample")
    parser.add_argument("--quick", action="store_true", help="less work")
    parser.add_argument("--top", type=int, default=35, help="how many functions to print")
    parser.add_argument("--within", default="", help="sample: only stacks that contain this text")
    parser.add_argument(
        "--gil", action="store_true", help="sample: only threads that run Python, none inside C"
    )
    parser.add_argument(
        "--keep", type=Path, help="write the collapsed stacks (for a flame graph), or the cProfile data"
    )
    return parser.parse_args()


class Watch:
    """Looks at the server while a row's clock runs."""

    def __init__(self, server: ServerProcess, options: argparse.Namespace, output: Path) -> None:
        self.server = server
        self._options = options
        self._output = output
        self._sampler: Sampler | None = None

    @contextmanager
    def measuring(self) -> Iterator[None]:
        if self._options.mode == "trace":
            self.server.signal(signal.SIGUSR1)
        elif self._sampler is None:
            # Attaching takes long: once, for all the rounds of a row. Idle threads are not sampled anyway.
            self._sampler = Sampler(self.server.pid, self._output, holding_gil=self._options.gil)
        yield
        if self._options.mode == "trace":
            self.server.signal(signal.SIGUSR2)

    def finish(self) -> None:
        """Stop the server and print what was seen."""
        collapsed = self._sampler.finish() if self._sampler is not None else ""
        self.server.stop()
        if self._options.mode == "trace":
            pstats.Stats(str(self._output)).sort_stats("tottime").print_stats(self._options.top)
        else:
            print(format_samples(collapsed, self._options.top, self._options.within))
        if self._options.keep:
            self._options.keep.write_bytes(self._output.read_bytes())


def main() -> None:
    options = parse_arguments()
    gc.disable()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="profile-")))
        new_database: NewDatabase = lambda _: "sqlite"  # noqa: E731
        if options.database == "postgresql":
            cluster = stack.enter_context(durable_cluster())
            new_database = partial(create_database, cluster.url)
        output = folder / "result"
        launcher = ["-m", "homeserver"]
        if options.mode == "trace":
            launcher = ["-m", "tests.bench.instrument", str(output)]
        scale = QUICK if options.quick else FULL
        if options.row in FEDERATED:
            target = _prepare_watched(launcher)
            stage = stack.enter_context(prepare_stage(options.row, target, new_database, scale))
            watch = Watch(stage.here, options, output)
            _run(watch, lambda: run_on(replace(stage, measuring=watch.measuring), options.row))
        else:
            server = stack.enter_context(prepare_chaos(folder / "server", new_database("profile"), launcher))
            server.start()
            watch = Watch(server, options, output)
            world = World(server.port, REGISTRATION_SECRET, watch.measuring)
            if options.row == PRESENCE:
                _run(watch, lambda: _live(Town(world, server), scale))
            else:
                _run(watch, lambda: asyncio.run(ROWS[options.row](world, scale)))


def _live(town: Town, scale: Scale) -> Measured:
    spent_s, taken_s = asyncio.run(town.measure(scale.present, scale))
    return {"presence_cores": spent_s / taken_s}


def _prepare_watched(launcher: Sequence[str]) -> Target:
    """CHAOS twice, of which the first is looked at."""

    def prepare(folder: Path, database: str, wire: Wire) -> ServerProcess:
        return prepare_chaos(folder, database, launcher if folder.name == "0" else ("-m", "homeserver"), wire)

    return replace(TARGETS["chaos"], prepare_federated=prepare)


def _run(watch: Watch, row: Callable[[], Measured]) -> None:
    server = watch.server
    started_s, cpu_s = time.perf_counter(), server.cpu_s()
    measured = row()
    elapsed_s, server_cpu_s = time.perf_counter() - started_s, server.cpu_s() - cpu_s
    watch.finish()
    for key, value in measured.items():
        print(f"{key}: {value:.2f} (while profiled)")
    print(f"{elapsed_s:.1f} s with set-up, of which the server computed {server_cpu_s:.1f} s")


if __name__ == "__main__":
    main()
