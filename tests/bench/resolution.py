"""Rooms whose state has come apart, to be resolved by us and by Synapse's own function.

The events are made here, once for both; Synapse's function gets them as JSON (`resolution_synapse.py`, run by Synapse's
interpreter). The bench lets whole servers resolve such a room; `tests/interop/test_resolution.py` compares what both come
to.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from federation.auth.select import StateKey
from federation.event import Event
from federation.ids import EventId, ServerName
from federation.state.resolve import resolve
from federation.versions import RoomRules
from tests.bench.resident import VERSION, LargeRoom, Resident
from tests.interop import synapse

SCRIPT = Path(__file__).with_name("resolution_synapse.py")


@dataclass(frozen=True, slots=True)
class Fork:
    """A room with two states."""

    events: Mapping[EventId, Event]
    states: Sequence[Mapping[StateKey, EventId]]
    rules: RoomRules


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


def make_fork(members: int, fork: int, version: str = VERSION) -> Fork:
    """A room and its two branches."""
    resident = Resident(ServerName("resident.test"))
    room = resident.create_large(members, version)
    states = [state for state, _ in add_branches(room, fork)]
    return Fork(dict(room.events), states, room.rules)


def add_branches(room: LargeRoom, fork: int) -> list[tuple[dict[StateKey, EventId], list[Event]]]:
    """Two branches of power levels, topics, bans and profiles, half of the events on each: state and events of each.

    Afterwards the room stands at the end of the second one.
    """
    trunk = dict(room.state_after(()))
    head = room.head[0]
    branches = []
    for branch in range(2):
        room.head, room.after = [head], {head: dict(trunk)}
        before = len(room.events)
        for number in range(fork // 2):
            _add(room, branch, number)
        branches.append((dict(room.state_after(())), list(room.events.values())[before:]))
    return branches


def merge(room: LargeRoom, branches: Sequence[tuple[dict[StateKey, EventId], list[Event]]]) -> Event:
    """A message on the ends of both branches, which makes one of the room again."""
    states = [state for state, _ in branches]
    resolved = resolve(room.rules, states, Graph(room.events))
    ends = [events[-1].event_id for _, events in branches]
    room.after = {room.head[0]: resolved}
    return room.say("Together again", prev=ends)


def _add(room: LargeRoom, branch: int, number: int) -> None:
    creator = room.peer.user()
    if number % 10 == 0:
        users = {} if room.rules.privileged_creators else {creator: 100}
        users[room.peer.user(f"member{branch}")] = 10 + number
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


def resolve_fork(fork: Fork) -> dict[StateKey, EventId]:
    """The state that we come to."""
    return resolve(fork.rules, fork.states, Graph(fork.events))


def resolve_fork_by_synapse(fork: Fork) -> dict[StateKey, EventId]:
    """The state that Synapse comes to."""
    content = {
        "version": fork.rules.version,
        "room_id": next(iter(fork.events.values())).room_id,
        "events": [event.json for event in fork.events.values()],
        "states": [[[*key, event_id] for key, event_id in state.items()] for state in fork.states],
    }
    with tempfile.TemporaryDirectory(prefix="resolution-") as folder:
        file = Path(folder) / "fork.json"
        file.write_bytes(msgspec.json.encode(content))
        command = [str(synapse.ensure_synapse()), str(SCRIPT), str(file)]
        done = subprocess.run(command, check=True, capture_output=True)
    answer = msgspec.json.decode(done.stdout.splitlines()[-1])
    return {(event_type, state_key): event_id for event_type, state_key, event_id in answer}
