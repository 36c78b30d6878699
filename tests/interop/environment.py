"""Virtual environments for tools that must not share ours, made once and kept while their requirements stay."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / ".cache"
STAMP_NAME = "installed-requirements"


def ensure_environment(name: str, requirements: Sequence[str]) -> Path:
    """Make the environment of this name unless it has these requirements already; return its `bin`."""
    environment = CACHE / name / "venv"
    stamp = environment / STAMP_NAME
    wanted = "\n".join(requirements)
    if not stamp.exists() or stamp.read_text() != wanted:
        environment.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(environment)], check=True)
        pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "--disable-pip-version-check", *requirements], check=True)
        stamp.write_text(wanted)
    return environment / "bin"
