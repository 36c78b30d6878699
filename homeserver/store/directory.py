"""The published rooms of this server, and what the directory and others show of a room.

spec: client-server-api#published-room-directory
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from sqlalchemy import and_, bindparam, delete, func, select

from federation.redaction import redact_content
from federation.versions import ROOM_VERSIONS
from homeserver.db.schema.appservices import appservice_rooms
from homeserver.db.schema.rooms import (
    current_state,
    event_json,
    events,
    members,
    published_rooms,
    redactions,
    rooms,
    state_keys,
)
from homeserver.db.schema.start import WELL_KNOWN_TYPES
from homeserver.db.statements import any_of, rows, statement
from homeserver.db.tx import Tx, WriteTx
from homeserver.store.changes import Kind
from homeserver.store.placement import Membership

SHOWN_TYPES = (
    "m.room.create",
    "m.room.join_rules",
    "m.room.history_visibility",
    "m.room.canonical_alias",
    "m.room.name",
    "m.room.topic",
    "m.room.avatar",
    "m.room.guest_access",
)
# What a summary says besides, and what decides to whom it is shown.
SUMMARY_TYPES = (*SHOWN_TYPES, "m.room.encryption", "m.room.server_acl")
# What those in charge see of a room.
LISTED_TYPES = (*SUMMARY_TYPES, "m.room.tombstone")
_TYPE_NAMES = {WELL_KNOWN_TYPES[name]: name for name in LISTED_TYPES}

_ALL = statement(select(published_rooms.c.room_nid))
_WHICH = statement(select(published_rooms.c.room_nid).where(any_of(published_rooms.c.room_nid, "room_nids")))
_NETWORKS = statement(
    select(appservice_rooms.c.room_nid, appservice_rooms.c.service_id, appservice_rooms.c.network_id).where(
        any_of(appservice_rooms.c.room_nid, "room_nids")
    )
)
_ALL_LISTED = statement(select(appservice_rooms.c.room_nid).group_by(appservice_rooms.c.room_nid))
_LISTED_BY = statement(
    select(func.count())
    .select_from(appservice_rooms)
    .where(appservice_rooms.c.service_id == bindparam("service_id"))
)
_LIST = rows(appservice_rooms, "service_id", "network_id", "room_nid", ignore=True)
_UNLIST = statement(
    delete(appservice_rooms).where(
        and_(
            appservice_rooms.c.service_id == bindparam("service_id"),
            appservice_rooms.c.network_id == bindparam("network_id"),
            appservice_rooms.c.room_nid == bindparam("room_nid"),
        )
    )
)
_UNLIST_ROOM = statement(delete(appservice_rooms).where(appservice_rooms.c.room_nid == bindparam("room_nid")))
_PUBLISH = rows(published_rooms, "room_nid", ignore=True)
_UNPUBLISH = statement(delete(published_rooms).where(published_rooms.c.room_nid == bindparam("room_nid")))
_NAMES = statement(
    select(rooms.c.nid, rooms.c.room_id, rooms.c.version).where(any_of(rooms.c.nid, "room_nids"))
)
_STATE = statement(
    select(current_state.c.room_nid, state_keys.c.type_nid, event_json.c.json, redactions.c.by_nid)
    .select_from(
        current_state.join(state_keys, state_keys.c.nid == current_state.c.state_key_nid)
        .join(events, events.c.nid == current_state.c.event_nid)
        .join(event_json, event_json.c.nid == current_state.c.event_nid)
        .outerjoin(redactions, redactions.c.target_id == events.c.event_id)
    )
    .where(
        and_(
            any_of(current_state.c.room_nid, "room_nids"),
            any_of(current_state.c.state_key_nid, "key_nids"),
        )
    )
)
_KEYS = statement(
    select(state_keys.c.nid).where(
        and_(any_of(state_keys.c.type_nid, "type_nids"), state_keys.c.state_key == "")
    )
)
_JOINED = statement(
    select(members.c.room_nid, func.count())
    .where(and_(any_of(members.c.room_nid, "room_nids"), members.c.membership == int(Membership.JOIN)))
    .group_by(members.c.room_nid)
)


# LIMIT(rooms that one application service lists in its networks)
LISTED_MOST = 100_000


class TooManyListedError(Exception):
    """The application service lists as many rooms as one may list."""


class _Stored(msgspec.Struct):
    content: dict[str, Any]


_decode = msgspec.json.Decoder(_Stored).decode


@dataclass(slots=True)
class RoomFacts:
    """What the directory is made of: the contents of some state events (those with an empty state key)."""

    room_nid: int
    room_id: str
    version: str
    joined: int = 0
    published: bool = True
    networks: tuple[tuple[str, str], ...] = ()  # (application service, network) that list it
    contents: dict[str, dict[str, Any]] = field(default_factory=dict)


def load_published(tx: Tx) -> list[int]:
    """Every room that is listed: published, or in a network of an application service."""
    return sorted({*tx.column(_ALL), *tx.column(_ALL_LISTED)})


def is_published(tx: Tx, room_nid: int) -> bool:
    """Whether a room is in the directory."""
    return bool(tx.column(_WHICH, room_nids=[room_nid]))


def load_published_among(tx: Tx, room_nids: Sequence[int]) -> frozenset[int]:
    """Those of the rooms that are in the directory."""
    return frozenset(tx.column(_WHICH, room_nids=list(room_nids)))


def set_published(tx: WriteTx, room_nid: int, published: bool) -> None:
    """Put a room into the directory, or take it out."""
    if published == is_published(tx, room_nid):
        return
    if published:
        tx.insert(_PUBLISH, [(room_nid,)])
    else:
        tx.run(_UNPUBLISH, room_nid=room_nid)
    tx.claim(Kind.DIRECTORY, room_nid)


def move_published(tx: WriteTx, old_nid: int, new_nid: int) -> None:
    """The new room takes the old one's place in the directory."""
    if is_published(tx, old_nid):
        set_published(tx, old_nid, False)
        set_published(tx, new_nid, True)
    listed = tx.all(_NETWORKS, room_nids=[old_nid])
    if listed:
        tx.insert(_LIST, [(service_id, network_id, new_nid) for _, service_id, network_id in listed])
        tx.run(_UNLIST_ROOM, room_nid=old_nid)
        tx.claim(Kind.DIRECTORY, old_nid)
        tx.claim(Kind.DIRECTORY, new_nid)


