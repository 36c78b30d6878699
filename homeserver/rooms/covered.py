"""Newest events of a room that turn out to be none: another one stands on them, by way of events that came later.

An event of before our join may come late, and becomes one of the newest, although what we joined by is its successor: all
between the two is not here. Its state is resolved with the current one, which may lose by that what others set since. When
history has come that closes the gap, this looks whether it was so.

Rules:
1. An extremity goes where another one was made from it: every event of a way between them is here, with all its parents,
   and the state before each is what we make of the states after these. What somebody told of a state counts for nothing
   until it agrees (docs/decisions/0007).
2. No event becomes an extremity by this, and none is judged anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from homeserver.db.tx import WriteTx
from homeserver.rooms.hold import Hold
from homeserver.rooms.turn import Turn
from homeserver.store.commit import move_state
from homeserver.store.descendants import Descendant, find_parents, load_descendants
from homeserver.store.placement import Extremity
from homeserver.store.state import Snapshot, diff, load_snapshots

# LIMIT(events that are looked at for one extremity: what has more above it stays until the next event joins all ends)
_ABOVE_MOST: Final = 500
# LIMIT(extremities that are looked at in one turn)
_AT_ONCE: Final = 4


async def end_covered(turn: Turn) -> None:
    """A job: end the extremities that others stand on. Everything that was placed before SHOULD be stored already."""
    head = turn.head
    if len(head.extremities) < 2 or head.partial:
        return
    read = turn.tools.database.read
    under = await read(find_parents, [one.reference.event_id for one in head.extremities])
    suspects = [one for one in head.extremities if one.reference.event_id in under]
    left = list(head.extremities)
    for one in sorted(suspects, key=lambda one: (one.depth, one.nid))[:_AT_ONCE]:
        above = await read(
            load_descendants, head.room_nid, one.reference.event_id, _ABOVE_MOST, turn.tools.events
        )
        others = {other.nid for other in left if other.nid != one.nid}
        if above is not None and await _Way(turn, one, above).leads(others):
            left.remove(one)
    if len(left) == len(head.extremities):
        return
    moves = await turn.settle(head, left)

    def store(tx: WriteTx) -> None:
        if moves:
            move_state(tx, head.room_nid, moves)

    turn.extra.append(store)


class _Way:
    """From an extremity upwards, through events whose states are sure."""

    def __init__(self, turn: Turn, start: Extremity, above: Sequence[Descendant]) -> None:
        self._turn = turn
        self._hold = Hold(turn)
        self._start: str = start.reference.event_id
        # The states after them, by the numbers of their snapshots.
        self._after: dict[str, int] = {
            self._start: start.after.nid,
            **{one.event_id: one.after for one in above},
        }
        self._children: dict[str, list[Descendant]] = {}
        for one in above:
            for parent_id in one.prev_event_ids:
                self._children.setdefault(parent_id, []).append(one)

    async def leads(self, ends: set[int]) -> bool:
        """Whether it comes to one of these events."""
        waiting = [self._start]
        seen = set(waiting)
        while waiting:
            for child in self._children.get(waiting.pop(), ()):
                if child.event_id in seen or not await self._agrees(child):
                    continue
                if child.nid in ends:
                    return True
                seen.add(child.event_id)
                waiting.append(child.event_id)
        return False

    async def _agrees(self, child: Descendant) -> bool:
        """Whether the state before an event is what its parents make."""
        # As of nearly all, where nobody told a state.
        if len(child.prev_event_ids) == 1 and self._after.get(child.prev_event_ids[0]) == child.before:
            return True
        hold = self._hold
        await hold.load((), child.prev_event_ids, ())
        states: list[Snapshot] = []
        for parent_id in child.prev_event_ids:
            known = hold.known(parent_id)
            if known is None or known.after is None or not hold.has_state(parent_id):
                return False
            states.append(known.after)
        made = await self._turn.resolve(states)
        if made.nid == child.before:
            return True
        tools = self._turn.tools
        told = await tools.database.read(load_snapshots, [child.before], tools.bases)
        return not diff(made, told[child.before])
