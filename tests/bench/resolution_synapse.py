"""Run by Synapse's interpreter, by `resolution.py`: times Synapse's own state resolution on the events of a file."""

from __future__ import annotations

import json
import statistics
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

    def __init__(self, auth_difference: set[str]) -> None:
        self.auth_difference = auth_difference
        self.conflicted_subgraph: set[str] | None = None


class Store:
    """Everything in memory. The difference of the auth chains costs nothing: Synapse has an index for it in its database."""

    def __init__(self, events: dict[str, Any]) -> None:
        self._events = events
        self._difference: Difference | None = None

    def get_events(self, event_ids: Any, allow_rejected: bool = False) -> defer.Deferred[Any]:
        return defer.succeed({one: self._events[one] for one in event_ids if one in self._events})

    def get_auth_chain_difference(
        self, room_id: str, state_sets: Any, conflicted_state: Any, additional: Any
    ) -> defer.Deferred[Any]:
        if self._difference is None:
            # By the specification's definition: what is not in the full auth chain of every set.
            chains = [self._chain(one) for one in state_sets]
            self._difference = Difference(set().union(*chains) - chains[0].intersection(*chains[1:]))
        return defer.succeed(self._difference)

    def _chain(self, event_ids: Any) -> set[str]:
        found: set[str] = set()
        todo = list(event_ids)
        while todo:
            one = todo.pop()
            if one not in found:
                found.add(one)
                todo += self._events[one].auth_event_ids()
        return found


def main() -> None:
    content = json.loads(Path(sys.argv[1]).read_text())
    version = KNOWN_ROOM_VERSIONS[content["version"]]
    made = [make_event_from_dict(event, version) for event in content["events"]]
    events = {event.event_id: event for event in made}
    states = [{(one[0], one[1]): one[2] for one in state} for state in content["states"]]
    taken_ms = []
    resolved: dict[Any, str] = {}
    store: Any = Store(events)
    clock: Any = Clock()
    for _ in range(content["rounds"] + 1):
        started_s = time.perf_counter()
        waiting = defer.ensureDeferred(
            resolve_events_with_store(clock, content["room_id"], version, states, None, store)
        )
        results: list[Any] = []
        waiting.addBoth(results.append)
        taken_ms.append((time.perf_counter() - started_s) * 1000)
        if not isinstance(results[0], dict) and not hasattr(results[0], "items"):
            results[0].raiseException()
        resolved = dict(results[0])
    state = [[key[0], key[1], event_id] for key, event_id in resolved.items()]
    print(json.dumps({"median_ms": statistics.median(taken_ms[1:]), "state": state}))


main()
