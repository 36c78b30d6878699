"""Run the trial suites in two processes, on SQLite and on a real PostgreSQL: `python -m tests.runner [what...]`.

`what` is a suite (`unit`, `store`: a folder under tests/), a file, or a dotted name down to one method; nothing means
every suite that needs neither a browser nor another server. The last line is always `N passed, N failed, N skipped`,
and the exit status is 0 only when nothing failed and there was something to run.

The parent starts PostgreSQL once and hands test modules, slowest first, to workers over pipes; a worker runs them with
trial's own loader and test cases, in a scratch folder, and reports one JSON line per module. A worker that dies costs
that module one failure, and a fresh one takes over.
"""

from __future__ import annotations

import argparse
import atexit
import faulthandler
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any
from unittest import TestResult

from hypothesis import HealthCheck, settings

from tests.support import postgres

REPOSITORY = Path(__file__).resolve().parents[1]
CACHE = REPOSITORY / ".cache" / "tests"
# Run by targets of their own, or not suites at all.
ON_REQUEST = frozenset({"e2e", "interop", "support"})
JOBS = 2
SLOW_S = 2.0
MODULE_TIMEOUT_S = 900
MACHINERY = re.compile(r"/(twisted/(trial|internet|python)|unittest)/[^/]*\.py$")


@dataclass(slots=True)
class Outcome:
    """What one module, or all of them, came to."""

    module: str = ""
    passed: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    skips: list[tuple[str, str]] = field(default_factory=list)
    slow: list[tuple[float, str]] = field(default_factory=list)
    elapsed_s: float = 0.0
    # What routes answered: method, template, status, errcode or nothing.
    met: list[tuple[str, str, int, str]] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        self.passed += other.passed
        self.failures += other.failures
        self.skips += other.skips
        self.slow += other.slow
        self.met += other.met

    def totals(self) -> str:
        failed = len({test for test, _ in self.failures})
        return f"{self.passed} passed, {failed} failed, {len(self.skips)} skipped"


# --- the worker ---------------------------------------------------------------------------------------------------


class Collector(TestResult):
    """A plain unittest result that understands what trial's cases report, and asks the witness after each test."""

    def __init__(self, module: str, witness: Any) -> None:
        super().__init__()
        self.outcome = Outcome(module)
        self._witness = witness
        self._started_s = 0.0
        self._succeeded = self._failed = False

    def startTest(self, test: Any) -> None:
        super().startTest(test)
        self._started_s = time.monotonic()
        self._succeeded = self._failed = False

    def stopTest(self, test: Any) -> None:
        problems = self._witness.take_problems()
        if problems:
            self._failed = True
            self.outcome.failures.append((test.id(), "\n".join(["not as specified:", *problems])))
        # Decided here: trial may report a success and also the errors of a clean-up that went wrong.
        self.outcome.passed += self._succeeded and not self._failed
        elapsed_s = time.monotonic() - self._started_s
        if elapsed_s >= SLOW_S:
            self.outcome.slow.append((elapsed_s, test.id()))
        super().stopTest(test)

    def addSuccess(self, test: Any) -> None:
        self._succeeded = True

    def addError(self, test: Any, err: Any) -> None:
        self._fail(test, err)

    def addFailure(self, test: Any, err: Any) -> None:
        self._fail(test, err)

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        if err is not None:
            self._fail(subtest, err)

    def addSkip(self, test: Any, reason: Any) -> None:
        self.outcome.skips.append((test.id(), str(reason)))

    def addExpectedFailure(self, test: Any, err: Any, todo: Any = None) -> None:
        self.outcome.skips.append((test.id(), "expected to fail"))

    def addUnexpectedSuccess(self, test: Any, todo: Any = None) -> None:
        self._failed = True
        self.outcome.failures.append((test.id(), "passed, but is marked as expected to fail"))

    def _fail(self, test: Any, err: Any) -> None:
        self._failed = True
        self.outcome.failures.append((test.id(), _traceback_text(err)))


