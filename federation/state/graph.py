"""What state resolution asks of the world: events by reference, and the auth events of each.

A reference is whatever names an event to the caller: an integer in production, an event id in tests. All questions
are put in bulk, and `GraphView` remembers the answers for one resolution, so nothing is asked twice.

Spec anchor: server-server-api#room-state-resolution.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from federation.auth.select import StateKey
from federation.event import Event


class Ordered(Protocol):
    """Hashable and with a total order: all that a reference must be."""

    def __hash__(self) -> int: ...
    def __lt__(self, other: Any, /) -> bool: ...


Ref = TypeVar("Ref", bound=Ordered)


class AuthGraph(Protocol[Ref]):
    """The auth events of a room as a graph. Unknown references are absent from the answers."""

    def events(self, refs: Collection[Ref]) -> Mapping[Ref, Event]:
        """The events themselves. MUST be synchronous."""
        ...

    def parents(self, refs: Collection[Ref]) -> Mapping[Ref, Sequence[Ref]]:
        """The auth events of each."""
        ...


@runtime_checkable
class RankedGraph(Protocol[Ref]):
    """A graph that also knows how high each event stands; walks over it stop early.

    A rank MUST be greater than the ranks of all auth events: 1 + the highest of them will do, to be computed once
    when the event is stored. The `depth` of an event will not do: its sender chooses it.
    """

    def ranks(self, refs: Collection[Ref]) -> Mapping[Ref, int]: ...


@runtime_checkable
class KeyedGraph(Protocol[Ref]):
    """A graph that knows the type and state key of an event without reading all of it.

    Following the power levels through the history of a room then reads no content, which may be large.
    """

    def keys_of(self, refs: Collection[Ref]) -> Mapping[Ref, StateKey]:
        """Of state events; others are absent."""
        ...


@runtime_checkable
class RejectingGraph(Protocol[Ref]):
    """A graph that may hold rejected events."""

    def rejected(self, refs: Collection[Ref]) -> Collection[Ref]:
        """Those of `refs` that were rejected."""
        ...


@runtime_checkable
class AscendingGraph(Protocol[Ref]):
    """A graph that can be walked upwards too, from an event to those that cite it.

    Whether an event of a branch is below anything that all states have is then a question of the branch, and not of
    the room's thousands of members.
    """

    def children(self, refs: Collection[Ref]) -> Mapping[Ref, Sequence[Ref]]:
        """The events that have each among their auth events."""
        ...


class GraphView(Generic[Ref]):
    """The parts of a graph that one resolution has asked for. Lives as long as that resolution."""

    def __init__(self, graph: AuthGraph[Ref]) -> None:
        self._graph = graph
        self._ranked: RankedGraph[Ref] | None = graph if isinstance(graph, RankedGraph) else None
        self._keyed: KeyedGraph[Ref] | None = graph if isinstance(graph, KeyedGraph) else None
        self._rejecting: RejectingGraph[Ref] | None = graph if isinstance(graph, RejectingGraph) else None
        self._ascending: AscendingGraph[Ref] | None = graph if isinstance(graph, AscendingGraph) else None
        self._parents: dict[Ref, tuple[Ref, ...]] = {}
        self._events: dict[Ref, Event | None] = {}
        self._keys: dict[Ref, StateKey | None] = {}
        self._ranks: dict[Ref, int] = {}
        self._auth_maps: dict[Ref, dict[StateKey, Ref]] = {}

    @property
    def is_ranked(self) -> bool:
        return self._ranked is not None

    @property
    def ascends(self) -> bool:
        return self._ascending is not None

    def children(self, refs: Collection[Ref]) -> Mapping[Ref, Sequence[Ref]]:
        if self._ascending is None:
            raise ValueError("the graph cannot be walked upwards")
        return self._ascending.children(refs)

    def load_parents(self, refs: Iterable[Ref]) -> None:
        missing = sorted({ref for ref in refs if ref not in self._parents})
        if missing:
            found = self._graph.parents(missing)
            for ref in missing:
                # An event may cite another twice; an event of versions 1 and 2 might even cite itself.
                self._parents[ref] = tuple(dict.fromkeys(found.get(ref, ())))

    def parents(self, ref: Ref) -> tuple[Ref, ...]:
        if ref not in self._parents:
            self.load_parents((ref,))
        return self._parents[ref]

    def has_parents_of(self, ref: Ref) -> bool:
        return ref in self._parents

    def load_events(self, refs: Iterable[Ref]) -> None:
        missing = sorted({ref for ref in refs if ref not in self._events})
        if missing:
            found = self._graph.events(missing)
            for ref in missing:
                self._events[ref] = found.get(ref)

    def event(self, ref: Ref) -> Event | None:
        if ref not in self._events:
            self.load_events((ref,))
        return self._events[ref]

    def load_keys(self, refs: Iterable[Ref]) -> None:
        missing = sorted({ref for ref in refs if ref not in self._keys})
        if not missing:
            return
        if self._keyed is not None:
            found = self._keyed.keys_of(missing)
            for ref in missing:
                self._keys[ref] = found.get(ref)
            return
        self.load_events(missing)
        for ref in missing:
            event = self._events[ref]
            self._keys[ref] = None if event is None or event.state_key is None else event.key()

    def load_ranks(self, refs: Iterable[Ref]) -> None:
        if self._ranked is None:
            raise ValueError("the graph has no ranks")
        missing = sorted({ref for ref in refs if ref not in self._ranks})
        if missing:
            found = self._ranked.ranks(missing)
            for ref in missing:
                self._ranks[ref] = found.get(ref, 0)

    def rank(self, ref: Ref) -> int:
        if ref not in self._ranks:
            self.load_ranks((ref,))
        return self._ranks[ref]

    def load_auth_maps(self, refs: Iterable[Ref]) -> None:
        """Make `auth_map` cheap for all of these: parents, their keys and their rejections, in one go each."""
        wanted = [ref for ref in refs if ref not in self._auth_maps]
        self.load_parents(wanted)
        cited = {parent for ref in wanted for parent in self._parents[ref]}
        self.load_keys(cited)
        rejected = (
            frozenset(self._rejecting.rejected(sorted(cited))) if self._rejecting and cited else frozenset()
        )
        for ref in wanted:
            auth_map: dict[StateKey, Ref] = {}
            for parent in self._parents[ref]:
                key = self._keys[parent]
                if key is not None and parent not in rejected:
                    auth_map.setdefault(key, parent)
            self._auth_maps[ref] = auth_map

    def auth_map(self, ref: Ref) -> Mapping[StateKey, Ref]:
        """The auth events of an event by type and state key, without the rejected ones."""
        if ref not in self._auth_maps:
            self.load_auth_maps((ref,))
        return self._auth_maps[ref]
