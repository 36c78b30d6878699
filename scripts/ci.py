"""What `.ci/run` runs: check, test, e2e, interop and a short simulation, each with a time limit of its own.

Their output streams through; the last line adds up theirs, `N passed, N failed, N skipped`. The limits together stay
under an hour, so a stage that hangs is a failure with a name instead of a job that is killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

from scripts.totals import REPOSITORY, Totals


@dataclass(frozen=True, slots=True)
class Stage:
    """One program of the run."""

    name: str
    module: tuple[str, ...]
    limit_s: int
    command: tuple[str, ...] = ()  # instead of running the module


STAGES = (
    Stage("check", ("scripts.check", "--no-tests"), 300),
    # By the README's own command: what a newcomer types must be what is judged.
    Stage("test", ("tests.runner",), 2100, ("make", "--no-print-directory", "test")),
    Stage("e2e", ("scripts.e2e",), 300),
    Stage("interop", ("scripts.interop",), 480),
    # The same seeds each time: a commit is judged by what it changed. The nightly job draws new ones.
    Stage("sim", ("homeserver", "sim", "--seed", "1", "--seeds", "200"), 300),
)


def _present(stage: Stage) -> bool:
    path = REPOSITORY.joinpath(*stage.module[0].split("."))
    return path.with_suffix(".py").exists() or (path / "__main__.py").exists()


def _end(process: subprocess.Popen[str]) -> None:
    # The stage leads its own group, so this reaches the servers that it started too.
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def run(stage: Stage) -> Totals:
    """Run one stage, show its output as it comes, and count it."""
    print(f"== {stage.name}", flush=True)
    if not _present(stage):
        print(f"{stage.name}: there is nothing to run yet", flush=True)
        return Totals(skipped=1)
    started_s = time.monotonic()
    process = subprocess.Popen(
        stage.command or (sys.executable, "-m", *stage.module),
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    alarm = threading.Timer(stage.limit_s, _end, [process])
    alarm.start()
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        sys.stdout.write(line)
        sys.stdout.flush()
        lines.append(line)
    status = process.wait()
    overdue = not alarm.is_alive()
    alarm.cancel()
    totals = Totals.of("".join(lines), status)
    ending = f" (stopped at its limit of {stage.limit_s} s)" if overdue else ""
    print(f"== {stage.name}: {totals} in {time.monotonic() - started_s:.0f} s{ending}", flush=True)
    return totals


def main() -> int:
    total = Totals()
    for stage in STAGES:
        total += run(stage)
    print(total)
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
