"""`make interop`: against a real Synapse, in an environment of its own (tests/interop/test_*.py)."""

from __future__ import annotations

import subprocess
import sys

from scripts.totals import REPOSITORY, Totals


def main() -> int:
    if not any((REPOSITORY / "tests" / "interop").rglob("test_*.py")):
        print("interop: this server does not federate yet; the tests against Synapse come with federation")
        print(Totals(skipped=1))
        return 0
    command = [sys.executable, "-m", "tests.runner", "--sqlite-only", "--jobs", "1", "interop"]
    return subprocess.run(command, cwd=REPOSITORY, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