def _traceback_text(err: Any) -> str:
    """The traceback of an exc_info or a twisted Failure, without the frames of the test machinery."""
    value, frames = (err[1], err[2]) if isinstance(err, tuple) else (err.value, err.getTracebackObject())
    report = traceback.TracebackException(type(value), value, frames)
    ours = [frame for frame in report.stack if not MACHINERY.search(frame.filename)]
    report.stack = traceback.StackSummary.from_list(ours or report.stack)
    return "".join(report.format())


def work(orders: IO[str], reports: IO[str]) -> None:
    """Run each module named on a line of `orders`; one JSON line each to `reports`."""
    # Importing trial's runner installs the reactor, which only a worker needs.
    from twisted.python import log
    from twisted.trial.runner import TestLoader

    from tests.conformance.witness import call_witness
    from tests.support.http import witnesses

    log.startLogging(Path("test.log").open("a"), setStdout=False)  # noqa: SIM115 - open until the process ends
    loader, witness = TestLoader(), call_witness()
    witnesses.append(witness)
    for line in orders:
        module = line.strip()
        collector = Collector(module, witness)
        witness.outcomes.clear()
        started_s = time.monotonic()
        # A test that hangs costs its module, with every thread's stack printed, not the whole run.
        faulthandler.dump_traceback_later(MODULE_TIMEOUT_S, exit=True)
        try:
            loader.loadByName(module, recurse=True).run(collector)
        except Exception:  # noqa: BLE001 - whatever a test module does at import is its failure, not ours
            collector.outcome.failures.append((module, traceback.format_exc()))
        faulthandler.cancel_dump_traceback_later()
        collector.outcome.met = [
            (*route, *outcome) for route, outcomes in witness.outcomes.items() for outcome in sorted(outcomes)
        ]
        collector.outcome.elapsed_s = time.monotonic() - started_s
        print(json.dumps(asdict(collector.outcome)), file=reports, flush=True)


