"""`make interop`: against a real Synapse, in an environment of its own (tests/interop/test_*.py)."""

from __future__ import annotations

import subprocess
import sys

from scripts.totals import REPOSITORY


def main() -> int:
    # Two workers: the tests of SQLite and of PostgreSQL, each with servers of its own.
    command = [sys.executable, "-m", "tests.runner", "interop", *sys.argv[1:]]
    return subprocess.run(command, cwd=REPOSITORY, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
