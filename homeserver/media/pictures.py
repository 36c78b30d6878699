"""The worker process as seen from the server: one job at a time, killed when it takes too long.

1. `make` blocks, so it runs in a thread; its caller sees to it that only one thread does.
2. The process gets a path and sends back bytes. Whatever it does beyond that costs it its life.
3. It is started for the first job, and again after it died or has done many.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Timer
from typing import Final, Literal

import msgspec

from homeserver.runtime.children import bury

JOB_LIMIT_S: Final = 15.0
MAX_JOBS: Final = 1000
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
_MAX_HEAD_BYTES: Final = 1000
_PROGRAM = Path(__file__).with_name("thumbnail_worker.py")

Verdict = Literal["made", "measured", "original", "unsupported", "too_large", "lost", "stopped"]


class _Head(msgspec.Struct):
    verdict: Verdict
    length: int
    content_type: Literal["", "image/jpeg", "image/png", "image/gif", "image/webp"] = ""
    width: int = 0
    height: int = 0


@dataclass(frozen=True, slots=True)
class Picture:
    """What became of a job; ``data`` only of those that were made, the size only of those that were measured."""

    verdict: Verdict
    content_type: str = ""
    data: bytes = b""
    width: int = 0
    height: int = 0


class PictureWorker:
    """The process, or none."""

    def __init__(self, max_pixels: int, program: Path = _PROGRAM, job_limit_s: float = JOB_LIMIT_S) -> None:
        self._max_pixels = max_pixels
        self._program = program
        self._job_limit_s = job_limit_s
        self._process: subprocess.Popen[bytes] | None = None
        self._jobs = 0
        # Between whoever starts a process and whoever stops the server.
        self._lock = Lock()
        self._closed = False

    @property
    def is_running(self) -> bool:
        """Whether there is a process at the moment."""
        return self._process is not None

    def make(self, path: Path, width: int, height: int, method: str, *, animated: bool) -> Picture:
        """One thumbnail. A picture that costs the worker its life is one that cannot be made smaller."""
        process = self._start()
        if process is None:
            return Picture("stopped")
        job = {"path": str(path), "width": width, "height": height, "method": method, "animated": animated}
        timer = Timer(self._job_limit_s, process.kill)
        timer.daemon = True
        timer.start()
        try:
            picture = _exchange(process, msgspec.json.encode(job) + b"\n")
        except (OSError, ValueError, msgspec.MsgspecError):
            # Dead, or not in its right mind. (ValueError: its pipes were closed by `end`.)
            self.end()
            return Picture("stopped" if self._closed else "unsupported")
        finally:
            timer.cancel()
        self._jobs += 1
        if self._jobs >= MAX_JOBS:
            self.end()
        return picture

    def _start(self) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if self._closed:
                return None
            if self._process is not None and self._process.poll() is not None:
                bury(self._process)
                self._process = None
            if self._process is None:
                self._jobs = 0
                self._process = subprocess.Popen(  # noqa: S603 (our own program, by its path)
                    # -I: neither the environment nor the current folder can add to what it imports.
                    [sys.executable, "-I", str(self._program), str(self._max_pixels)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    env={},
                )
            return self._process

    def end(self) -> None:
        """Let the process go; another one is started when it is needed."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.kill()
            bury(process)

    def close(self) -> None:
        """For good."""
        self._closed = True
        with self._lock:
            process = self._process
        if process is not None:
            # Whoever reads from it notices; its pipes are not closed under that thread.
            process.kill()


def _exchange(process: subprocess.Popen[bytes], job: bytes) -> Picture:
    if process.stdin is None or process.stdout is None:
        raise ValueError("a worker without pipes")
    process.stdin.write(job)
    process.stdin.flush()
    line = process.stdout.readline(_MAX_HEAD_BYTES)
    if not line.endswith(b"\n"):
        raise ValueError("the worker has ended")
    head = msgspec.json.decode(line, type=_Head)
    if not 0 <= head.length <= MAX_ANSWER_BYTES:
        raise ValueError("the worker's answer is too long")
    data = process.stdout.read(head.length)
    if len(data) != head.length:
        raise ValueError("the worker has ended")
    return Picture(head.verdict, head.content_type, data, head.width, head.height)
