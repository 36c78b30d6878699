"""Aliases of rooms on this server. spec: client-server-api#room-aliases"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import bindparam, delete, select, update

from homeserver.db.schema.rooms import aliases
from homeserver.db.statements import any_of, rows, statement
from homeserver.db.tx import Tx, WriteTx
from homeserver.store.changes import Kind

_BY_NAMES = statement(
    select(aliases.c.alias, aliases.c.room_nid, aliases.c.creator_nid).where(any_of(aliases.c.alias, "names"))
)
_OF_ROOM = statement(
    select(aliases.c.alias).where(aliases.c.room_nid == bindparam("room_nid")).order_by(aliases.c.alias)
)
_INSERT = rows(aliases, "alias", "room_nid", "creator_nid")
_DELETE = statement(delete(aliases).where(aliases.c.alias == bindparam("name")))
_MOVE = statement(
    update(aliases).where(aliases.c.room_nid == bindparam("old_nid")).values(room_nid=bindparam("new_nid"))
)


class Alias(NamedTuple):
    """A name, the room that it leads to, and who made it."""

    alias: str
    room_nid: int
    creator_nid: int


class AliasTakenError(Exception):
    """Somebody was faster."""


def find_aliases(tx: Tx, names: Sequence[str]) -> dict[str, Alias]:
    """Those of the names that exist."""
    return {row[0]: Alias(*row) for row in tx.all(_BY_NAMES, names=list(names))}


def find_alias(tx: Tx, name: str) -> Alias | None:
    """Where a name leads."""
    return find_aliases(tx, [name]).get(name)


def load_room_aliases(tx: Tx, room_nid: int) -> list[str]:
    """Every alias of a room, sorted."""
    return tx.column(_OF_ROOM, room_nid=room_nid)


def insert_alias(tx: WriteTx, name: str, room_nid: int, creator_nid: int) -> None:
    """Make an alias. Raises AliasTakenError."""
    if find_alias(tx, name) is not None:
        raise AliasTakenError(name)
    tx.insert(_INSERT, [(name, room_nid, creator_nid)])
    tx.claim(Kind.DIRECTORY, room_nid)


def delete_alias(tx: WriteTx, name: str) -> bool:
    """Remove an alias; whether it was there."""
    found = find_alias(tx, name)
    if found is None:
        return False
    tx.run(_DELETE, name=name)
    tx.claim(Kind.DIRECTORY, found.room_nid)
    return True


def move_aliases(tx: WriteTx, old_nid: int, new_nid: int) -> list[str]:
    """Let every alias of one room lead to another; their names."""
    moved = load_room_aliases(tx, old_nid)
    if moved:
        tx.run(_MOVE, old_nid=old_nid, new_nid=new_nid)
        tx.claim(Kind.DIRECTORY, old_nid)
        tx.claim(Kind.DIRECTORY, new_nid)
    return moved
