"""`make check`: format, lint, types, architecture rules and fast tests, two at a time, in under a minute.

`--no-tests` leaves the tests out, for CI, which runs all of them anyway. The last line is
`N passed, N failed, N skipped`, where each tool counts as one and the tests as themselves.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from scripts.totals import REPOSITORY, Totals

TYPED = ("homeserver", "federation", "synapse-compat/synapse_compat", "tests", "scripts")
FAST_TESTS = ("tests.runner", "--sqlite-only", "--jobs", "1", "unit", "test_tidy.py")


def steps(with_tests: bool) -> list[tuple[str, list[str]]]:
    """The tools by name; the slowest first, so that the two lanes end together."""
    typed = [folder for folder in TYPED if (REPOSITORY / folder).is_dir()]
    found = [("types", ["mypy", *typed])]
    if with_tests:
        found.append(("tests", list(FAST_TESTS)))
    found += [
        ("layers", ["importlinter.cli", "lint-imports"]),
        ("lint", ["ruff", "check", "--quiet", "."]),
        ("format", ["ruff", "format", "--quiet", "--diff", "."]),
    ]
    return found


def run(name: str, module: Sequence[str]) -> Totals:
    """Run one tool; what it printed is shown only when it failed, but for why tests were skipped."""
    started_s = time.monotonic()
    command = [sys.executable, "-m", *module]
    if name == "layers":
        command = [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command; lint_imports_command()",
        ]
        command += ["--no-logo", "--cache-dir", ".cache/import-linter"]
    done = subprocess.run(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    totals = Totals.of(done.stdout, done.returncode)
    verdict = "ok" if done.returncode == 0 else "FAILED"
    lines = (
        done.stdout.splitlines() if done.returncode else re.findall(r"^skipped .*", done.stdout, re.MULTILINE)
    )
    shown = "".join([line + "\n" for line in lines])
    sys.stdout.write(f"{shown}{name}: {verdict} in {time.monotonic() - started_s:.1f} s\n")
    sys.stdout.flush()
    return totals


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.check", description=__doc__)
    parser.add_argument("--no-tests", action="store_true", help="only the static checks")
    arguments = parser.parse_args()
    total = Totals()
    with ThreadPoolExecutor(max_workers=2) as pool:
        todo = steps(with_tests=not arguments.no_tests)
        for totals in pool.map(lambda step: run(*step), todo):
            total += totals
    print(total)
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
