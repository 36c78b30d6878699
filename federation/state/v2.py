"""State resolution 2.0 and 2.1.

The two differ by two rules of the room version: whether the replay starts from nothing, and whether what lies
between conflicted events is replayed too. Interpretation: the chains and the order of the power events follow auth
events inside the full conflicted set. In 2.1 that set has no gaps, so nothing else could be meant; in 2.0 a chain
that leaves the set and comes back to it is not followed. To be confirmed against other servers.

Spec anchors: rooms/v2#state-resolution, rooms/v12#state-resolution.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Generic

from federation.auth.power import PowerLevels, parse_power_levels
from federation.auth.rules import check_state_dependent
from federation.auth.select import CREATE, MEMBER, POWER_LEVELS, StateKey, auth_keys_for
from federation.event import Event
from federation.state.authdiff import auth_difference, conflicted_subgraph
from federation.state.graph import AuthGraph, GraphView, Ref
from federation.state.sort import mainline_sort, reverse_topological_power_sort
from federation.verdict import Accept
from federation.versions import RoomRules


def resolve_v2(
    rules: RoomRules,
    unconflicted: Mapping[StateKey, Ref],
    conflicted: Sequence[Collection[Ref]],
    graph: AuthGraph[Ref],
) -> dict[StateKey, Ref]:
    """What the conflicts resolve to, beside `unconflicted`: `conflicted` are the events state by state."""
    view = GraphView(graph)
    replayed = _full_conflicted_set(view, rules, unconflicted, conflicted)
    view.load_auth_maps(replayed)
    power_refs = _power_events_and_their_chains(view, replayed)
    replay = _Replay(view, rules, {} if rules.state_resolution_starts_empty else unconflicted)
    replay.find_create(unconflicted, replayed)
    replay.prefetch(replayed)
    # spec: rooms/v12#algorithm
    replay.apply(reverse_topological_power_sort(view, power_refs, replay.sender_level))
    rest = replayed - power_refs
    replay.apply(mainline_sort(view, rest, replay.get(POWER_LEVELS)))
    return {key: ref for key, ref in replay.resolved.items() if key not in unconflicted}


def _full_conflicted_set(
    view: GraphView[Ref],
    rules: RoomRules,
    unconflicted: Mapping[StateKey, Ref],
    conflicted: Sequence[Collection[Ref]],
) -> set[Ref]:
    """Only events that the graph has and that are state: nothing else can be applied."""
    conflicted_set = set[Ref]().union(*conflicted)
    full = conflicted_set | auth_difference(view, conflicted, unconflicted)
    if rules.state_resolution_conflicted_subgraph:
        full |= conflicted_subgraph(view, conflicted_set)
    view.load_events(full)
    return {ref for ref in full if (event := view.event(ref)) is not None and event.state_key is not None}


def is_power_event(event: Event) -> bool:
    """Whether the event might remove someone's ability to do something."""
    # spec: rooms/v12#definitions "Power events"
    if event.type in ("m.room.power_levels", "m.room.join_rules"):
        return event.state_key is not None
    if event.type != MEMBER or event.state_key is None or event.state_key == event.sender:
        return False
    return event.content.get("membership") in ("leave", "ban")


def _power_events_and_their_chains(view: GraphView[Ref], replayed: set[Ref]) -> set[Ref]:
    chosen = {ref for ref in replayed if (event := view.event(ref)) is not None and is_power_event(event)}
    waiting = sorted(chosen)
    while waiting:
        for parent in view.parents(waiting.pop()):
            if parent in replayed and parent not in chosen:
                chosen.add(parent)
                waiting.append(parent)
    return chosen


class _Replay(Generic[Ref]):
    """The iterative auth checks: a room state that grows by each event that it allows."""

    def __init__(self, view: GraphView[Ref], rules: RoomRules, base: Mapping[StateKey, Ref]) -> None:
        self.resolved: dict[StateKey, Ref] = {}
        self._view = view
        self._rules = rules
        self._base = base
        self._create: Event | None = None
        self._levels: dict[tuple[Ref | None, str], PowerLevels] = {}

    def find_create(self, unconflicted: Mapping[StateKey, Ref], replayed: Collection[Ref]) -> None:
        """Where no event cites the create event, the room id implies it: take it from the states."""
        # spec: rooms/v12#authorisation-rules
        if not self._rules.create_not_in_auth_events:
            return
        candidates = [unconflicted[CREATE]] if CREATE in unconflicted else sorted(replayed)
        for ref in candidates:
            event = self._view.event(ref)
            if (
                event is not None
                and event.type == "m.room.create"
                and event.room_id[1:] == event.event_id[1:]
            ):
                self._create = event
                return

    def prefetch(self, replayed: Collection[Ref]) -> None:
        """Load in one go what the base state and the auth events may contribute to any check."""
        wanted: set[Ref] = set()
        for ref in replayed:
            event = self._view.event(ref)
            if event is None:
                continue
            wanted.update(self._view.auth_map(ref).values())
            for key in auth_keys_for(self._rules, event.type, event.sender, event.state_key, event.content):
                if key in self._base:
                    wanted.add(self._base[key])
        self._view.load_events(wanted)

    def get(self, key: StateKey) -> Ref | None:
        ref = self.resolved.get(key)
        return self._base.get(key) if ref is None else ref

    def apply(self, refs: Sequence[Ref]) -> None:
        # spec: rooms/v12#definitions "Iterative auth checks"
        for ref in refs:
            event = self._view.event(ref)
            if event is not None and self._is_allowed(ref, event):
                self.resolved[event.key()] = ref

    def _is_allowed(self, ref: Ref, event: Event) -> bool:
        auth_map = self._view.auth_map(ref)

        def find(key: StateKey) -> Ref | None:
            found = self.get(key)
            return auth_map.get(key) if found is None else found

        def lookup(event_type: str, state_key: str) -> Event | None:
            found = find((event_type, state_key))
            if found is None:
                return self._create if event_type == "m.room.create" and state_key == "" else None
            return self._view.event(found)

        create = lookup(*CREATE)
        levels = None if create is None else self._power_levels(find(POWER_LEVELS), create)
        return isinstance(check_state_dependent(event, lookup, levels), Accept)

    def _power_levels(self, ref: Ref | None, create: Event) -> PowerLevels:
        """Parsed once per event: the power levels of a large room take long to read."""
        key = (ref, create.event_id)
        levels = self._levels.get(key)
        if levels is None:
            event = None if ref is None else self._view.event(ref)
            levels = self._levels[key] = parse_power_levels(event, create, self._rules)
        return levels

    def sender_level(self, ref: Ref) -> int:
        """The power of the event's sender by its own auth events."""
        event = self._view.event(ref)
        auth_map = self._view.auth_map(ref)
        create_ref = auth_map.get(CREATE)
        create = self._create if create_ref is None else self._view.event(create_ref)
        if event is None or create is None:
            return 0
        return self._power_levels(auth_map.get(POWER_LEVELS), create).user(event.sender)
