"""Resolving the states of forks: what is in conflict, and the auth graph behind it, within one unit of work.

References are event nids. Nothing is loaded but what the resolution asks for, in bulk: of a room of thousands of
members hardly anything is. Events that are not stored yet come with the call (``Unstored``).

# spec: server-server-api#room-state-resolution
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import and_, bindparam, select

from federation.auth.select import StateKey
from federation.event import Event
from federation.state.resolve import resolve_conflicts
from federation.versions import RoomRules
from homeserver.db.schema.rooms import auth_edges, event_types, events, state_keys
from homeserver.db.statements import any_of, statement
from homeserver.db.tx import Tx
from homeserver.store.events import load_ranks
from homeserver.store.ids import load_keys, stored_name
from homeserver.store.parsed import EventCache, load_events
from homeserver.store.state import Snapshot, diff

_PARENTS = statement(
    select(auth_edges.c.child_nid, auth_edges.c.parent_nid).where(any_of(auth_edges.c.child_nid, "nids"))
)
_CHILDREN = statement(
    select(auth_edges.c.parent_nid, auth_edges.c.child_nid)
    .where(any_of(auth_edges.c.parent_nid, "nids"))
    .order_by(auth_edges.c.parent_nid, auth_edges.c.child_nid)
)
_KEYS_OF = statement(
    select(events.c.nid, events.c.state_key_nid).where(
        and_(any_of(events.c.nid, "nids"), events.c.state_key_nid.is_not(None))
    )
)
_REJECTED = statement(
    select(events.c.nid).where(and_(any_of(events.c.nid, "nids"), events.c.rejected_reason.is_not(None)))
)
_KEY = statement(
    select(state_keys.c.nid)
    .select_from(state_keys.join(event_types, event_types.c.nid == state_keys.c.type_nid))
    .where(and_(event_types.c.type == bindparam("type"), state_keys.c.state_key == bindparam("state_key")))
)


@dataclass(frozen=True, slots=True)
class UnstoredEvent:
    """A state event on its way to the disk."""

    event: Event
    key_nid: int
    auth_nids: tuple[int, ...]
    rank: int
    is_rejected: bool


@dataclass(frozen=True, slots=True)
class Unstored:
    """What the database does not know yet."""

    events: Mapping[int, UnstoredEvent] = field(default_factory=dict)
    keys: Mapping[int, StateKey] = field(default_factory=dict)


class StoreGraph:
    """The auth graph of a room: ``AuthGraph`` with ranks, keys and rejections, upwards too."""

    def __init__(self, tx: Tx, cache: EventCache, unstored: Unstored) -> None:
        self._tx = tx
        self._cache = cache
        self._unstored = unstored.events
        self._names = dict(unstored.keys)

    def _split(self, refs: Collection[int]) -> tuple[list[int], list[int]]:
        ours = [ref for ref in refs if ref in self._unstored]
        return ours, [ref for ref in refs if ref not in self._unstored]

    def events(self, refs: Collection[int]) -> Mapping[int, Event]:
        """The events themselves."""
        ours, stored = self._split(refs)
        found = {ref: self._unstored[ref].event for ref in ours}
        if stored:
            found.update(load_events(self._tx, stored, self._cache))
        return found

    def parents(self, refs: Collection[int]) -> Mapping[int, Sequence[int]]:
        """The auth events of each."""
        ours, stored = self._split(refs)
        found: dict[int, list[int]] = {ref: list(self._unstored[ref].auth_nids) for ref in ours}
        for child, parent in self._tx.all(_PARENTS, nids=stored) if stored else ():
            found.setdefault(child, []).append(parent)
        return found

    def children(self, refs: Collection[int]) -> Mapping[int, Sequence[int]]:
        """The events that cite each."""
        found: dict[int, list[int]] = {}
        for parent, child in self._tx.all(_CHILDREN, nids=list(refs)):
            found.setdefault(parent, []).append(child)
        for child, one in self._unstored.items():
            for parent in one.auth_nids:
                if parent in refs:
                    found.setdefault(parent, []).append(child)
        return found

    def ranks(self, refs: Collection[int]) -> Mapping[int, int]:
        """How high each stands."""
        ours, stored = self._split(refs)
        found = {ref: self._unstored[ref].rank for ref in ours}
        if stored:
            found.update(load_ranks(self._tx, stored))
        return found

    def keys_of(self, refs: Collection[int]) -> Mapping[int, StateKey]:
        """Type and state key of state events."""
        ours, stored = self._split(refs)
        found = {ref: self._unstored[ref].event.key() for ref in ours}
        key_nids: dict[int, int] = dict(self._tx.all(_KEYS_OF, nids=stored)) if stored else {}
        names = self.names(key_nids.values())
        found.update({ref: names[key_nid] for ref, key_nid in key_nids.items()})
        return found

    def key_nid_of(self, ref: int) -> int:
        """The number of an event's state key."""
        if ref in self._unstored:
            return self._unstored[ref].key_nid
        return int(self._tx.all(_KEYS_OF, nids=[ref])[0][1])

    def rejected(self, refs: Collection[int]) -> Collection[int]:
        """Those that were rejected."""
        ours, stored = self._split(refs)
        found = {ref for ref in ours if self._unstored[ref].is_rejected}
        if stored:
            found.update(self._tx.column(_REJECTED, nids=stored))
        return found

    def names(self, key_nids: Collection[int]) -> Mapping[int, StateKey]:
        """The (type, state key) behind numbers."""
        missing = sorted({nid for nid in key_nids if nid not in self._names})
        if missing:
            self._names.update(load_keys(self._tx, missing))
        return self._names


