"""Invites that this server has signed while it was in the room, and of which it has not had the event.

The room's own event is to say that the user is invited, so nothing does until it comes. It does not come where the last
user of ours was out of the room before the invite took its place there: then nobody tells us. So the invite is kept beside
those from outside (``outside.py``), with nothing among the members that points to it, until either is known.
"""

from __future__ import annotations

import msgspec
from sqlalchemy import and_, bindparam, delete, or_, select

from homeserver.db.schema.rooms import members, outside
from homeserver.db.statements import statement
from homeserver.db.tx import Tx, WriteTx
from homeserver.store.events import find_row, load_json
from homeserver.store.members import find_member
from homeserver.store.outside import PUT_TOLD, Told, put_outside, told_row
from homeserver.store.placement import Membership

_O = outside.c
_OF_MEMBER = and_(members.c.room_nid == _O.room_nid, members.c.user_nid == _O.user_nid)
_KEPT = (
    select(_O.room_nid, _O.user_nid, _O.server, _O.version, _O.event_id, _O.event, _O.stripped)
    .select_from(outside.outerjoin(members, _OF_MEMBER))
    .where(or_(members.c.outside.is_(None), members.c.outside == 0))
)
_IN_ROOM = statement(_KEPT.where(_O.room_nid == bindparam("room_nid")))
_ALL = statement(_KEPT.with_only_columns(_O.room_nid, _O.user_nid))
_FORGET = statement(
    delete(outside).where(and_(_O.room_nid == bindparam("in_room"), _O.user_nid == bindparam("of_user")))
)


class _Content(msgspec.Struct):
    membership: str


class _Event(msgspec.Struct):
    content: _Content
    depth: int = 0


_decode = msgspec.json.Decoder(_Event).decode


def note_signed(tx: WriteTx, told: Told) -> None:
    """Keep an invite until its event has come; nothing where something else from outside is what the user is told."""
    member = find_member(tx, told.room_nid, told.user_nid)
    if member is None or not member.outside:
        tx.insert(PUT_TOLD, [told_row(told)])


def load_signed(tx: Tx) -> list[tuple[int, int]]:
    """All that are kept: room, user."""
    return [(room_nid, user_nid) for room_nid, user_nid in tx.all(_ALL)]


def settle_signed(tx: WriteTx, room_nid: int, gone: bool) -> list[int]:
    """Forget those of which the room has told since; the users of whom nothing is kept any more.

    ``gone``: nobody of ours is in the room, so what has not come will not, and is an invite like any from outside.
    """
    settled = []
    for row in tx.all(_IN_ROOM, room_nid=room_nid):
        told = Told(row[0], row[1], Membership.INVITE, *row[2:])
        if not _is_open(tx, told):
            tx.run(_FORGET, in_room=room_nid, of_user=told.user_nid)
        elif gone:
            put_outside(tx, told)
        else:
            continue
        settled.append(told.user_nid)
    return settled


def _is_open(tx: Tx, told: Told) -> bool:
    """Whether the room has not told of it, nor of anything about the user that comes after it."""
    event = _decode(told.event)
    if event.content.membership != "invite" or find_row(tx, told.event_id) is not None:
        return False
    member = find_member(tx, told.room_nid, told.user_nid)
    if member is None or not member.event_nid:
        return True
    return all(_decode(row.json).depth < event.depth for row in load_json(tx, [member.event_nid]))
