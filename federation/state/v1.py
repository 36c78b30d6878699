"""State resolution 1, of room version 1 alone.

Interpretation: conflicts of one kind (say, of members) are resolved each by itself against what earlier kinds left,
so that no order among them matters. An event that nothing allows is not put into the state.

Spec anchor: rooms/v1#state-resolution.
"""

import hashlib
from collections.abc import Mapping, Sequence

from federation.auth.rules import check_state_dependent
from federation.auth.select import MEMBER, StateKey, auth_keys_for
from federation.event import Event
from federation.state.graph import AuthGraph, GraphView, Ref
from federation.verdict import Accept
from federation.versions import RoomRules

_AUTHORISING_KINDS = ("m.room.power_levels", "m.room.join_rules", MEMBER)


def resolve_v1(
    rules: RoomRules,
    agreed: Mapping[StateKey, Ref],
    conflicting: Mapping[StateKey, Sequence[Ref]],
    graph: AuthGraph[Ref],
) -> dict[StateKey, Ref]:
    """What the conflicts resolve to: `conflicting` are the different events of each key that has several."""
    view = GraphView(graph)
    view.load_events(ref for refs in conflicting.values() for ref in refs)
    _prefetch(view, rules, agreed, conflicting)
    resolved: dict[StateKey, Ref] = {}
    for kind in _AUTHORISING_KINDS:
        found: dict[StateKey, Ref] = {}
        for key in sorted(conflicting):
            if key[0] == kind:
                ordered = _oldest_first(view, conflicting[key])
                if ordered:
                    found[key] = _last_of_allowed_run(view, agreed, resolved, key, ordered)
        resolved.update(found)
    for key in sorted(conflicting):
        if key[0] not in _AUTHORISING_KINDS:
            for ref, event in reversed(_oldest_first(view, conflicting[key])):
                if _is_allowed(view, event, agreed, resolved):
                    resolved[key] = ref
                    break
    return resolved


def _prefetch(
    view: GraphView[Ref],
    rules: RoomRules,
    agreed: Mapping[StateKey, Ref],
    conflicting: Mapping[StateKey, Sequence[Ref]],
) -> None:
    wanted: set[Ref] = set()
    for refs in conflicting.values():
        for ref in refs:
            event = view.event(ref)
            if event is not None:
                keys = auth_keys_for(rules, event.type, event.sender, event.state_key, event.content)
                wanted.update(agreed[key] for key in keys if key in agreed)
    view.load_events(wanted)


def _oldest_first(view: GraphView[Ref], refs: Sequence[Ref]) -> list[tuple[Ref, Event]]:
    """By ascending depth, then descending SHA-1 of the event id."""
    known = [(ref, event) for ref in refs if (event := view.event(ref)) is not None]
    known.sort(key=lambda pair: _sha1(pair[1].event_id), reverse=True)
    known.sort(key=lambda pair: pair[1].depth)
    return known


def _sha1(event_id: str) -> bytes:
    return hashlib.sha1(event_id.encode("utf-8"), usedforsecurity=False).digest()


def _last_of_allowed_run(
    view: GraphView[Ref],
    agreed: Mapping[StateKey, Ref],
    resolved: Mapping[StateKey, Ref],
    key: StateKey,
    ordered: Sequence[tuple[Ref, Event]],
) -> Ref:
    """The first event counts unchecked; each next one replaces it while the state with it allows that."""
    state = dict(resolved)
    state[key] = ordered[0][0]
    for ref, event in ordered[1:]:
        if not _is_allowed(view, event, agreed, state):
            break
        state[key] = ref
    return state[key]


def _is_allowed(
    view: GraphView[Ref], event: Event, agreed: Mapping[StateKey, Ref], resolved: Mapping[StateKey, Ref]
) -> bool:
    def lookup(event_type: str, state_key: str) -> Event | None:
        key = (event_type, state_key)
        ref = resolved.get(key)
        if ref is None:
            ref = agreed.get(key)
        return None if ref is None else view.event(ref)

    return isinstance(check_state_dependent(event, lookup), Accept)
