"""A server process under test: started, waited for, killed, started again, measured.

Shared by the bench, the client tests and the interop tests, so that every server (CHAOS, Synapse) is
judged by the same clock and the same definition of ready: it answers `/_matrix/client/versions`.

spec: client-server-api#get_matrixclientversions
"""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

READY_PATH = "/_matrix/client/versions"
POLL_INTERVAL_S = 0.01
LOG_TAIL_LINES = 40


class ServerError(Exception):
    """The server did not come up, or did not go down, as it should have."""


@dataclass(frozen=True, slots=True)
class ServerCommand:
    """How to start one server: everything that stays the same over a kill and a restart."""

    name: str
    arguments: Sequence[str]
    port: int
    log_file: Path
    environment: Mapping[str, str]
    working_folder: Path

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class ServerProcess:
    """The running side of a `ServerCommand`; the owner calls `stop` or `kill`, or uses it in a `with`."""

    def __init__(self, command: ServerCommand) -> None:
        self.command = command
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_details: object) -> None:
        self.kill()

    @property
    def base_url(self) -> str:
        return self.command.base_url

    @property
    def port(self) -> int:
        return self.command.port

    @property
    def pid(self) -> int:
        return self._require_process().pid

    def start(self, limit_s: float = 90.0) -> float:
        """Start the process and return the seconds until it was ready."""
        if self._process is not None:
            raise ServerError(f"{self.command.name} runs already")
        started_s = time.perf_counter()
        with self.command.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                list(self.command.arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.command.working_folder,
                env={**_neutral_environment(), **self.command.environment},
                # A group of its own, so that a kill also takes the children of a server that has some.
                start_new_session=True,
            )
        while not self._answers():
            if self._process.poll() is not None:
                raise ServerError(
                    self.explain(f"ended with status {self._process.returncode} before it was ready")
                )
            if time.perf_counter() - started_s > limit_s:
                self.kill()
                raise ServerError(self.explain(f"was not ready after {limit_s:.0f} s"))
            time.sleep(POLL_INTERVAL_S)
        return time.perf_counter() - started_s

    def stop(self, limit_s: float = 20.0) -> int:
        """Ask the process to end (SIGTERM) and return its exit status."""
        process = self._require_process()
        process.terminate()
        try:
            status = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerError(self.explain(f"did not end within {limit_s:.0f} s of SIGTERM")) from None
        self._process = None
        return status

    def kill(self) -> None:
        """End the process and its children at once (`kill -9`); nothing happens where none runs."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        self._require_process().send_signal(number)

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def resident_mb(self) -> float:
        """Resident memory of the process and all its descendants, in MiB."""
        pages = sum(_resident_pages(pid) for pid in _descendants(self._require_process().pid))
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def cpu_s(self) -> float:
        """Processor seconds that the process and its descendants have used."""
        return tree_cpu_s(self._require_process().pid)

    def _require_process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ServerError(f"{self.command.name} does not run")
        return self._process

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.command.port, timeout=10)
        try:
            connection.request("GET", READY_PATH)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def explain(self, problem: str) -> str:
        """The problem, and the end of what the server wrote, which says more."""
        lines = self.command.log_file.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return "\n".join([f"{self.command.name} {problem}; the end of its log:", *lines])


def list_tree(pid: int) -> list[int]:
    """A process and its descendants."""
    return list(_descendants(pid))


def tree_cpu_s(pid: int) -> float:
    """Processor seconds that a process and its descendants have used."""
    return sum(map(_cpu_ticks, _descendants(pid))) / os.sysconf("SC_CLK_TCK")


def machine_cpu_s() -> float:
    """Processor seconds that anything at all has used on this machine, all cores together."""
    # user, nice, system; then idle and waiting, which are not work; then interrupts.
    user, nice, system, _, _, hard, soft = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + hard + soft) / os.sysconf("SC_CLK_TCK")


def _neutral_environment() -> dict[str, str]:
    """Ours, without what configures a CHAOS: a developer's settings must not leak into a test."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CHAOS_")}


def _descendants(root_pid: int) -> Iterator[int]:
    yield root_pid
    for children in Path(f"/proc/{root_pid}/task").glob("*/children"):
        for child_pid in _read_fields(children):
            yield from _descendants(int(child_pid))


def _resident_pages(pid: int) -> int:
    fields = _read_fields(Path(f"/proc/{pid}/statm"))
    return int(fields[1]) if fields else 0


def _cpu_ticks(pid: int) -> int:
    # The command's name stands in brackets and may hold blanks: count from behind it.
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    # Its own in user and system mode, and that of the children it has buried.
    return sum(map(int, fields[11:15]))


def _read_fields(path: Path) -> list[str]:
    # A process may end between being listed and being read.
    try:
        return path.read_text().split()
    except OSError:
        return []
