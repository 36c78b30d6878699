"""State resolution alone: one large room whose state has come apart, resolved by us and by Synapse's own function.

The events are made here, once for both; Synapse gets them as JSON and times itself (`resolution_synapse.py`, in its own
environment). Every event is in memory on both sides, so that what is measured is the algorithm.
"""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from federation.auth.select import StateKey
from federation.event import Event
from federation.ids import EventId, ServerName
from federation.state.resolve import resolve
from federation.versions import ROOM_VERSIONS
from tests.bench.resident import VERSION, LargeRoom, Resident
from tests.interop import synapse

MEMBERS = 10_000
FORK = 100
ROUNDS = 5
SCRIPT = Path(__file__).with_name("resolution_synapse.py")


@dataclass(frozen=True, slots=True)
class Fork:
    """A room with two states."""

    events: Mapping[EventId, Event]
    states: Sequence[Mapping[StateKey, EventId]]


class Graph:
    """The room's events as the resolution asks for them: by what a server stores of each, ranks included."""

    def __init__(self, events: Mapping[EventId, Event]) -> None:
        self._events = events
        self._ranks: dict[EventId, int] = {}
        for event_id, event in events.items():  # parents first
            self._ranks[event_id] = 1 + max((self._ranks[one] for one in event.auth_event_ids), default=0)

    def events(self, refs: Collection[EventId]) -> dict[EventId, Event]:
        return {ref: self._events[ref] for ref in refs if ref in self._events}

    def parents(self, refs: Collection[EventId]) -> dict[EventId, Sequence[EventId]]:
        return {ref: self._events[ref].auth_event_ids for ref in refs if ref in self._events}

    def ranks(self, refs: Collection[EventId]) -> dict[EventId, int]:
        return {ref: self._ranks[ref] for ref in refs if ref in self._ranks}


def make_fork(members: int = MEMBERS, fork: int = FORK) -> Fork:
    """Two branches of power levels, topics, bans and profiles, half of the events on each."""
    resident = Resident(ServerName("resident.test"))
    room = resident.create_large(members)
    trunk = dict(room.state_after(()))
    head = room.head[0]
    states = []
    for branch in range(2):
        room.head, room.after = [head], {head: dict(trunk)}
        for number in range(fork // 2):
            _add(room, branch, number)
        states.append(dict(room.state_after(())))
    return Fork(dict(room.events), states)


def _add(room: LargeRoom, branch: int, number: int) -> None:
    creator = room.peer.user()
    if number % 10 == 0:
        users = {creator: 100, room.peer.user(f"member{branch}"): 10 + number}
        room.add("m.room.power_levels", {"users": users}, state_key="")
    elif number % 10 == 1:
        member = room.peer.user(f"member{100 + number + branch}")
        room.add("m.room.member", {"membership": "ban"}, sender=creator, state_key=member)
    elif number % 2:
        room.add("m.room.topic", {"topic": f"{branch} {number}"}, state_key="")
    else:
        member = room.peer.user(f"member{500 + number}")
        content = {"membership": "join", "displayname": f"{branch} {number}"}
        room.add("m.room.member", content, sender=member, state_key=member)


def resolve_fork(fork: Fork) -> tuple[float, dict[StateKey, EventId]]:
    """Milliseconds, the median of some rounds, and the state."""
    graph = Graph(fork.events)
    taken_ms = []
    resolved: dict[StateKey, EventId] = {}
    for _ in range(ROUNDS):
        started_s = time.perf_counter()
        resolved = resolve(ROOM_VERSIONS[VERSION], fork.states, graph)
        taken_ms.append((time.perf_counter() - started_s) * 1000)
    return statistics.median(taken_ms), resolved


def resolve_fork_by_synapse(fork: Fork) -> tuple[float, dict[StateKey, EventId]]:
    """The same of Synapse."""
    content = {
        "version": VERSION,
        "rounds": ROUNDS,
        "room_id": next(iter(fork.events.values())).room_id,
        "events": [event.json for event in fork.events.values()],
        "states": [[[*key, event_id] for key, event_id in state.items()] for state in fork.states],
    }
    with tempfile.TemporaryDirectory(prefix="bench-resolution-") as folder:
        file = Path(folder) / "fork.json"
        file.write_bytes(msgspec.json.encode(content))
        command = [str(synapse.ensure_synapse()), str(SCRIPT), str(file)]
        done = subprocess.run(command, check=True, capture_output=True)
    answer = msgspec.json.decode(done.stdout.splitlines()[-1])
    resolved = {(event_type, state_key): event_id for event_type, state_key, event_id in answer["state"]}
    return answer["median_ms"], resolved


def measure_resolution(*, of_synapse: bool) -> float:
    """Milliseconds. Both must come to the same state, or the figure would mean nothing."""
    fork = make_fork()
    ours_ms, ours = resolve_fork(fork)
    if not of_synapse:
        return ours_ms
    synapse_ms, theirs = resolve_fork_by_synapse(fork)
    if ours != theirs:
        keys = [key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key)]
        raise AssertionError(f"CHAOS and Synapse resolve {keys} differently")
    return synapse_ms
