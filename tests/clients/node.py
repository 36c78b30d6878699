"""Node for the client programs that are JavaScript, and the packages that their lock files name."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from twisted.trial import unittest

OLDEST_NODE = 20
INSTALL_LIMIT_S = 300


def find_node(folder: Path) -> str:
    """The interpreter for a program; skips the test where there is none."""
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        raise unittest.SkipTest(f"no node and npm on PATH for {folder.name}")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"v(\d+)\.", version)
    if found is None or int(found[1]) < OLDEST_NODE:
        raise unittest.SkipTest(f"{folder.name} needs Node {OLDEST_NODE}, this is {version.strip()}")
    return node


def install_packages(folder: Path) -> None:
    """`npm ci`, unless what the lock file names is there already."""
    lock = folder / "package-lock.json"
    stamp = folder / "node_modules" / ".installed-lock.json"
    if stamp.exists() and stamp.read_bytes() == lock.read_bytes():
        return
    try:
        subprocess.run(
            ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=INSTALL_LIMIT_S,
            check=True,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        output = (error.stderr or b"").decode(errors="replace")
        raise AssertionError(f"npm ci failed: {error}\n{output}") from error
    stamp.write_bytes(lock.read_bytes())
