"""Rooms that nobody of this server may join or be invited to."""

from __future__ import annotations

from sqlalchemy import bindparam, delete, select

from homeserver.db.schema.moderation import blocked_rooms
from homeserver.db.schema.rooms import user_ids
from homeserver.db.statements import rows, statement
from homeserver.db.tx import Tx, WriteTx
from homeserver.store.changes import Kind

_B = blocked_rooms.c
_ALL = statement(select(_B.room_nid))
_ONE = statement(
    select(user_ids.c.user_id)
    .select_from(blocked_rooms.join(user_ids, user_ids.c.nid == _B.by_nid))
    .where(_B.room_nid == bindparam("the_room_nid"))
)
_BLOCK = rows(blocked_rooms, "room_nid", "by_nid", ignore=True)
_UNBLOCK = statement(delete(blocked_rooms).where(_B.room_nid == bindparam("the_room_nid")))


def load_blocks(tx: Tx) -> list[int]:
    """Every blocked room (at the start)."""
    return tx.column(_ALL)


def find_block(tx: Tx, room_nid: int) -> str | None:
    """Who has blocked a room; None: it is not blocked."""
    blocked_by: str | None = tx.value(_ONE, the_room_nid=room_nid)
    return blocked_by


def block_room(tx: WriteTx, room_nid: int, by_nid: int) -> None:
    """Block a room; who did it first stays."""
    tx.insert(_BLOCK, [(room_nid, by_nid)])
    tx.claim(Kind.BLOCKED, 0, room_nid)


def unblock_room(tx: WriteTx, room_nid: int) -> None:
    """Block a room no longer."""
    tx.run(_UNBLOCK, the_room_nid=room_nid)
    tx.claim(Kind.BLOCKED, 0, -room_nid)
