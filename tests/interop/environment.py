"""Virtual environments for tools that must not share ours, made once and kept while their requirements stay.

Several processes ask at once (the two workers of `make interop`, say), and a server that runs from an environment dies
of SIGBUS when its libraries are written anew under it. So one process makes it, the others wait for the lock.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / ".cache"
STAMP_NAME = "installed-requirements"


def ensure_environment(name: str, requirements: Sequence[str], cache: Path = CACHE) -> Path:
    """Make the environment of this name unless it has these requirements already; return its `bin`."""
    folder = cache / name
    environment = folder / "venv"
    stamp = environment / STAMP_NAME
    wanted = "\n".join(requirements)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone_in(folder):
        if not stamp.exists() or stamp.read_text() != wanted:
            _install(environment, requirements)
            stamp.write_text(wanted)
    return environment / "bin"


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    # The lock ends with the process, however that ends; the file stays, since to remove it would be a race again.
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install(environment: Path, requirements: Sequence[str]) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(environment)], check=True)
    pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--disable-pip-version-check", *requirements], check=True)
