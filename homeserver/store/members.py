"""Memberships: who is what in which room."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import and_, bindparam, func, select, update

from homeserver.db.schema.accounts import accounts
from homeserver.db.schema.rooms import event_json, members, room_heads, state_log, timeline, user_ids
from homeserver.db.statements import any_of, rows, statement
from homeserver.db.tx import Row, Tx, WriteTx
from homeserver.store.changes import Kind
from homeserver.store.events import load_redactions
from homeserver.store.ids import true_name
from homeserver.store.placement import Membership


class Member(NamedTuple):
    """One user's membership of one room."""

    room_nid: int
    user_nid: int
    membership: Membership
    event_nid: int
    pos: int
    forgotten: bool
    outside: bool = False  # told by another server, of a room whose state is not known here; no event


_COLUMNS = (
    members.c.room_nid,
    members.c.user_nid,
    members.c.membership,
    members.c.event_nid,
    members.c.pos,
    members.c.forgotten,
    members.c.outside,
)
_LOCAL = statement(
    select(*_COLUMNS).select_from(members.join(accounts, accounts.c.user_nid == members.c.user_nid))
)
_OF_ROOM = statement(select(*_COLUMNS).where(members.c.room_nid == bindparam("room_nid")))
_OF_USER = statement(select(*_COLUMNS).where(members.c.user_nid == bindparam("user_nid")))
_ONE = statement(
    select(*_COLUMNS).where(
        and_(members.c.room_nid == bindparam("room_nid"), members.c.user_nid == bindparam("user_nid"))
    )
)
_JOINED = statement(
    select(members.c.event_nid, user_ids.c.user_id, event_json.c.json)
    .select_from(
        members.join(user_ids, user_ids.c.nid == members.c.user_nid).join(
            event_json, event_json.c.nid == members.c.event_nid
        )
    )
    .where(and_(members.c.room_nid == bindparam("room_nid"), members.c.membership == int(Membership.JOIN)))
)
_COUNTS = statement(
    select(members.c.membership, func.count())
    .where(and_(members.c.room_nid == bindparam("room_nid"), members.c.outside == 0))
    .group_by(members.c.membership)
)
_JOINED_ROOMS = statement(
    select(members.c.user_nid, members.c.room_nid).where(
        and_(any_of(members.c.user_nid, "user_nids"), members.c.membership == int(Membership.JOIN))
    )
)
_PUT_COLUMNS = ("room_nid", "user_nid", "membership", "event_nid", "pos", "forgotten", "outside")
_PUT_KEYS = ("room_nid", "user_nid")
PUT_MEMBERS = rows(
    members,
    *_PUT_COLUMNS,
    keys=_PUT_KEYS,
    update=("membership", "event_nid", "pos", "forgotten", "outside"),
)
# spec: client-server-api#leaving-rooms (a room stays forgotten until they join, are invited or knock)
PUT_ENDED = rows(
    members,
    *_PUT_COLUMNS,
    keys=_PUT_KEYS,
    update=("membership", "event_nid", "pos", "outside"),
)
_FORGET = statement(
    update(members)
    .where(and_(members.c.room_nid == bindparam("in_room"), members.c.user_nid == bindparam("of_user")))
    .values(forgotten=1)
)
_LAST_EVENTS = statement(select(timeline.c.room_nid, func.max(timeline.c.pos)).group_by(timeline.c.room_nid))
# One look into the index a room: the table has millions of rows, and servers start often.
_LAST_MOVES = statement(
    select(
        room_heads.c.room_nid,
        select(func.max(state_log.c.pos))
        .where(state_log.c.room_nid == room_heads.c.room_nid)
        .scalar_subquery(),
    )
)


def _member(row: Row) -> Member:
    return Member(row[0], row[1], Membership(row[2]), row[3], row[4], bool(row[5]), bool(row[6]))


def load_local_members(tx: Tx) -> list[Member]:
    """Every membership of every account of this server (at the start)."""
    return [_member(row) for row in tx.all(_LOCAL)]


def load_members(tx: Tx, room_nid: int) -> list[Member]:
    """Every membership of a room."""
    return [_member(row) for row in tx.all(_OF_ROOM, room_nid=room_nid)]


def load_user_rooms(tx: Tx, user_nid: int) -> list[Member]:
    """Every membership of a user."""
    return [_member(row) for row in tx.all(_OF_USER, user_nid=user_nid)]


def load_joined_rooms(tx: Tx, user_nids: Collection[int]) -> dict[int, list[int]]:
    """The rooms that users are in: user -> rooms; of other servers' users, as far as rooms are known here."""
    found: dict[int, list[int]] = {}
    for user_nid, room_nid in tx.all(_JOINED_ROOMS, user_nids=list(user_nids)):
        found.setdefault(user_nid, []).append(room_nid)
    return found


def load_joined(tx: Tx, room_nid: int) -> dict[str, str | None]:
    """Who is in a room: user id -> the text of the event that says so, None where that is redacted."""
    rows_ = tx.all(_JOINED, room_nid=room_nid)
    redacted = load_redactions(tx, [nid for nid, _, _ in rows_])
    return {true_name(user_id): None if nid in redacted else text for nid, user_id, text in rows_}


def find_member(tx: Tx, room_nid: int, user_nid: int) -> Member | None:
    """One user's membership of one room."""
    row = tx.one(_ONE, room_nid=room_nid, user_nid=user_nid)
    return _member(row) if row is not None else None


def load_counts(tx: Tx, room_nid: int) -> dict[Membership, int]:
    """How many members of each kind a room has."""
    return {Membership(row[0]): row[1] for row in tx.all(_COUNTS, room_nid=room_nid)}


def forget_room(tx: WriteTx, user_nid: int, room_nid: int) -> None:
    """The user wants to hear no more of a room that they left."""
    tx.run(_FORGET, in_room=room_nid, of_user=user_nid)
    tx.claim(Kind.FORGOTTEN, -user_nid, room_nid)


def load_last_events(tx: Tx) -> dict[int, int]:
    """The position of each room's newest event (at the start)."""
    return dict(tx.all(_LAST_EVENTS))


def load_last_moves(tx: Tx) -> dict[int, int]:
    """Where each room's state moved last, by an event or without one (at the start)."""
    return {room_nid: pos for room_nid, pos in tx.all(_LAST_MOVES) if pos is not None}
