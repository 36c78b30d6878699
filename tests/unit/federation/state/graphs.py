"""Auth graphs over events in memory, and the loader of the scenarios in tests/fixtures/state."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from federation.auth.select import StateKey
from federation.event import Event
from tests.unit.federation.auth.room import ALICE, Room

SCENARIOS = Path(__file__).parents[3] / "fixtures" / "state"
State = dict[StateKey, str]


class MemoryGraph:
    """References are event ids. Counts its questions."""

    def __init__(self, events: Mapping[str, Event], rejected: Collection[str] = ()) -> None:
        self.all = events
        self.rejected_ids = frozenset(rejected)
        self.questions = 0
        self.asked: set[str] = set()
        self.read: set[str] = set()

    def events(self, refs: Collection[str]) -> dict[str, Event]:
        self.note(refs)
        self.read.update(refs)
        return {ref: self.all[ref] for ref in refs if ref in self.all}

    def parents(self, refs: Collection[str]) -> dict[str, Sequence[str]]:
        self.note(refs)
        return {ref: self.all[ref].auth_event_ids for ref in refs if ref in self.all}

    def rejected(self, refs: Collection[str]) -> Collection[str]:
        return [ref for ref in refs if ref in self.rejected_ids]

    def note(self, refs: Collection[str]) -> None:
        self.questions += 1
        self.asked.update(refs)


class RankedMemoryGraph(MemoryGraph):
    """Knows each event's key, and the length of its longest way to the start of the room, as a database does."""

    def __init__(self, events: Mapping[str, Event], rejected: Collection[str] = ()) -> None:
        super().__init__(events, rejected)
        self._ranks: dict[str, int] = {}
        for event_id in events:  # in order of creation: auth events come first
            parents = [
                self._ranks[parent] for parent in events[event_id].auth_event_ids if parent in self._ranks
            ]
            self._ranks[event_id] = 1 + max(parents, default=0)

    def keys_of(self, refs: Collection[str]) -> dict[str, StateKey]:
        self.note(refs)
        return {ref: self.all[ref].key() for ref in refs if ref in self.all and self.all[ref].is_state()}

    def ranks(self, refs: Collection[str]) -> dict[str, int]:
        return {ref: self._ranks[ref] for ref in refs if ref in self._ranks}


class AscendingMemoryGraph(RankedMemoryGraph):
    """Also knows who cites an event, as a database with an index does."""

    def children(self, refs: Collection[str]) -> dict[str, Sequence[str]]:
        self.note(refs)
        wanted = frozenset(refs)
        found: dict[str, list[str]] = {}
        for event_id, event in self.all.items():
            for parent in event.auth_event_ids:
                if parent in wanted:
                    found.setdefault(parent, []).append(event_id)
        return dict(found)


class NumberedGraph:
    """The same graph under integers, handed out in an order that has nothing to do with the room's."""

    def __init__(self, inner: MemoryGraph) -> None:
        self.inner = inner
        ids = sorted(inner.all, key=lambda event_id: event_id[::-1])
        self.number = {event_id: index * 7 + 3 for index, event_id in enumerate(ids)}
        self.name = {number: event_id for event_id, number in self.number.items()}

    def events(self, refs: Collection[int]) -> dict[int, Event]:
        return {self.number[key]: event for key, event in self.inner.events(self._names(refs)).items()}

    def parents(self, refs: Collection[int]) -> dict[int, list[int]]:
        found = self.inner.parents(self._names(refs))
        return {
            self.number[key]: [self.number[parent] for parent in parents] for key, parents in found.items()
        }

    def _names(self, refs: Iterable[int]) -> list[str]:
        return [self.name[ref] for ref in refs]


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    room_versions: list[str]
    data: dict[str, Any]

    def build(self, version: str) -> tuple[Room, list[State]]:
        """The events and states under the rules of one version."""
        room = Room(version)
        for fields in self.data["events"][1:]:
            auth = [
                ref
                for ref in fields["auth"]
                if not (ref == "$create" and room.rules.create_not_in_auth_events)
            ]
            content = dict(fields["content"])
            if room.rules.privileged_creators and "users" in content:
                content["users"] = {key: level for key, level in content["users"].items() if key != ALICE}
            room.event(
                fields["type"],
                fields["sender"],
                content,
                fields["state_key"],
                event_id=fields["id"],
                auth=auth,
                ts=fields["origin_server_ts"],
            )
        states = [{room.events[ref].key(): ref for ref in refs} for refs in self.data["states"]]
        return room, states

    def expected(self) -> dict[StateKey, str | None]:
        result: dict[StateKey, str | None] = {}
        for key, ref in self.data["expected"].items():
            event_type, _, state_key = key.partition("|")
            result[(event_type, state_key)] = ref
        return result


def load_scenarios() -> list[Scenario]:
    scenarios = []
    for path in sorted(SCENARIOS.glob("*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        scenarios.append(Scenario(path.stem, data["room_versions"], data))
    return scenarios
