"""Rooms as those in charge see them: all that this server knows, with their facts and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import and_, bindparam, func, select

from homeserver.db.schema.accounts import accounts, devices
from homeserver.db.schema.rooms import (
    current_state,
    events,
    members,
    room_heads,
    user_ids,
)
from homeserver.db.statements import any_of, statement
from homeserver.db.tx import Tx
from homeserver.store.directory import (
    LISTED_TYPES,
    RoomFacts,
    load_published_among,
    load_room_facts,
    load_room_keys,
)
from homeserver.store.ids import true_name
from homeserver.store.placement import Membership

_M = members.c
_JOIN = int(Membership.JOIN)
_LOCAL = members.join(accounts, accounts.c.user_nid == _M.user_nid)
_ALL = statement(select(room_heads.c.room_nid).order_by(room_heads.c.room_nid))
_LOCAL_JOINED = statement(
    select(_M.room_nid, func.count())
    .select_from(_LOCAL)
    .where(and_(any_of(_M.room_nid, "room_nids"), _M.membership == _JOIN))
    .group_by(_M.room_nid)
)
_STATE_EVENTS = statement(
    select(current_state.c.room_nid, func.count())
    .where(any_of(current_state.c.room_nid, "room_nids"))
    .group_by(current_state.c.room_nid)
)
_CREATORS = statement(
    select(current_state.c.room_nid, user_ids.c.user_id)
    .select_from(
        current_state.join(events, events.c.nid == current_state.c.event_nid).join(
            user_ids, user_ids.c.nid == events.c.sender_nid
        )
    )
    .where(
        and_(
            any_of(current_state.c.room_nid, "room_nids"),
            any_of(current_state.c.state_key_nid, "create_keys"),
        )
    )
)
_OF_ROOM = _M.room_nid == bindparam("room_nid")
_DEVICES = statement(
    select(func.count())
    .select_from(members.join(devices, devices.c.user_nid == _M.user_nid))
    .where(and_(_OF_ROOM, _M.membership == _JOIN))
)
_REMEMBERED = statement(select(func.count()).select_from(_LOCAL).where(and_(_OF_ROOM, _M.forgotten == 0)))
_LOCAL_MEMBERS = statement(
    select(user_ids.c.user_id, _M.user_nid, _M.membership, _M.forgotten)
    .select_from(_LOCAL.join(user_ids, user_ids.c.nid == _M.user_nid))
    .where(_OF_ROOM)
    .order_by(_M.user_nid)
)
_JOINED = statement(
    select(user_ids.c.user_id)
    .select_from(members.join(user_ids, user_ids.c.nid == _M.user_nid))
    .where(and_(_OF_ROOM, _M.membership == _JOIN))
    .order_by(user_ids.c.user_id)
)


@dataclass(frozen=True, slots=True)
class ListedRoom:
    """A room and its numbers."""

    facts: RoomFacts
    creator_id: str | None
    joined_local: int
    state_events: int


class LocalMember(NamedTuple):
    """What a user of this server is to a room."""

    user_id: str
    user_nid: int
    membership: Membership
    forgotten: bool


class RoomMore(NamedTuple):
    """What is counted of one room alone."""

    local_devices: int
    forgotten: bool


def load_room_nids(tx: Tx) -> list[int]:
    """Every room of which this server knows the state."""
    return tx.column(_ALL)


def load_listed_rooms(tx: Tx, room_nids: Sequence[int]) -> list[ListedRoom]:
    """Facts and numbers of some rooms. Nine reads, whatever their number."""
    wanted = list(room_nids)
    if not wanted:
        return []
    local: dict[int, int] = dict(tx.all(_LOCAL_JOINED, room_nids=wanted))
    states: dict[int, int] = dict(tx.all(_STATE_EVENTS, room_nids=wanted))
    create_keys = load_room_keys(tx, ("m.room.create",))
    creators: dict[int, str] = dict(tx.all(_CREATORS, room_nids=wanted, create_keys=create_keys))
    published = load_published_among(tx, wanted)
    found: list[ListedRoom] = []
    for facts in load_room_facts(tx, wanted, LISTED_TYPES):
        nid = facts.room_nid
        facts.published = nid in published
        creator = true_name(creators[nid]) if nid in creators else None
        found.append(ListedRoom(facts, creator, local.get(nid, 0), states.get(nid, 0)))
    return found


def load_more(tx: Tx, room_nid: int) -> RoomMore:
    """What is counted of one room alone."""
    devices_: int = tx.value(_DEVICES, room_nid=room_nid)
    return RoomMore(devices_, tx.value(_REMEMBERED, room_nid=room_nid) == 0)


def load_joined_names(tx: Tx, room_nid: int) -> list[str]:
    """Who is in a room, by user id."""
    return [true_name(name) for name in tx.column(_JOINED, room_nid=room_nid)]


def load_local_members_of(tx: Tx, room_nid: int) -> list[LocalMember]:
    """What users of this server are to a room, whatever it is."""
    return [
        LocalMember(user_id, user_nid, Membership(membership), bool(forgotten))
        for user_id, user_nid, membership, forgotten in tx.all(_LOCAL_MEMBERS, room_nid=room_nid)
    ]
