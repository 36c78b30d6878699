"""A CHAOS and a Synapse that federate on loopback addresses: started once for all tests of one database.

Both are the real processes with TLS and checked certificates. `pair(database)` starts them when the first test asks,
and they end with the process. `CHAOS_INTEROP_TARGET=synapse` puts a second Synapse in CHAOS's place: what fails there
too is wrong in the test.
"""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.trial import unittest

from tests.bench.postgres import create_database
from tests.bench.targets import prepare_chaos
from tests.interop import synapse
from tests.interop.authority import Authority, Wire
from tests.interop.client import PATIENCE_S, Client, register
from tests.interop.gate import Gate
from tests.interop.process import ServerProcess
from tests.support.postgres import PostgresUnavailable, server_url

CHAOS_ADDRESS = "127.0.0.10"
SYNAPSE_ADDRESS = "127.0.0.11"
TARGET_VARIABLE = "CHAOS_INTEROP_TARGET"


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two servers."""

    name: str
    process: ServerProcess
    wire: Wire
    gate: Gate

    @property
    def server_name(self) -> str:
        return self.wire.server_name

    @property
    def is_synapse(self) -> bool:
        """Whether the process is one, which it may be in CHAOS's place."""
        return self.process.command.name.startswith("Synapse")


def prepare_side(name: str, target: str, folder: Path, database: str, wire: Wire) -> Side:
    """A server that is not started yet, and the open gate before it."""
    if target == "chaos":
        process = prepare_chaos(folder / name, database, wire=wire)
    else:
        process = synapse.prepare(folder / name, database, wire=wire)
    return Side(name, process, wire, Gate(wire.address, wire.port, wire.inner_port))


class Pair:
    """Both servers, and fresh users on them."""

    def __init__(self, folder: Path, chaos_database: str, synapse_database: str) -> None:
        authority = Authority(folder / "authority")
        target = os.environ.get(TARGET_VARIABLE, "chaos")
        self.chaos = prepare_side("chaos", target, folder, chaos_database, authority.issue(CHAOS_ADDRESS))
        self.synapse = prepare_side(
            "synapse", "synapse", folder, synapse_database, authority.issue(SYNAPSE_ADDRESS)
        )
        self._serial = itertools.count(1)
        self._read_log = 0

    def __getitem__(self, name: str) -> Side:
        return self.chaos if name == "chaos" else self.synapse

    def other(self, side: Side) -> Side:
        return self.synapse if side is self.chaos else self.chaos

    def start(self) -> None:
        self.chaos.process.start()
        self.synapse.process.start()

    def stop(self) -> None:
        for side in (self.chaos, self.synapse):
            side.process.kill()
            side.gate.end()

    def new_errors(self) -> list[str]:
        """What CHAOS has logged as an error since the last look."""
        log = self.chaos.process.command.log_file
        with log.open(encoding="utf-8", errors="replace") as lines:
            lines.seek(self._read_log)
            text = lines.read()
            self._read_log = lines.tell()
        return [line for line in text.splitlines() if '"level":"error"' in line.replace(" ", "")]

    def register(self, side: Side, name: str) -> Client:
        """A new user, whose name nobody else has."""
        return register(side.process, f"{name}{next(self._serial)}")


@functools.cache
def pair(database: str) -> Pair:
    """The pair on "sqlite" or "postgresql", running; skips the test where there is no PostgreSQL."""
    stack = ExitStack()
    atexit.register(stack.close)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-interop-")))
    both = Pair(folder, make_database(database, "chaos"), make_database(database, "synapse"))
    stack.callback(both.stop)
    both.start()
    return both


_numbers = itertools.count(1)


def make_database(database: str, owner: str) -> str:
    """An address for `prepare`; each call another database."""
    if database == "sqlite":
        return database
    try:
        return create_database(server_url(), f"interop_{owner}_{time.time_ns()}_{next(_numbers)}")
    except PostgresUnavailable as error:
        raise unittest.SkipTest(f"no PostgreSQL: {error}") from error


# --- agreement ----------------------------------------------------------------------------------------------------


def agree(room_id: str, *clients: Client, patience_s: float = PATIENCE_S, history: bool = True) -> None:
    """Wait until every client's server gives the same state and the same events of a room, asked for; say what differs.

    The clients' users must be in the room and may see all of it.
    """
    deadline = time.monotonic() + patience_s
    while problem := _difference(room_id, clients, history=history):
        if time.monotonic() > deadline:
            raise AssertionError(f"{room_id}: after {patience_s:.0f} s: {problem}")
        # Something of the room will arrive in somebody's sync, or nothing will ever change.
        for client in clients:
            client.sync(200)


def _difference(room_id: str, clients: tuple[Client, ...], *, history: bool) -> str:
    states = [
        {key: event["event_id"] for key, event in client.whole_state(room_id).items()} for client in clients
    ]
    for client, state in zip(clients[1:], states[1:], strict=True):
        keys = [key for key in sorted({*states[0], *state}) if states[0].get(key) != state.get(key)]
        if keys:
            return _tell(
                f"the states differ in {keys}",
                clients[0],
                client,
                _named(states[0], keys),
                _named(state, keys),
            )
    if not history:
        return ""
    events = [{event["event_id"]: event["type"] for event in client.history(room_id)} for client in clients]
    for client, found in zip(clients[1:], events[1:], strict=True):
        if found != events[0]:
            return _tell(
                "the events differ",
                clients[0],
                client,
                {one: events[0][one] for one in events[0] if one not in found},
                {one: found[one] for one in found if one not in events[0]},
            )
    return ""


def _named(state: dict[tuple[str, str], str], keys: list[tuple[str, str]]) -> list[str | None]:
    return [state.get(key) for key in keys]


def _tell(what: str, first: Client, second: Client, one: Any, other: Any) -> str:
    return f"{what}; {first.user_id} has {one}, {second.user_id} has {other}"


def eventually(what: str, holds: Callable[[], Any], *clients: Client, patience_s: float = PATIENCE_S) -> Any:
    """Wait for something that only asking shows; between two looks the clients sync."""
    deadline = time.monotonic() + patience_s
    while not (result := holds()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {patience_s:.0f} s: {what}")
        for client in clients:
            client.sync(200)
    return result