class _Common(Mapping[StateKey, int]):
    """What the states have in common, looked up key by key."""

    def __init__(self, tx: Tx, state: Snapshot, conflicted: Collection[int], graph: StoreGraph) -> None:
        self._tx = tx
        self._state = state
        self._conflicted = conflicted
        self._graph = graph
        self._known: dict[StateKey, int] = {name: nid for nid, name in graph.names(()).items()}

    def __getitem__(self, key: StateKey) -> int:
        key_nid = self._known.get(key)
        if key_nid is None:
            found = self._tx.value(_KEY, type=stored_name(key[0]), state_key=stored_name(key[1]))
            key_nid = self._known[key] = found or 0
        event_nid = 0 if not key_nid or key_nid in self._conflicted else self._state.get(key_nid)
        if not event_nid:
            raise KeyError(key)
        return event_nid

    def _pairs(self) -> list[tuple[int, int]]:
        return [(key, nid) for key, nid in self._state.items() if nid and key not in self._conflicted]

    def __iter__(self) -> Iterator[StateKey]:
        pairs = self._pairs()
        names = self._graph.names([key for key, _ in pairs])
        return iter([names[key] for key, _ in pairs])

    def __len__(self) -> int:
        return len(self._pairs())

    def values(self) -> list[int]:  # type: ignore[override]
        """Without the names, which cost a look-up each."""
        return [nid for _, nid in self._pairs()]


def resolve_states(
    tx: Tx, rules: RoomRules, states: Sequence[Snapshot], cache: EventCache, unstored: Unstored
) -> dict[int, int]:
    """Where the resolution of several states differs from the first: state key nid -> event nid (0: it goes away)."""
    first = states[0]
    conflicted = sorted({key for other in states[1:] for key in diff(first, other)})
    if not conflicted:
        return {}
    graph = StoreGraph(tx, cache, unstored)
    names = graph.names(conflicted)
    parts = [{names[key]: nid for key in conflicted if (nid := state.get(key))} for state in states]
    common = _Common(tx, first, frozenset(conflicted), graph)
    resolved = resolve_conflicts(rules, common, parts, graph)
    numbers = {names[key]: key for key in conflicted}
    changes = dict.fromkeys(conflicted, 0)
    for key, nid in resolved.items():
        key_nid = numbers.get(key)
        if key_nid is None:
            # No state has this key: an event of the auth difference brought it.
            key_nid = graph.key_nid_of(nid)
        changes[key_nid] = nid
    return {key: nid for key, nid in changes.items() if first.get(key) != nid}
