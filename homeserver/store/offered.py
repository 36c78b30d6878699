"""Joins and knocks that another server may have taken, until it is known here what became of them.

A row is written before the event is sent, and is over when the user is in the room (or knocks at it), when the server has
refused the event, or when it is taken back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import and_, bindparam, delete, select

from homeserver.db.schema.rooms import offered, rooms, user_ids
from homeserver.db.statements import rows, statement
from homeserver.db.tx import Tx, WriteTx
from homeserver.store.outside import Told, load_told, put_unless_later
from homeserver.store.placement import Membership

_O = offered.c
_PUT = rows(
    offered,
    "room_nid",
    "user_nid",
    "event_id",
    "server",
    "membership",
    "attempts",
    "retry_ts_ms",
    keys=("room_nid", "user_nid", "event_id", "server"),
    update=("attempts", "retry_ts_ms"),
)
_of_user = and_(_O.room_nid == bindparam("of_room"), _O.user_nid == bindparam("of_user"))
_FORGET = statement(
    delete(offered).where(
        and_(_of_user, _O.event_id == bindparam("of_event"), _O.server == bindparam("at_server"))
    )
)
_FORGET_ALL = statement(delete(offered).where(_of_user))
_FORGET_KNOCKS = statement(delete(offered).where(and_(_of_user, _O.membership == int(Membership.KNOCK))))
_IDS = statement(select(_O.event_id).where(_of_user))
_SELECT = (
    select(
        _O.room_nid,
        _O.user_nid,
        _O.event_id,
        _O.server,
        _O.membership,
        _O.attempts,
        _O.retry_ts_ms,
        rooms.c.room_id,
        user_ids.c.user_id,
    )
    .select_from(
        offered.join(rooms, rooms.c.nid == _O.room_nid).join(user_ids, user_ids.c.nid == _O.user_nid)
    )
    .order_by(_O.retry_ts_ms, _O.room_nid, _O.user_nid, _O.event_id)
    .limit(bindparam("most"))
)
_NEXT = statement(_SELECT)
# Those that were not tried yet are about to be, and perhaps still on their way.
_OF_SERVER = statement(_SELECT.where(and_(_O.server == bindparam("at_server"), _O.attempts > 0)))
_SERVERS = statement(
    select(_O.server).where(_O.attempts > 0).distinct().order_by(_O.server).limit(bindparam("most"))
)


class Offered(NamedTuple):
    """One of them. ``attempts``: so often it was tried to take it back."""

    room_nid: int
    user_nid: int
    event_id: str
    server: str
    membership: int
    attempts: int
    retry_ts_ms: int
    room_id: str
    user_id: str


@dataclass(frozen=True, slots=True)
class Offer:
    """An event of a user of ours that says so about themselves, and the server that is to take it."""

    room_nid: int
    user_nid: int
    event_id: str
    server: str
    membership: Membership


def note_offered(tx: WriteTx, offer: Offer, retry_ts_ms: int) -> None:
    """It is about to be sent; where nothing else is heard of it, it is to be taken back then."""
    row = (offer.room_nid, offer.user_nid, offer.event_id, offer.server)
    tx.insert(_PUT, [(*row, int(offer.membership), 0, retry_ts_ms)])


def forget_offered(tx: WriteTx, one: Offer | Offered) -> None:
    """It was refused, or is taken back."""
    tx.run(_FORGET, of_room=one.room_nid, of_user=one.user_nid, of_event=one.event_id, at_server=one.server)


def forget_all_offered(tx: WriteTx, room_nid: int, user_nid: int) -> None:
    """The user is in the room."""
    tx.run(_FORGET_ALL, of_room=room_nid, of_user=user_nid)


def put_knock(tx: WriteTx, told: Told, seen: str) -> None:
    """Note a knock that a server has taken; whatever became of others, this is the one. ``seen``: ``put_unless_later``."""
    put_unless_later(tx, told, seen)
    tx.run(_FORGET_KNOCKS, of_room=told.room_nid, of_user=told.user_nid)


def load_offered_ids(tx: Tx, room_nid: int, user_nid: int) -> set[str]:
    """By which events a user may be in a room, or knock at it, where nothing else here says so."""
    return set(tx.column(_IDS, of_room=room_nid, of_user=user_nid))


def load_next_offered(tx: Tx, most: int) -> list[Offered]:
    """Those whose time comes next."""
    return [Offered(*row) for row in tx.all(_NEXT, most=most)]


def load_offered_of(tx: Tx, server: str, most: int) -> list[Offered]:
    """Those that could not be taken back at a server when they were due."""
    return [Offered(*row) for row in tx.all(_OF_SERVER, at_server=server, most=most)]


def load_offered_servers(tx: Tx, most: int) -> list[str]:
    """The servers where something could not be taken back."""
    return list(tx.column(_SERVERS, most=most))


def put_off_offered(tx: WriteTx, one: Offered, retry_ts_ms: int, *, tried: bool) -> None:
    """It is to be looked after another time, and not before then."""
    row = (one.room_nid, one.user_nid, one.event_id, one.server, one.membership)
    tx.insert(_PUT, [(*row, one.attempts + tried, retry_ts_ms)])


def take_back(tx: WriteTx, one: Offered, told: Told) -> None:
    """The room has heard that the user is out of it: with what was offered ended what it stood on, an invite say.

    Not an invite that came after that.
    """
    forget_offered(tx, one)
    before = load_told(tx, one.user_nid, one.room_nid)
    if before is not None and before.membership in (Membership.INVITE, Membership.KNOCK):
        put_unless_later(tx, told, "")
