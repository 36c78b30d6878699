"""The two orders of state resolution 2: reverse topological power ordering and mainline ordering.

Both end in a comparison by event id, so they are total and the order of the input does not matter.

Spec anchor: rooms/v12#definitions.
"""

from collections.abc import Callable, Collection
from heapq import heapify, heappop, heappush
from typing import Generic

from federation.auth.select import POWER_LEVELS
from federation.event import Event
from federation.state.graph import GraphView, Ref


def reverse_topological_power_sort(
    view: GraphView[Ref], refs: Collection[Ref], sender_level: Callable[[Ref], int]
) -> list[Ref]:
    """Auth events before what they authorise; among the free ones the greatest power, then the earliest, first."""
    # spec: rooms/v12#definitions "Reverse topological power ordering"
    members = set(refs)
    view.load_parents(members)
    keys: dict[Ref, tuple[int, int, str]] = {}
    blockers: dict[Ref, int] = {}
    children: dict[Ref, list[Ref]] = {}
    for ref in sorted(members):
        keys[ref] = (-sender_level(ref), *_age(view, ref))
        parents = [parent for parent in view.parents(ref) if parent in members]
        blockers[ref] = len(parents)
        for parent in parents:
            children.setdefault(parent, []).append(ref)
    free = [(keys[ref], ref) for ref, count in blockers.items() if count == 0]
    heapify(free)
    ordered: list[Ref] = []
    while free:
        ref = heappop(free)[1]
        ordered.append(ref)
        for child in children.get(ref, ()):
            blockers[child] -= 1
            if blockers[child] == 0:
                heappush(free, (keys[child], child))
    if len(ordered) < len(members):
        # LIMIT(events that authorise each other in a circle, which only versions 1 and 2 could even express)
        ordered.extend(sorted(members.difference(ordered), key=keys.__getitem__))
    return ordered


def mainline_sort(view: GraphView[Ref], refs: Collection[Ref], power_levels: Ref | None) -> list[Ref]:
    """Events that rest on older power levels of the mainline first, then by time."""
    # spec: rooms/v12#definitions "Mainline ordering"
    view.load_auth_maps(refs)
    if len({view.auth_map(ref).get(POWER_LEVELS) for ref in refs}) < 2:
        # They all rest on the same power levels, so wherever those stand, the order is by time.
        return sorted(refs, key=lambda ref: _age(view, ref))
    mainline = _Mainline(view, power_levels)
    return sorted(refs, key=lambda ref: (-mainline.position(ref), *_age(view, ref)))


def _age(view: GraphView[Ref], ref: Ref) -> tuple[int, str]:
    event: Event | None = view.event(ref)
    return (0, "") if event is None else (event.origin_server_ts, event.event_id)


class _Mainline(Generic[Ref]):
    """Positions on the mainline, which is read only as far down as they ask."""

    def __init__(self, view: GraphView[Ref], power_levels: Ref | None) -> None:
        self._view = view
        self._next = power_levels
        self._positions: dict[Ref, int] = {}
        self._off_mainline: dict[Ref, float] = {}

    def position(self, ref: Ref) -> float:
        """The index of the nearest mainline event among the power levels that `ref` rests on, else infinity."""
        walked: list[Ref] = []
        current = self._view.auth_map(ref).get(POWER_LEVELS)
        found = float("inf")
        while current is not None:
            known = self._off_mainline.get(current)
            if known is None and self._is_on_mainline(current):
                known = self._positions[current]
            if known is not None:
                found = known
                break
            # Until the walk has ended it must not come back here: infinity is what a circle amounts to.
            self._off_mainline[current] = float("inf")
            walked.append(current)
            current = self._view.auth_map(current).get(POWER_LEVELS)
        for passed in walked:
            self._off_mainline[passed] = found
        return found

    def _is_on_mainline(self, ref: Ref) -> bool:
        while ref not in self._positions and self._next is not None:
            self._positions[self._next] = len(self._positions)
            following = self._view.auth_map(self._next).get(POWER_LEVELS)
            self._next = None if following in self._positions else following
        return ref in self._positions