def network_name(service_id: str, network_id: str) -> str:
    """A network of an application service as clients name it: the instance's id."""
    return f"{service_id}|{network_id}"


def list_in_network(tx: WriteTx, service_id: str, network_id: str, room_nid: int, listed: bool) -> None:
    """List a room in a network of an application service, or no longer. Raises TooManyListedError."""
    if not listed:
        tx.run(_UNLIST, service_id=service_id, network_id=network_id, room_nid=room_nid)
    elif tx.value(_LISTED_BY, service_id=service_id) >= LISTED_MOST:
        raise TooManyListedError
    else:
        tx.insert(_LIST, [(service_id, network_id, room_nid)])
    tx.claim(Kind.DIRECTORY, room_nid)


def load_facts(tx: Tx, room_nids: Sequence[int]) -> list[RoomFacts]:
    """What there is to show of those of the rooms that are listed. Six reads, whatever their number."""
    published = frozenset(tx.column(_WHICH, room_nids=list(room_nids)))
    networks: dict[int, list[tuple[str, str]]] = {}
    for room_nid, service_id, network_id in tx.all(_NETWORKS, room_nids=list(room_nids)):
        networks.setdefault(room_nid, []).append((service_id, network_id))
    found = load_room_facts(tx, sorted(published | networks.keys()), SHOWN_TYPES)
    for facts in found:
        facts.published = facts.room_nid in published
        facts.networks = tuple(networks.get(facts.room_nid, ()))
    return found


def load_room_keys(tx: Tx, types: Sequence[str]) -> list[int]:
    """The state keys of some types that are a room's own: the empty ones, as far as any room has used them."""
    return tx.column(_KEYS, type_nids=[WELL_KNOWN_TYPES[name] for name in types])


def load_room_facts(tx: Tx, room_nids: Sequence[int], types: Sequence[str]) -> list[RoomFacts]:
    """The contents of such state events of the rooms, and how many are in them. Four reads, whatever their number."""
    wanted = list(room_nids)
    if not wanted:
        return []
    found = {
        nid: RoomFacts(nid, room_id, version or "1")
        for nid, room_id, version in tx.all(_NAMES, room_nids=wanted)
    }
    for room_nid, count in tx.all(_JOINED, room_nids=wanted):
        found[room_nid].joined = count
    keys = load_room_keys(tx, types)
    for room_nid, type_nid, json, redacted_by in tx.all(_STATE, room_nids=wanted, key_nids=keys):
        content: Any = _decode(json).content
        facts = found[room_nid]
        name = _TYPE_NAMES[type_nid]
        if redacted_by is not None:
            content = redact_content(name, content, ROOM_VERSIONS[facts.version].redaction)
        facts.contents[name] = content
    return list(found.values())
