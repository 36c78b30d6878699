"""Run by Synapse's interpreter, by `resolution.py`: Synapse's own state resolution on the events of a file."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from synapse import event_auth  # type: ignore[import-not-found]  # noqa: F401 (first: they import in a circle)
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS  # type: ignore[import-not-found]
from synapse.events import make_event_from_dict  # type: ignore[import-not-found]
from synapse.state.v2 import resolve_events_with_store  # type: ignore[import-not-found]
from twisted.internet import defer


class Clock:
    """Synapse yields to its reactor now and then; here nothing else wants to run."""

    def sleep(self, *_: Any) -> defer.Deferred[None]:
        return defer.succeed(None)

    def time_msec(self) -> int:
        return int(time.time() * 1000)


class Difference:
    """What the function reads of the store's answer."""

    def __init__(self, auth_difference: set[str], conflicted_subgraph: set[str] | None) -> None:
        self.auth_difference = auth_difference
        self.conflicted_subgraph = conflicted_subgraph


class Store:
    """Everything in memory; answers by the specification's definitions, taken at their word."""

    def __init__(self, events: dict[str, Any]) -> None:
        self._events = events

    def get_events(self, event_ids: Any, allow_rejected: bool = False) -> defer.Deferred[Any]:
        return defer.succeed({one: self._events[one] for one in event_ids if one in self._events})

    def get_auth_chain_difference(
        self, room_id: str, state_sets: Any, conflicted_state: Any, additional: Any
    ) -> defer.Deferred[Any]:
        chains = [self._chain(one) for one in state_sets]
        difference = set().union(*chains) - chains[0].intersection(*chains[1:])
        subgraph = None if conflicted_state is None else self._subgraph(set(conflicted_state))
        return defer.succeed(Difference(difference, subgraph))

    def _chain(self, event_ids: Any) -> set[str]:
        found: set[str] = set()
        todo = list(event_ids)
        while todo:
            one = todo.pop()
            if one not in found:
                found.add(one)
                todo += self._events[one].auth_event_ids()
        return found

    def _subgraph(self, conflicted: set[str]) -> set[str]:
        """What is below one conflicted event and above another."""
        return {
            one
            for one in self._chain(conflicted)
            if one in conflicted or conflicted & (self._chain([one]) - {one})
        }


def main() -> None:
    content = json.loads(Path(sys.argv[1]).read_text())
    version = KNOWN_ROOM_VERSIONS[content["version"]]
    made = [make_event_from_dict(event, version) for event in content["events"]]
    events = {event.event_id: event for event in made}
    states = [{(one[0], one[1]): one[2] for one in state} for state in content["states"]]
    store: Any = Store(events)
    clock: Any = Clock()
    results: list[Any] = []
    waiting = defer.ensureDeferred(
        resolve_events_with_store(clock, content["room_id"], version, states, None, store)
    )
    waiting.addBoth(results.append)
    if not hasattr(results[0], "items"):
        results[0].raiseException()
    print(json.dumps([[*key, event_id] for key, event_id in results[0].items()]))


main()
