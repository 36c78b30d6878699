"""Invites that were declined while nobody of the room answered, until they are told or it is too late.

That an invite came again, or that its user joined, is nothing that has to be noted here: a row stands for one leave, and
is over when what is kept of the membership (``store/outside.py``) is no longer that.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import and_, bindparam, delete, select

from homeserver.db.schema.rooms import declined, outside, rooms, user_ids
from homeserver.db.statements import rows, statement
from homeserver.db.tx import Tx, WriteTx
from homeserver.store.outside import Told, put_instead

_D = declined.c
_PUT = rows(
    declined,
    "room_nid",
    "user_nid",
    "event_id",
    "attempts",
    "retry_ts_ms",
    keys=("room_nid", "user_nid"),
    update=("event_id", "attempts", "retry_ts_ms"),
)
_FORGET = statement(
    delete(declined).where(and_(_D.room_nid == bindparam("of_room"), _D.user_nid == bindparam("of_user")))
)
_NAMED = declined.join(rooms, rooms.c.nid == _D.room_nid).join(user_ids, user_ids.c.nid == _D.user_nid)
_TOLD = and_(outside.c.room_nid == _D.room_nid, outside.c.user_nid == _D.user_nid)
_SELECT = (
    select(
        _D.room_nid,
        _D.user_nid,
        _D.event_id,
        _D.attempts,
        _D.retry_ts_ms,
        rooms.c.room_id,
        user_ids.c.user_id,
    )
    .order_by(_D.retry_ts_ms, _D.room_nid, _D.user_nid)
    .limit(bindparam("most"))
)
_NEXT = statement(_SELECT.select_from(_NAMED))
_OF_SERVER = statement(
    _SELECT.select_from(_NAMED.join(outside, _TOLD)).where(outside.c.server == bindparam("server"))
)
_SERVERS = statement(
    select(outside.c.server)
    .select_from(declined.join(outside, _TOLD))
    .distinct()
    .order_by(outside.c.server)
    .limit(bindparam("most"))
)


class Declined(NamedTuple):
    """One that is to be told yet. ``attempts``: so many have failed since the first."""

    room_nid: int
    user_nid: int
    event_id: str
    attempts: int
    retry_ts_ms: int
    room_id: str
    user_id: str


def decline(tx: WriteTx, told: Told, seen: str, retry_ts_ms: int) -> bool:
    """Note a leave as ``put_instead`` does, and that others are to be told of it, not before then."""
    if not put_instead(tx, told, seen):
        return False
    tx.insert(_PUT, [(told.room_nid, told.user_nid, told.event_id, 0, retry_ts_ms)])
    return True


def load_next_declined(tx: Tx, most: int) -> list[Declined]:
    """Those whose time comes next."""
    return [Declined(*row) for row in tx.all(_NEXT, most=most)]


def load_declined_of(tx: Tx, server: str, most: int) -> list[Declined]:
    """Those of which a server told us, by when their time comes."""
    return [Declined(*row) for row in tx.all(_OF_SERVER, server=server, most=most)]


def load_declined_servers(tx: Tx, most: int) -> list[str]:
    """The servers that are to be told."""
    return list(tx.column(_SERVERS, most=most))


def put_off_declined(tx: WriteTx, one: Declined, retry_ts_ms: int, *, tried: bool) -> None:
    """It is to be looked after another time, and not before then."""
    tx.insert(_PUT, [(one.room_nid, one.user_nid, one.event_id, one.attempts + tried, retry_ts_ms)])


def forget_declined(tx: WriteTx, room_nid: int, user_nid: int) -> None:
    """It is told, or of no use any more."""
    tx.run(_FORGET, of_room=room_nid, of_user=user_nid)
