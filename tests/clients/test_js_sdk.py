"""matrix-js-sdk (which Element is made of) against a real server over real sockets, through a `kill -9`."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from twisted.trial import unittest

from tests.clients.support import ProgramCase

PROGRAM_FOLDER = Path(__file__).resolve().parent / "js"
OLDEST_NODE = 20
INSTALL_LIMIT_S = 300


def find_program(name: str = "program.mjs") -> list[str]:
    """The command that runs the program, its packages installed; skips the test where there is no Node."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise unittest.SkipTest("no node and npm on PATH for matrix-js-sdk")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"v(\d+)\.", version)
    if found is None or int(found[1]) < OLDEST_NODE:
        raise unittest.SkipTest(f"matrix-js-sdk needs Node {OLDEST_NODE}, this is {version.strip()}")
    install_packages(npm)
    return [node, str(PROGRAM_FOLDER / name)]


def install_packages(npm: str) -> None:
    """`npm ci`, unless what the lock file names is there already."""
    lock = PROGRAM_FOLDER / "package-lock.json"
    stamp = PROGRAM_FOLDER / "node_modules" / ".installed-lock.json"
    if stamp.exists() and stamp.read_bytes() == lock.read_bytes():
        return
    try:
        subprocess.run(
            [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
            cwd=PROGRAM_FOLDER,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=INSTALL_LIMIT_S,
            check=True,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        output = (error.stderr or b"").decode(errors="replace")
        raise AssertionError(f"npm ci failed: {error}\n{output}") from error
    stamp.write_bytes(lock.read_bytes())


class JsSdkTests(ProgramCase):
    """One conversation on each database."""

    def test_on_sqlite(self) -> None:
        self.run_program(find_program(), "sqlite")

    def test_on_postgresql(self) -> None:
        self.run_program(find_program(), "postgresql")


class JsSdkSecretTests(ProgramCase):
    """An encrypted conversation, with the SDK's own cryptography."""

    def test_on_sqlite(self) -> None:
        self.run_once(find_program("secrets.mjs"), "sqlite")

    def test_on_postgresql(self) -> None:
        self.run_once(find_program("secrets.mjs"), "postgresql")


class JsSdkStoryTests(ProgramCase):
    """The stories in `js/stories`, each with people of its own."""

    def tell(self, story: str, database: str) -> None:
        self.run_once([*find_program("stories.mjs"), story], database)

    def test_key_backup_on_sqlite(self) -> None:
        self.tell("key_backup", "sqlite")

    def test_key_backup_on_postgresql(self) -> None:
        self.tell("key_backup", "postgresql")

    def test_own_devices_on_sqlite(self) -> None:
        self.tell("own_devices", "sqlite")

    def test_own_devices_on_postgresql(self) -> None:
        self.tell("own_devices", "postgresql")
