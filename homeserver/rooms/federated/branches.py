"""What a room has beside the event that a server comes in by, and which that server is told by nobody else.

A join is made before other events of its room are known, or comes when its maker was cut off from who made them. Of those the
new server would hear when the next event joins the branches: that may take days, or for ever where nobody may speak; and
until then nothing that it says goes to whoever came in by them.

Rules:
1. Who is let in by us is told of every branch: for that server we are the room. Who came in through another server is
   told of what our own users made, as each server tells of its own.
2. State is told, as it is to every server in a room. What is no state is told to whom it would show its history.
3. It is stored with the placement of the join (``store/outgoing.py: relay``), so neither a crash nor a server that does not
   answer loses it. Who has it already takes no harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from federation.auth.select import StateKey
from federation.event import Event, stored_bytes
from federation.ids import domain_of
from federation.verdict import Accept
from federation.visibility import visibility_of
from homeserver.rooms.arrivals import Arrived, Placed
from homeserver.rooms.hold import Hold
from homeserver.rooms.turn import Turn
from homeserver.store.outgoing import Relay, relay

_MEMBER: Final = "m.room.member"
_VISIBILITY: Final[StateKey] = ("m.room.history_visibility", "")
_OF_NEWCOMERS: Final = frozenset(("shared", "world_readable"))


async def tell_branches(turn: Turn, nid: int, join: Event, *, by: str | None = None) -> None:
    """Tell the server of a join that has its place now of what stands beside it; ``by``: only of this server's events."""
    server = domain_of(join.sender)
    hold = Hold(turn)
    ends = {one.nid: one for one in turn.head.extremities if one.nid != nid}
    for other_nid, other in (await turn.events(list(ends))).items():
        maker = domain_of(other.sender)
        if maker == server or by not in (None, maker):
            continue
        if other.state_key is None:
            rule = (await hold.state_at(ends[other_nid].after, [_VISIBILITY])).get(_VISIBILITY)
            if visibility_of(None if rule is None else rule.content) not in _OF_NEWCOMERS:
                continue
        told = Relay(other.event_id, turn.head.room_nid, other.sender, stored_bytes(other), server)
        turn.extra.append(partial(relay, event_nid=other_nid, payload=told))


async def tell_of_ours(turn: Turn, events: Sequence[Event], arrived: Sequence[Arrived]) -> None:
    """Tell the servers of joins that other servers let in, and that have their place now, of what ours stands beside them."""
    if len(turn.head.extremities) < 2:
        return
    ours = turn.tools.signer.server_name
    for event, one in zip(events, arrived, strict=True):
        if (
            event.type == _MEMBER
            and isinstance(one, Placed)
            and isinstance(one.verdict, Accept)
            and event.content.get("membership") == "join"
            and not await _was_in(turn, one.nid)
        ):
            await tell_branches(turn, one.nid, event, by=ours)


async def _was_in(turn: Turn, nid: int) -> bool:
    """Whether a member event is of somebody who was in the room before it."""
    prev_nid = next(placed.prev_nid for placed in turn.placements if placed.nid == nid)
    if not prev_nid:
        return False
    before = (await turn.events([prev_nid]))[prev_nid]
    return before.content.get("membership") == "join"
