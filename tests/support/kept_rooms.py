"""What one server has of its rooms, read from its database: what servers that federate are compared by."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
from sqlalchemy import and_, select

from homeserver.db.schema.rooms import (
    current_state,
    declined,
    event_json,
    event_types,
    events,
    members,
    outside,
    room_heads,
    rooms,
    state_keys,
    timeline,
    user_ids,
)
from homeserver.db.statements import statement
from homeserver.db.tx import Tx
from homeserver.store.placement import Membership

_EVENTS = statement(
    select(
        rooms.c.room_id,
        events.c.event_id,
        events.c.nid,
        user_ids.c.user_id,
        events.c.rejected_reason,
        timeline.c.pos,
    )
    .select_from(
        events.join(rooms, rooms.c.nid == events.c.room_nid)
        .join(user_ids, user_ids.c.nid == events.c.sender_nid)
        .outerjoin(timeline, timeline.c.event_nid == events.c.nid)
    )
    .where(events.c.state_before.is_not(None))
)
# Without a place in the graph, and no part of a state: sticky events of before the server came.
_ASIDE = statement(
    select(rooms.c.room_id, events.c.event_id)
    .select_from(events.join(rooms, rooms.c.nid == events.c.room_nid))
    .where(and_(events.c.state_before.is_(None), events.c.state_key_nid.is_(None)))
)
_HEADS = statement(
    select(rooms.c.room_id, room_heads.c.extremities).select_from(
        room_heads.join(rooms, rooms.c.nid == room_heads.c.room_nid)
    )
)
_STATE = statement(
    select(rooms.c.room_id, event_types.c.type, state_keys.c.state_key, events.c.event_id).select_from(
        current_state.join(rooms, rooms.c.nid == current_state.c.room_nid)
        .join(state_keys, state_keys.c.nid == current_state.c.state_key_nid)
        .join(event_types, event_types.c.nid == state_keys.c.type_nid)
        .join(events, events.c.nid == current_state.c.event_nid)
    )
)
_ACLS = statement(
    select(rooms.c.room_id, event_json.c.json)
    .select_from(
        current_state.join(rooms, rooms.c.nid == current_state.c.room_nid)
        .join(state_keys, state_keys.c.nid == current_state.c.state_key_nid)
        .join(event_types, event_types.c.nid == state_keys.c.type_nid)
        .join(event_json, event_json.c.nid == current_state.c.event_nid)
    )
    .where(event_types.c.type == "m.room.server_acl")
)
_MEMBERS = statement(
    select(rooms.c.room_id, user_ids.c.user_id, members.c.membership)
    .select_from(
        members.join(rooms, rooms.c.nid == members.c.room_nid).join(
            user_ids, user_ids.c.nid == members.c.user_nid
        )
    )
    .where(members.c.outside == 0)
)
_DECLINING = statement(
    select(rooms.c.room_id, user_ids.c.user_id).select_from(
        declined.join(rooms, rooms.c.nid == declined.c.room_nid).join(
            user_ids, user_ids.c.nid == declined.c.user_nid
        )
    )
)
_TOLD = statement(
    select(rooms.c.room_id, user_ids.c.user_id, outside.c.event_id).select_from(
        outside.join(rooms, rooms.c.nid == outside.c.room_nid).join(
            user_ids, user_ids.c.nid == outside.c.user_nid
        )
    )
)


@dataclass(slots=True)
class Room:
    """What one server has of a room."""

    senders: dict[str, str] = field(default_factory=dict)  # of the events that it takes for good
    rejected: dict[str, str] = field(default_factory=dict)  # why
    shown: set[str] = field(default_factory=set)
    aside: set[str] = field(default_factory=set)
    ends: list[str] = field(default_factory=list)
    state: dict[tuple[str, str], str] = field(default_factory=dict)
    memberships: dict[str, Membership] = field(default_factory=dict)  # by its state
    told: dict[str, str] = field(
        default_factory=dict
    )  # by user: an invite to a room that it is not in, by event id
    denied: tuple[str, ...] = ()  # servers, by its access control list
    declining: set[str] = field(default_factory=set)  # who said no when no server of the room answered

    @property
    def joined(self) -> set[str]:
        """Who is in it."""
        return {user_id for user_id, one in self.memberships.items() if one is Membership.JOIN}


def load(tx: Tx) -> dict[str, Room]:
    """Every room of a server."""
    found: dict[str, Room] = {}
    ids: dict[int, str] = {}
    for room_id, event_id, nid, sender, reason, pos in tx.all(_EVENTS):
        room = found.setdefault(room_id, Room())
        ids[nid] = event_id
        if reason is not None:
            room.rejected[event_id] = reason
            continue
        room.senders[event_id] = sender
        if pos is not None:
            room.shown.add(event_id)
    for room_id, event_id in tx.all(_ASIDE):
        found.setdefault(room_id, Room()).aside.add(event_id)
    for room_id, extremities in tx.all(_HEADS):
        ends = msgspec.json.decode(extremities)
        found.setdefault(room_id, Room()).ends = sorted(ids.get(nid, f"event {nid}") for nid in ends)
    for room_id, event_type, state_key, event_id in tx.all(_STATE):
        found.setdefault(room_id, Room()).state[(event_type, state_key)] = event_id
    for room_id, user_id, membership in tx.all(_MEMBERS):
        found.setdefault(room_id, Room()).memberships[user_id] = Membership(membership)
    for room_id, json in tx.all(_ACLS):
        found.setdefault(room_id, Room()).denied = tuple(msgspec.json.decode(json)["content"]["deny"])
    for room_id, user_id, event_id in tx.all(_TOLD):
        found.setdefault(room_id, Room()).told[user_id] = event_id
    for room_id, user_id in tx.all(_DECLINING):
        found.setdefault(room_id, Room()).declining.add(user_id)
    return found
