"""What another server may ask of a room: whether it takes part, and the texts of events as they travel between servers.

Texts are the stored bytes; only an event that was redacted is parsed, because it travels in its redacted form.

# spec: server-server-api#pdus
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import msgspec
from sqlalchemy import ColumnElement, and_, bindparam, func, literal_column, select

from federation.canonical import encode_by_rules
from federation.redaction import redact
from federation.versions import ROOM_VERSIONS, RoomRules
from homeserver.db.schema.rooms import (
    current_state,
    event_json,
    events,
    members,
    redactions,
    room_heads,
    rooms,
    state_keys,
    user_ids,
)
from homeserver.db.schema.start import WELL_KNOWN_TYPES
from homeserver.db.statements import SQLITE, Statement, any_of, statement
from homeserver.db.tx import Tx

_ACL_TYPE = WELL_KNOWN_TYPES["m.room.server_acl"]
_MEMBER_TYPE = WELL_KNOWN_TYPES["m.room.member"]
_decode = msgspec.json.Decoder().decode


def of_server(dialect: str) -> ColumnElement[bool]:
    """True for the user ids of the server given as parameter ``server``: what follows their first colon."""
    place = func.instr if dialect == SQLITE else func.strpos
    colon = place(user_ids.c.user_id, ":")
    return func.substr(user_ids.c.user_id, colon + 1) == bindparam("server")


_MEMBERS_OF_SERVER = members.join(user_ids, user_ids.c.nid == members.c.user_nid)
_KEYS_OF_SERVER = Statement(
    lambda dialect: (
        select(state_keys.c.nid)
        .select_from(
            _MEMBERS_OF_SERVER.join(
                state_keys,
                and_(state_keys.c.type_nid == _MEMBER_TYPE, state_keys.c.state_key == user_ids.c.user_id),
            )
        )
        .where(and_(members.c.room_nid == bindparam("room_nid"), of_server(dialect)))
    )
)
_acl = (
    select(current_state.c.event_nid)
    .select_from(current_state.join(state_keys, state_keys.c.nid == current_state.c.state_key_nid))
    .where(
        and_(
            current_state.c.room_nid == rooms.c.nid,
            state_keys.c.type_nid == _ACL_TYPE,
            state_keys.c.state_key == "",
        )
    )
    .scalar_subquery()
)
_ROOM = statement(
    select(rooms.c.nid, rooms.c.version, func.coalesce(_acl, literal_column("0")))
    .select_from(rooms.join(room_heads, room_heads.c.room_nid == rooms.c.nid))
    .where(rooms.c.room_id == bindparam("room_id"))
)
_ROOM_OF_EVENT = statement(
    select(rooms.c.room_id)
    .select_from(events.join(rooms, rooms.c.nid == events.c.room_nid))
    .where(events.c.event_id == bindparam("event_id"))
)
_TEXTS = statement(
    select(events.c.nid, event_json.c.json, func.coalesce(redactions.c.by_nid, literal_column("0")))
    .select_from(
        events.join(event_json, event_json.c.nid == events.c.nid).outerjoin(
            redactions, redactions.c.target_id == events.c.event_id
        )
    )
    .where(any_of(events.c.nid, "nids"))
)
_IDS = statement(select(events.c.nid, events.c.event_id).where(any_of(events.c.nid, "nids")))


class RoomRow(NamedTuple):
    """A room that this server has a history of."""

    nid: int
    rules: RoomRules
    acl_nid: int  # of the m.room.server_acl in force; 0: there is none


def find_shared_room(tx: Tx, room_id: str) -> RoomRow | None:
    """A room by its id; None where nothing is stored of it."""
    row = tx.one(_ROOM, room_id=room_id)
    rules = ROOM_VERSIONS.get(row[1]) if row is not None else None
    return RoomRow(row[0], rules, row[2]) if row is not None and rules is not None else None


def find_room_of(tx: Tx, event_id: str) -> str | None:
    """The room of an event."""
    found: str | None = tx.value(_ROOM_OF_EVENT, event_id=event_id)
    return found


def load_keys_of_server(tx: Tx, room_nid: int, server: str) -> list[int]:
    """The state key nids of the memberships of everybody of a server who was ever anything to the room."""
    return tx.column(_KEYS_OF_SERVER, room_nid=room_nid, server=server)


def as_redacted(text: bytes | str, rules: RoomRules) -> bytes:
    """An event's text in its redacted form."""
    return encode_by_rules(redact(_decode(text), rules), strict=rules.strict_canonical_json)


def load_texts(tx: Tx, nids: Collection[int], rules: RoomRules) -> dict[int, bytes]:
    """Events of one room as they travel: nid -> JSON. One statement."""
    return {
        nid: as_redacted(text, rules) if redacted_by else text.encode()
        for nid, text, redacted_by in tx.all(_TEXTS, nids=list(nids))
    }


def load_event_ids(tx: Tx, nids: Collection[int]) -> dict[int, str]:
    """The ids of events by nid."""
    return dict(tx.all(_IDS, nids=list(nids)))
