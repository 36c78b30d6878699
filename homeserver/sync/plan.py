"""Which rooms an answer speaks of, and how: decided from memory alone.

spec: client-server-api#get_matrixclientv3sync
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from homeserver.store.placement import Membership
from homeserver.stream.index import MembershipIndex, Standing
from homeserver.sync.filters import SyncFilter
from homeserver.sync.window import Window

_INVITED = (Membership.INVITE, Membership.KNOCK)


@dataclass(slots=True)
class Plan:
    """Rooms by what is to be told of them, each with the reader's standing."""

    changed: dict[int, Standing] = field(default_factory=dict)  # in it since before the token
    moved: dict[int, Standing] = field(
        default_factory=dict
    )  # in it, and their membership changed: joined, or renamed
    full: dict[int, Standing] = field(default_factory=dict)  # in it: everything
    left: dict[int, Standing] = field(default_factory=dict)
    stripped: dict[int, Standing] = field(default_factory=dict)  # invites and knocks


def plan_initial(index: MembershipIndex, user_nid: int, filter_: SyncFilter) -> Plan:
    """Everything that a user has."""
    plan = Plan()
    for room_nid, standing in index.rooms_of(user_nid).items():
        if standing.membership == Membership.JOIN:
            plan.full[room_nid] = standing
        elif standing.membership in _INVITED:
            plan.stripped[room_nid] = standing
        elif filter_.include_leave and not standing.forgotten:
            plan.left[room_nid] = standing
    return plan


def plan_since(
    index: MembershipIndex, user_nid: int, since: int, window: Window | None, *, full_state: bool
) -> Plan:
    """What may have changed since a token."""
    plan = Plan()
    rooms = index.rooms_of(user_nid)
    last_pos = index.last_pos
    for room_nid in _candidates(rooms, window, full_state):
        standing = rooms[room_nid]
        new = standing.pos > since
        if standing.membership == Membership.JOIN:
            if new:
                plan.moved[room_nid] = standing
            elif full_state:
                plan.full[room_nid] = standing
            elif last_pos.get(room_nid, 0) > since:
                plan.changed[room_nid] = standing
        elif not new:
            continue
        elif standing.membership in _INVITED:
            plan.stripped[room_nid] = standing
        else:
            # Although it may be forgotten by now: a client that shows the room must hear that it is over.
            plan.left[room_nid] = standing
    return plan


def _candidates(rooms: Mapping[int, Standing], window: Window | None, full_state: bool) -> Iterable[int]:
    if window is None or full_state or len(window.topics) > len(rooms):
        return rooms
    return [topic for topic in window.topics if topic in rooms]
