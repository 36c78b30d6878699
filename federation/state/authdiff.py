"""The auth difference of several states, and the conflicted state subgraph.

Both walk the auth graph downwards, from events to the events that authorise them. Where the graph has ranks, a walk
visits events from the highest rank to the lowest, so that it has seen everything above an event when it comes to it,
and stops as soon as all that remains is common to every state. Without ranks it walks to the start of the room.
No recursion: the graph may be arbitrarily deep, and in room versions 1 and 2 even cyclic.

Interpretation: a state event counts as part of its own state's auth chain, which the text's definition of a chain
leaves out. So an event that is in every state, or below one that is, never belongs to the difference, and the
unconflicted members of a large room need not be read. To be confirmed against other servers.

Spec anchor: rooms/v12#definitions ("Auth difference", "Conflicted state subgraph").
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush

from federation.auth.select import JOIN_RULES, MEMBER, POWER_LEVELS, StateKey
from federation.state.graph import GraphView, Ref


def auth_difference(
    view: GraphView[Ref], conflicted: Sequence[Collection[Ref]], unconflicted: Mapping[StateKey, Ref]
) -> set[Ref]:
    """The events that are in the auth chain of some state but not of every state.

    `conflicted` are the conflicted events state by state, `unconflicted` what all states have in common. Conflicted
    events themselves may or may not be in the answer: they are replayed anyway.
    """
    # spec: rooms/v12#definitions
    # With K the closure of a state's conflicted events and U the closure of the unconflicted ones, the chain of the
    # state is K | U, hence the difference is (union of the Ks - intersection of the Ks) - U.
    if view.is_ranked:
        difference = _ranked_difference(view, conflicted, unconflicted)
    else:
        difference = _full_difference(view, conflicted)
    undecided = difference.difference(*conflicted)
    return difference - _reachable_from_unconflicted(view, undecided, unconflicted)


def _full_difference(view: GraphView[Ref], conflicted: Sequence[Collection[Ref]]) -> set[Ref]:
    closures = [_closure(view, refs) for refs in conflicted]
    common = closures[0].intersection(*closures[1:])
    return closures[0].union(*closures[1:]) - common


def _closure(view: GraphView[Ref], refs: Iterable[Ref]) -> set[Ref]:
    """The events themselves and everything below them, loaded layer by layer."""
    seen = set(refs)
    layer: Collection[Ref] = seen
    while layer:
        view.load_parents(layer)
        layer = {parent for ref in layer for parent in view.parents(ref)} - seen
        seen |= layer
    return seen


def _ranked_difference(
    view: GraphView[Ref], conflicted: Sequence[Collection[Ref]], unconflicted: Mapping[StateKey, Ref]
) -> set[Ref]:
    """As `_full_difference`, but without what is seen to be below something unconflicted, and no deeper than it must.

    The unconflicted power levels and join rules walk along: old ones are below them, so that an event that cites old
    ones does not lead the walk down to the start of the room.
    """
    everyone = (1 << len(conflicted)) - 1
    common = frozenset(unconflicted.values())
    # For each event yet to be visited: the states whose chains it is known to be in, as bits.
    pending = {unconflicted[key]: everyone for key in (POWER_LEVELS, JOIN_RULES) if key in unconflicted}
    for index, refs in enumerate(conflicted):
        for ref in refs:
            pending[ref] = everyone if ref in common else pending.get(ref, 0) | 1 << index
    view.load_ranks(pending)
    queue = [(-view.rank(ref), ref) for ref in pending]
    heapify(queue)
    partial = sum(1 for mask in pending.values() if mask != everyone)
    visited: dict[Ref, int] = {}
    while partial:
        ref = heappop(queue)[1]
        mask = pending.pop(ref)
        partial -= mask != everyone
        known = visited.get(ref, 0)
        if known | mask == known:
            continue
        visited[ref] = mask = known | mask
        if not view.has_parents_of(ref):
            _load_layer(view, (ref, *pending))
        for parent in view.parents(ref):
            before = pending.get(parent)
            after = everyone if parent in common else mask if before is None else before | mask
            if before is None:
                heappush(queue, (-view.rank(parent), parent))
                partial += after != everyone
            elif before != everyone and after == everyone:
                partial -= 1
            pending[parent] = after
    return {ref for ref, mask in visited.items() if mask != everyone}


def _load_layer(view: GraphView[Ref], refs: Collection[Ref]) -> None:
    """The parents of all of these, and where those stand, in two questions."""
    view.load_parents(refs)
    view.load_ranks(parent for ref in refs for parent in view.parents(ref))


def _reachable_from_unconflicted(
    view: GraphView[Ref], undecided: set[Ref], unconflicted: Mapping[StateKey, Ref]
) -> set[Ref]:
    """Those of `undecided` that are unconflicted themselves or below something unconflicted.

    Where the graph can be walked upwards, that is done: there is little above what only some states have. Otherwise the
    unconflicted events are walked down from; usually nothing is undecided, or the power levels and the like settle it: the
    members, of whom there may be thousands, are asked last.
    """
    reachable: set[Ref] = set()
    if not undecided:
        return reachable
    if view.ascends:
        return _below_common(view, undecided, frozenset(unconflicted.values()))
    seen: set[Ref] = set()
    direct = [ref for ref in unconflicted.values() if ref in undecided]
    rooms_own = (ref for key, ref in unconflicted.items() if key[0] != MEMBER)
    members = (ref for key, ref in unconflicted.items() if key[0] == MEMBER)
    for starts in (direct, rooms_own, members):
        remaining = undecided - reachable
        if not remaining:
            break
        reachable |= _find_below(view, starts, remaining, seen)
    return reachable


def _below_common(view: GraphView[Ref], wanted: set[Ref], common: Collection[Ref]) -> set[Ref]:
    """Those of `wanted` that are among `common` or below one of them. No walk goes beyond what is common."""
    cited: dict[Ref, list[Ref]] = {}  # what an event cites of those that were visited
    reached = {ref for ref in wanted if ref in common}
    seen = set(wanted)
    layer = sorted(wanted - reached)
    while layer:
        children = view.children(layer)
        above: set[Ref] = set()
        for ref in layer:
            for child in children.get(ref, ()):
                cited.setdefault(child, []).append(ref)
                above.add(child)
        hits = {ref for ref in above if ref in common}
        reached |= hits
        layer = sorted(above - seen - hits)
        seen |= above
    waiting = sorted(reached)
    while waiting:
        for parent in cited.get(waiting.pop(), ()):
            if parent not in reached:
                reached.add(parent)
                waiting.append(parent)
    return reached & wanted


def _find_below(view: GraphView[Ref], starts: Iterable[Ref], wanted: set[Ref], seen: set[Ref]) -> set[Ref]:
    """Those of `wanted` that are among `starts` or below them. `seen` is where walks have been; it grows."""
    found: set[Ref] = set()
    layer = set(starts) - seen
    lowest = 0
    if view.is_ranked:
        view.load_ranks(wanted)
        lowest = min(view.rank(ref) for ref in wanted)
    while layer:
        seen |= layer
        found |= layer & wanted
        if len(found) == len(wanted):
            break
        if view.is_ranked:
            view.load_ranks(layer)
            layer = {ref for ref in layer if view.rank(ref) > lowest}
        view.load_parents(layer)
        layer = {parent for ref in layer for parent in view.parents(ref)} - seen
    return found


def conflicted_subgraph(view: GraphView[Ref], conflicted: Collection[Ref]) -> set[Ref]:
    """All events on paths of auth events from one conflicted event to another, both ends included."""
    # spec: rooms/v12#definitions
    children: dict[Ref, list[Ref]] = {}
    seen = set(conflicted)
    layer: Collection[Ref] = seen
    lowest = 0
    if view.is_ranked and conflicted:
        view.load_ranks(conflicted)
        lowest = min(view.rank(ref) for ref in conflicted)
    while layer:
        if view.is_ranked:
            view.load_ranks(layer)
            layer = {ref for ref in layer if view.rank(ref) > lowest}
        view.load_parents(layer)
        below: set[Ref] = set()
        for ref in layer:  # any order: the answer is a set, and nothing is loaded on the way
            for parent in view.parents(ref):
                children.setdefault(parent, []).append(ref)
                below.add(parent)
        layer = below - seen
        seen |= layer
    # Everything seen is below a conflicted event; what has one below itself too is on a path.
    subgraph = set(conflicted)
    waiting = list(conflicted)
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in subgraph:
                subgraph.add(child)
                waiting.append(child)
    return subgraph
