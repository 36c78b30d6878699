"""Processes that check the events of large answers, beside the server: two threads of one interpreter would take turns.

1. None is needed: without any, or where one is lost, events are checked in a thread of the server, with the same outcome.
2. They are started when an answer is waited for, stay while such work comes, and end when none has come for a while.
3. A process has one job at a time, and dies of one that takes too long. What it says is read as strictly as what others
   send, though it is ours.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import msgspec
from twisted.internet.defer import Deferred

from federation.flows.join_events import Checked, Terms, check_events
from homeserver.rooms.federated.check_worker import Job, read_frame, write_frame
from homeserver.runtime.children import bury
from homeserver.runtime.clock import Clock, DelayedCall
from homeserver.runtime.log import Log

IDLE_S: Final = 60.0
# For the largest chunk on the slowest machine; and for an interpreter to start.
JOB_LIMIT_S: Final = 60.0
# LIMIT(what waits in a pipe: a usual chunk and its answer, so that neither side is woken more often than it must be)
_PIPE_BYTES: Final = 1024 * 1024
# After a process could not be started, or died, none is started for so long.
_PAUSE_S: Final = 60.0
_PROGRAM: Final = Path(__file__).with_name("check_worker.py")

RunInThread = Callable[..., Deferred[Any]]


class Lost(Exception):  # noqa: N818 (a fact, and the caller has another way)
    """The process is gone, or not in its right mind."""


class CheckProcess:
    """One of them. All but ``kill`` blocks, and belongs into a thread."""

    def __init__(self, program: Path = _PROGRAM) -> None:
        self._terms: Terms | None = None
        self._process = subprocess.Popen(  # noqa: S603 (our own program, by its path)
            [sys.executable, "-s", "-P", str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            # What it imports is found where the server found it.
            env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            pipesize=_PIPE_BYTES,
        )
        self._sink = cast(BinaryIO, self._process.stdin)
        self._source = cast(BinaryIO, self._process.stdout)

    def wait_until_ready(self) -> None:
        """Raises Lost."""
        if self._read() != b"":
            raise Lost

    def check(self, texts: Sequence[bytes], terms: Terms) -> Checked:
        """As ``check_events``. Raises Lost."""
        job = Job(list(texts), None if terms is self._terms else terms)
        try:
            write_frame(self._sink, msgspec.msgpack.encode(job))
            self._terms = terms
            return msgspec.msgpack.decode(self._read(), type=Checked)
        except (OSError, ValueError, msgspec.MsgspecError):
            raise Lost from None

    def _read(self) -> bytes:
        try:
            frame = read_frame(self._source)
        except (OSError, ValueError):
            frame = None
        if frame is None:
            raise Lost
        return frame

    def kill(self) -> None:
        """End it. Whoever reads from it notices."""
        self._process.kill()

    def bury(self) -> None:
        """After that: let go of it."""
        bury(self._process)


class CheckProcesses:
    """At most so many of them, or none. All in the reactor thread."""

    def __init__(
        self,
        run_in_thread: RunInThread,
        clock: Clock,
        log: Log,
        most: int,
        start: Callable[[], CheckProcess] = CheckProcess,
    ) -> None:
        self._run = run_in_thread
        self._clock = clock
        self._log = log
        self._most = most
        self._start = start
        self._all: set[CheckProcess] = set()
        self._free: list[CheckProcess] = []
        self._starting = 0
        self._not_before_s = 0.0
        self._idle: DelayedCall | None = None
        self._stopped = False

    @property
    def running(self) -> int:
        """How many there are."""
        return len(self._all)

    def prepare(self) -> None:
        """There will be much to check: start those that are missing."""
        for _ in range(self._most - len(self._all) - self._starting):
            if not self._stopped and self._clock.monotonic() >= self._not_before_s:
                Deferred.fromCoroutine(self._add())

    async def check(self, texts: Sequence[bytes], terms: Terms) -> Checked:
        """Checks 1 to 3 of some texts, wherever there is a place for it."""
        process = self._free.pop() if self._free else None
        if process is not None:
            try:
                checked: Checked = await self._guarded(process, process.check, texts, terms)
            except Lost:
                self._log.warning("a process that checks events was lost")
            else:
                self._free.append(process)
                self._set_timer()
                return checked
        # Signatures are checked outside of the interpreter's lock, the better part of all this.
        return cast(Checked, await self._run(check_events, texts, terms))

    def stop(self) -> None:
        """End them all. What they check meanwhile is checked otherwise."""
        self._stopped = True
        if self._idle is not None and self._idle.active():
            self._idle.cancel()
        for process in self._all:
            process.kill()
        self._end(self._free)
        self._free = []

    async def _add(self) -> None:
        self._starting += 1
        try:
            process: CheckProcess = await self._run(self._start)
        except OSError as error:
            self._log.warning("no process to check events in", problem=str(error))
            self._not_before_s = self._clock.monotonic() + _PAUSE_S
            return
        finally:
            self._starting -= 1
        self._all.add(process)
        try:
            await self._guarded(process, process.wait_until_ready)
        except Lost:
            self._log.warning("a process that checks events was lost")
            return
        if self._stopped:
            self._end([process])
            return
        self._free.append(process)
        self._set_timer()

    async def _guarded(self, process: CheckProcess, work: Callable[..., Any], *args: Any) -> Any:
        """Something that a process does, while nobody else has it. Raises Lost: then it is gone."""
        timer = self._clock.callLater(JOB_LIMIT_S, process.kill)
        try:
            return await self._run(work, *args)
        except BaseException as error:
            # Also where nobody waits any longer: a thread still reads from it.
            if isinstance(error, Lost):
                self._not_before_s = self._clock.monotonic() + _PAUSE_S
            self._end([process])
            raise
        finally:
            if timer.active():
                timer.cancel()

    def _set_timer(self) -> None:
        if self._idle is not None and self._idle.active():
            self._idle.reset(IDLE_S)
        else:
            self._idle = self._clock.callLater(IDLE_S, self._rest)

    def _rest(self) -> None:
        self._end(self._free)
        self._free = []

    def _end(self, processes: Sequence[CheckProcess]) -> None:
        for process in processes:
            self._all.discard(process)
            process.kill()  # at once: for what follows there may be no thread just now
            self._run(process.bury)
