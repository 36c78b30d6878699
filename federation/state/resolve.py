"""One room state out of several: the entry of state resolution.

States are maps from (type, state_key) to references of events. The only work that grows with the size of the states
is one pass over their dictionaries; everything after it grows with what is in conflict.

Spec anchor: server-server-api#room-state-resolution.
"""

from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import cast

from federation.auth.select import StateKey
from federation.state.graph import AuthGraph, KeyedGraph, RankedGraph, Ref, RejectingGraph
from federation.state.v1 import resolve_v1
from federation.state.v2 import resolve_v2
from federation.versions import RoomRules

__all__ = [
    "AuthGraph",
    "KeyedGraph",
    "RankedGraph",
    "RejectingGraph",
    "StateKey",
    "resolve",
    "resolve_conflicts",
]


def resolve(
    rules: RoomRules, states: Sequence[Mapping[StateKey, Ref]], graph: AuthGraph[Ref]
) -> dict[StateKey, Ref]:
    """Resolve the states by the algorithm of the room version. The order of the states does not matter."""
    if not states:
        return {}
    conflicted_keys = _conflicted_keys(states)
    unconflicted = {key: ref for key, ref in states[0].items() if key not in conflicted_keys}
    if not conflicted_keys:
        return unconflicted
    conflicted = [{key: state[key] for key in conflicted_keys if key in state} for state in states]
    return {**resolve_conflicts(rules, unconflicted, conflicted, graph), **unconflicted}


def resolve_conflicts(
    rules: RoomRules,
    unconflicted: Mapping[StateKey, Ref],
    conflicted: Sequence[Mapping[StateKey, Ref]],
    graph: AuthGraph[Ref],
) -> dict[StateKey, Ref]:
    """What the states resolve to beside what they have in common.

    `conflicted` are the states without their common part; a key of theirs that is absent from the answer is absent
    from the resolved state. `unconflicted` may load what it is asked for: of a large room hardly anything is.
    """
    if rules.state_resolution == "v1":
        return _resolve_v1(rules, conflicted, unconflicted, graph)
    # The same state twice adds nothing to a resolution.
    own = [frozenset(state.values()) for state in conflicted]
    return resolve_v2(rules, unconflicted, list(dict.fromkeys(own)), graph)


def _conflicted_keys(states: Sequence[Mapping[StateKey, Ref]]) -> set[StateKey]:
    """The keys that do not have the same value in every state; a key that some state lacks is one of them."""
    # spec: rooms/v12#definitions "Unconflicted state map and conflicted state set"
    first = states[0]
    conflicted: set[StateKey] = set()
    for other in states[1:]:
        if other is first:
            continue
        conflicted.update(key for key, ref in first.items() if other.get(key) != ref)
        conflicted.update(other.keys() - first.keys())
    return conflicted


def _resolve_v1(
    rules: RoomRules,
    states: Sequence[Mapping[StateKey, Ref]],
    unconflicted: Mapping[StateKey, Ref],
    graph: AuthGraph[Ref],
) -> dict[StateKey, Ref]:
    """In algorithm 1 only different events are a conflict: a key that a state lacks is not."""
    # spec: rooms/v1#state-resolution
    agreed: dict[StateKey, Ref] = {}
    conflicting: dict[StateKey, Sequence[Ref]] = {}
    for key in sorted({key for state in states for key in state}):
        refs = sorted({state[key] for state in states if key in state})
        if len(refs) == 1:
            agreed[key] = refs[0]
        else:
            conflicting[key] = refs
    # (It is only read: ChainMap would merely like to write.)
    known = ChainMap(agreed, cast("dict[StateKey, Ref]", unconflicted))
    return {**agreed, **resolve_v1(rules, known, conflicting, graph)}
