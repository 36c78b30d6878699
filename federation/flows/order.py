"""The order of events: parents before children, without recursion, whatever somebody made the graph look like.

In room versions 1 and 2 an event names itself, so hostile events may cite each other in a circle; such events, and all
that come after them, have no order and are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush

from federation.event import Event
from federation.ids import EventId


def auth_parents(event: Event) -> Sequence[EventId]:
    """What authorises an event."""
    return event.auth_event_ids


def prev_parents(event: Event) -> Sequence[EventId]:
    """What comes right before an event."""
    return event.prev_event_ids


def in_order(
    events: Mapping[EventId, Event],
    parents: Callable[[Event], Iterable[EventId]],
    is_here: Callable[[Event, EventId], bool],
) -> list[Event]:
    """The events with parents before children; of two that may stand either way, the less deep one first.

    For a parent that is none of the events ``is_here(child, parent)`` must say that it is here: else the child is left
    out, with all that depends on it.
    """
    waiting: dict[EventId, int] = {}
    children: dict[EventId, list[EventId]] = {}
    for event_id, event in events.items():
        inside = {parent for parent in parents(event) if parent in events}
        outside = [parent for parent in parents(event) if parent not in events]
        # What waits for something that will never come is never reached.
        waiting[event_id] = len(inside) + (0 if all(is_here(event, parent) for parent in outside) else 1)
        for parent in sorted(inside):
            children.setdefault(parent, []).append(event_id)
    ready = [(events[one].depth, one) for one, count in waiting.items() if not count]
    heapify(ready)
    ordered: list[Event] = []
    while ready:
        _, event_id = heappop(ready)
        ordered.append(events[event_id])
        for child in children.get(event_id, ()):
            waiting[child] -= 1
            if not waiting[child]:
                heappush(ready, (events[child].depth, child))
    return ordered


def reached(
    start: Iterable[EventId],
    events: Mapping[EventId, Event],
    parents: Callable[[Event], Iterable[EventId]],
    most: int,
) -> dict[EventId, Event]:
    """Those of the events that somebody needs who needs ``start``: breadth first, at most so many."""
    found: dict[EventId, Event] = {}
    level: Collection[EventId] = sorted(set(start))
    while level:
        following: set[EventId] = set()
        for event_id in level:
            event = events.get(event_id)
            if event is None or event_id in found:
                continue
            if len(found) >= most:
                return found
            found[event_id] = event
            following.update(parents(event))
        level = sorted(following)
    return found
