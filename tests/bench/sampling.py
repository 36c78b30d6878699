"""Stacks of a running server, sampled from outside by py-spy: every thread that runs, without slowing any down much."""

from __future__ import annotations

import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tests.interop.environment import ensure_environment

REQUIREMENTS = ("py-spy==0.4.3",)
RATE = 500
READY_LINE = "Sampling process"
END_LIMIT_S = 60

# One line of py-spy's raw form: `thread (17): MainThread;main (app.py:7);run (base.py:9) 12`.
_LINE = re.compile(r"(?P<stack>.*) (?P<count>\d+)")
_THREAD = re.compile(r"(?:thread \(\w+\): )?(?P<name>.*)")


class Sampler:
    """One py-spy on one process."""

    def __init__(self, pid: int, output: Path, *, holding_gil: bool) -> None:
        self._output = output
        command = [str(ensure_environment("profile", REQUIREMENTS) / "py-spy"), "record", "--pid", str(pid)]
        command += ["--format", "raw", "--rate", str(RATE), "--threads", "--full-filenames"]
        command += ["--function", "--output", str(output), *(["--gil"] if holding_gil else [])]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self._process.stdout is not None
        said = ""
        for line in self._process.stdout:
            said += line
            if READY_LINE in line:
                return
        raise RuntimeError(
            f"py-spy does not sample (may it trace other processes here?); use --mode trace:\n{said}"
        )

    def finish(self) -> str:
        """End the sampling and return the collapsed stacks."""
        self._process.send_signal(signal.SIGINT)
        self._process.communicate(timeout=END_LIMIT_S)
        return self._output.read_text()


def format_samples(collapsed: str, top: int, within: str) -> str:
    """Milliseconds by thread, by function itself, and by function with all that it called."""
    threads: Counter[str] = Counter()
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for found in filter(None, map(_LINE.fullmatch, collapsed.splitlines())):
        if within not in found["stack"]:
            continue
        thread, *calls = map(shorten, found["stack"].split(";"))
        name = _name_thread(thread)
        count = int(found["count"])
        threads[name] += count
        if calls:
            own[f"{calls[-1]}  [{name}]"] += count
        # A recursive function counts once.
        for call in dict.fromkeys(calls):
            total[f"{call}  [{name}]"] += count
    tables = (("thread", threads), ("function itself", own), ("function and its callees", total))
    return "\n".join(line for title, counts in tables for line in _table(title, counts.most_common(top)))


def _table(title: str, counts: Iterable[tuple[str, int]]) -> list[str]:
    return [f"\n    ms  {title}", *(f"{count * 1000 // RATE:6d}  {name}" for name, count in counts)]


def shorten(call: str) -> str:
    """`send (/long/path/homeserver/rooms/actor.py:17)` without what comes before the package."""
    return re.sub(
        r"\((?:[^()]*/(?:site-packages|lib/python[\d.]+)/|[^()]*?/(?=(?:homeserver|federation)/))", "(", call
    )


def _name_thread(frame: str) -> str:
    found = _THREAD.fullmatch(frame)
    return found["name"] if found else frame
