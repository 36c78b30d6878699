"""Earlier history of a room, from where ours begins: one page of it, and the state that it begins with.

The other server tells which events precede some that we miss. Those that hang together with these are taken, whatever
else is in the answer; the state before the oldest of them is asked for (`state_ids`, and what of it is not here), and
all others stand on their parents. Nothing is walked further back than the answer goes: readers come again.

# spec: server-server-api#backfilling-and-retrieving-missing-events
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any, Final

from federation.event import Event
from federation.flows.needs import NeedBackfill, RoomNeed
from federation.flows.order import in_order, prev_parents, reached
from federation.flows.receive import DEFAULT_BUDGET, Budget, Filled, Filling, Start
from federation.ids import EventId

BUDGET: Final = replace(DEFAULT_BUDGET, ends=5)
_STATE_ROUNDS: Final = 3


def backfill(
    missing: Sequence[EventId], count: int, budget: Budget = BUDGET
) -> Generator[RoomNeed, Any, Filled]:
    """Up to `count` events: `missing` ones and what precedes them. The steps are the oldest first."""
    found: Sequence[Event] = yield NeedBackfill(tuple(missing), count, budget.small)
    events = reached(missing, {event.event_id: event for event in found}, prev_parents, count)
    filling = Filling(Start(tuple(events.values()), (), 0, lenient=True), budget)
    yield from filling.drop_placed()
    for _ in range(_STATE_ROUNDS):
        yield from filling.ask_states()
        # Who has an event may not have the state before it: then what comes after it may do.
        if not (yield from filling.give_up_stateless()):
            break
    yield from filling.ask_chains()
    return _by_history(filling.finish())


def _by_history(filled: Filled) -> Filled:
    """The steps in the order in which readers are to see them: parents first, also those of an event whose state was told.

    Any order of the steps in which parents come first can be placed.
    """
    steps = {step.event.event_id: step for step in filled.steps}
    ordered = in_order(
        {event_id: step.event for event_id, step in steps.items()}, _parents, lambda _event, _parent: True
    )
    return replace(filled, steps=tuple(steps[event.event_id] for event in ordered))


def _parents(event: Event) -> Sequence[EventId]:
    return (*event.prev_event_ids, *event.auth_event_ids)
