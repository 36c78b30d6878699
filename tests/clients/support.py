"""Runs a client program through its phases against a server that is killed in the middle of them.

`CHAOS_CLIENTS_TARGET=synapse` puts Synapse in CHAOS's place: what fails there too is wrong in the program.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from twisted.trial import unittest

from tests.bench.postgres import create_database
from tests.bench.targets import TARGETS
from tests.interop.environment import REPOSITORY
from tests.interop.process import ServerProcess
from tests.support.postgres import PostgresUnavailable, server_url

TARGET_VARIABLE = "CHAOS_CLIENTS_TARGET"
PHASE_LIMIT_S = 180
# The server is killed in the middle of a burst of several senders, as soon as so many were acknowledged.
KILL_AFTER = 60


class ProgramError(AssertionError):
    """A client program ended with a complaint; the text is its whole output."""


class ProgramCase(unittest.TestCase):
    """Base of the cases: `run_program` with the arguments that start the program."""

    def run_program(self, program: Sequence[str], database: str, *, bursts: bool = True) -> None:
        """talk; burst, killed in its middle (or killed without one); restart; verify."""
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="clients-")))
            address = self._make_database(database, folder.name)
            target = TARGETS[os.environ.get(TARGET_VARIABLE, "chaos")]
            server = stack.enter_context(target.prepare(folder / "server", address))
            self.adjust(server, folder / "server")
            server.start()
            notes = str(folder / "notes.json")
            try:
                run_phase([*program, "talk", server.base_url, notes])
                if bursts:
                    run_burst([*program, "burst", server.base_url, notes], server)
                else:
                    server.kill()
                server.start()
                run_phase([*program, "verify", server.base_url, notes])
            except ProgramError as error:
                raise ProgramError(server.explain(f"did not satisfy the client.\n{error}\n")) from None
            self.assertTrue(server.is_running(), "the server is still up after the last phase")
            self.assertEqual(server.stop(), 0, "and ends cleanly when asked")

    def adjust(self, server: ServerProcess, folder: Path) -> None:
        """What a program needs of the server's configuration, before its first start."""

    def run_once(self, program: Sequence[str], database: str) -> None:
        """A program without phases: its one argument is the address of the server."""
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="clients-")))
            address = self._make_database(database, folder.name)
            target = TARGETS[os.environ.get(TARGET_VARIABLE, "chaos")]
            server = stack.enter_context(target.prepare(folder / "server", address))
            self.adjust(server, folder / "server")
            server.start()
            try:
                run_phase([*program, server.base_url])
            except ProgramError as error:
                raise ProgramError(server.explain(f"did not satisfy the client.\n{error}\n")) from None
            self.assertEqual(server.stop(), 0, "and ends cleanly when asked")

    def _make_database(self, database: str, name: str) -> str:
        if database == "sqlite":
            return "sqlite"
        try:
            return create_database(server_url(), name)
        except PostgresUnavailable as error:
            raise unittest.SkipTest(f"no PostgreSQL: {error}") from error


def run_phase(command: Sequence[str]) -> None:
    """Run one phase to its end; a complaint of the program fails the test with all that it printed."""
    try:
        ended = subprocess.run(
            command,
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PHASE_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ProgramError(f"no end after {PHASE_LIMIT_S} s:\n{_decode(error.stdout)}") from None
    if ended.returncode != 0:
        raise ProgramError(f"status {ended.returncode}:\n{_decode(ended.stdout)}")


def run_burst(command: Sequence[str], server: ServerProcess) -> None:
    """Run the burst and kill the server once enough messages were acknowledged."""
    output = []
    acknowledged = 0
    with subprocess.Popen(
        command,
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as program:
        assert program.stdout is not None
        watchdog = threading.Timer(PHASE_LIMIT_S, program.kill)
        watchdog.start()
        try:
            for line in program.stdout:
                output.append(line)
                if line.startswith("acknowledged "):
                    acknowledged += 1
                    if acknowledged == KILL_AFTER:
                        server.kill()
            status = program.wait()
        finally:
            watchdog.cancel()
    if status != 0 or acknowledged < KILL_AFTER:
        raise ProgramError(f"the burst ended with status {status}:\n{''.join(output)}")


def python_program(module: str) -> list[str]:
    return [sys.executable, "-m", module]


def _decode(output: bytes | None) -> str:
    return (output or b"").decode(errors="replace")