def worker_main() -> None:
    # A busy machine is no fault of the code: no test fails for its pace.
    settings.register_profile("calm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("calm")
    # What tests print must not mix with the reports: keep the pipe, and send standard output to standard error.
    reports = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    work(sys.stdin, reports)
    sys.stdout.flush()
    atexit._run_exitfuncs()
    # Tests may have left threads of the reactor's pool behind; nothing here is worth waiting for.
    os._exit(0)


# --- the parent ---------------------------------------------------------------------------------------------------


class Worker:
    """One worker process and the thread that feeds it."""

    def __init__(
        self,
        environment: dict[str, str],
        modules: SimpleQueue[str],
        outcomes: SimpleQueue[Outcome | None],
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="chaos-test-"))
        # Whatever a test forgets to remove goes with the folder.
        self._environment = {**environment, "TMPDIR": str(self._folder)}
        self._modules = modules
        self._process: subprocess.Popen[str] | None = None
        self._outcomes = outcomes
        threading.Thread(target=self._feed, daemon=True).start()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.runner", "--worker"],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _feed(self) -> None:
        try:
            while True:
                self._outcomes.put(self._run(self._modules.get_nowait()))
        except Empty:
            pass
        finally:
            self.stop()
            self._outcomes.put(None)

    def _run(self, module: str) -> Outcome:
        if self._process is None:
            self._process = self._start()
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(module + "\n")
            self._process.stdin.flush()
            report = self._process.stdout.readline()
        except OSError:
            report = ""
        if report:
            return Outcome(**json.loads(report))
        status = self._process.wait()
        self._process = None
        return Outcome(module, failures=[(module, f"the worker process died with status {status}")])

    def stop(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def modules_of(what: str) -> Iterator[str]:
    """The dotted names to run for one argument."""
    path = REPOSITORY / what if what.startswith("tests") else REPOSITORY / "tests" / what
    if path.is_dir():
        for file in sorted(path.rglob("test_*.py")):
            yield ".".join(file.relative_to(REPOSITORY).with_suffix("").parts)
    elif path.is_file():
        yield ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
    elif what.startswith("tests."):
        yield what
    else:
        raise SystemExit(f"no such suite, file or test: {what}")


def default_suites() -> list[str]:
    folders = [
        path for path in (REPOSITORY / "tests").iterdir() if path.is_dir() and path.name not in ON_REQUEST
    ]
    names = [path.name for path in folders if any(path.rglob("test_*.py"))]
    names += [path.name for path in (REPOSITORY / "tests").glob("test_*.py")]
    return sorted(names)


def _environment(use_postgres: bool) -> dict[str, str]:
    environment = dict(os.environ)
    folders = [str(REPOSITORY), str(REPOSITORY / "synapse-compat"), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(folder for folder in folders if folder)
    environment.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(CACHE / "hypothesis"))
    if not use_postgres:
        environment[postgres.ADDRESS_VARIABLE] = "none: left out by --sqlite-only"
        return environment
    try:
        environment[postgres.ADDRESS_VARIABLE] = postgres.server_url()
    except postgres.PostgresUnavailable as error:
        print(f"PostgreSQL: {error}; its tests are skipped", flush=True)
        environment[postgres.ADDRESS_VARIABLE] = f"none: {error}"
    return environment


def _durations() -> dict[str, float]:
    try:
        known: dict[str, float] = json.loads((CACHE / "durations.json").read_text())
    except (OSError, ValueError):
        return {}
    return known


def _summary(total: Outcome) -> None:
    for test, text in total.failures:
        print(f"\nFAILED {test}\n{text.rstrip()}")
    print()
    for reason, count in sorted(Counter(reason for _, reason in total.skips).items()):
        print(f"skipped {count}: {reason}")
    for elapsed_s, test in sorted(total.slow, reverse=True)[:5]:
        print(f"slow {elapsed_s:.1f} s: {test}")


def _look_at_endpoints(total: Outcome, write: bool) -> None:
    """After a run of everything: every endpoint must have been tried."""
    # Needs much of the server, which the parent of a smaller run does not.
    from scripts.spec_coverage import routes
    from tests.conformance.exercise import lacking, record

    missing = lacking(total.met, [route.key for route in routes()])
    if missing:
        total.failures.append(("tests.conformance.exercise", "\n".join(missing)))
    else:
        total.passed += 1
    if write:
        record(total.met)


def run(what: list[str], jobs: int, use_postgres: bool, write: bool = False) -> int:
    """Run everything and print the report; the exit status."""
    CACHE.mkdir(parents=True, exist_ok=True)
    durations = _durations()
    names = sorted({name for item in what or default_suites() for name in modules_of(item)})
    names.sort(key=lambda name: durations.get(name, 1.0), reverse=True)
    modules: SimpleQueue[str] = SimpleQueue()
    for name in names:
        modules.put(name)
    environment = _environment(use_postgres)
    total = Outcome()
    outcomes: SimpleQueue[Outcome | None] = SimpleQueue()
    busy = len([Worker(environment, modules, outcomes) for _ in range(min(jobs, len(names)))])
    while busy:
        outcome = outcomes.get()
        if outcome is None:
            busy -= 1
            continue
        print(f"{outcome.module}: {outcome.totals()} in {outcome.elapsed_s:.1f} s", flush=True)
        total.add(outcome)
        durations[outcome.module] = round(outcome.elapsed_s, 2)
    (CACHE / "durations.json").write_text(json.dumps(durations, indent=0, sort_keys=True))
    if not what:
        _look_at_endpoints(total, write)
    _summary(total)
    print(total.totals(), flush=True)
    return 0 if (total.passed or total.skips) and not total.failures else 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.runner", description="Run the tests.")
    parser.add_argument("what", nargs="*", help="suites, files or dotted names; default: all")
    parser.add_argument("--jobs", type=int, default=JOBS, help="worker processes (default %(default)s)")
    parser.add_argument("--sqlite-only", action="store_true", help="leave PostgreSQL out")
    parser.add_argument(
        "--record", action="store_true", help="after a run of everything, write docs/reference/exercised.tsv"
    )
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker_main()
    return run(arguments.what, max(1, arguments.jobs), not arguments.sqlite_only, arguments.record)


if __name__ == "__main__":
    sys.exit(main())
