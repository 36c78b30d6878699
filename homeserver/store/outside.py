"""Memberships of rooms that this server is not in: invites that came, knocks that were sent, and how they ended.

The room's state is not known here, so nothing of it is among the events: what another server told us is kept beside
the membership, as it is shown to the user. The row of ``members`` has ``outside`` set and no event; once this server is
in the room, the room's own state takes its place.

A membership that a state resolution took away (``put_vanished``) is kept as a leave that nobody told: a room may not stay
in the lists of clients only because no event says that it is over.

A row to which no member points is an invite that was signed and is not in the room yet: see ``signed_invites.py``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from sys import getsizeof
from typing import Any, NamedTuple, Self

import msgspec
from sqlalchemy import and_, bindparam, delete, select

from federation.event import Event, stored_bytes
from homeserver.db.schema.accounts import accounts
from homeserver.db.schema.rooms import members, outside
from homeserver.db.statements import any_of, rows, statement
from homeserver.db.tx import Tx, WriteTx
from homeserver.store.changes import Kind
from homeserver.store.events import find_row
from homeserver.store.members import PUT_ENDED, PUT_MEMBERS, find_member
from homeserver.store.placement import ENDED, MEMBERSHIPS, Membership

_COLUMNS = (
    outside.c.room_nid,
    outside.c.server,
    outside.c.version,
    outside.c.event_id,
    outside.c.event,
    outside.c.stripped,
)
_OF_USER = statement(
    select(*_COLUMNS).where(
        and_(outside.c.user_nid == bindparam("user_nid"), any_of(outside.c.room_nid, "room_nids"))
    )
)
PUT_TOLD = rows(
    outside,
    "room_nid",
    "user_nid",
    "server",
    "version",
    "event_id",
    "event",
    "stripped",
    keys=("room_nid", "user_nid"),
    update=("server", "version", "event_id", "event", "stripped"),
)
_IN_ROOM = statement(select(outside.c.user_nid).where(outside.c.room_nid == bindparam("room_nid")))
_ACTIVE = statement(
    select(members.c.user_nid)
    .select_from(members.join(accounts, accounts.c.user_nid == members.c.user_nid))
    .where(
        and_(
            members.c.room_nid == bindparam("room_nid"),
            any_of(members.c.user_nid, "users"),
            *[members.c.membership != int(one) for one in sorted(ENDED)],
        )
    )
)
_END = statement(
    delete(outside).where(
        and_(outside.c.room_nid == bindparam("in_room"), any_of(outside.c.user_nid, "users"))
    )
)


@dataclass(frozen=True, slots=True)
class Told:
    """A membership as another server told it, or as we told another."""

    room_nid: int
    user_nid: int
    membership: Membership
    server: str  # which told us, or whom we told
    version: str  # of the room
    event_id: str
    event: str  # JSON, as servers exchange it
    stripped: str  # JSON: a list of stripped state events, the user's own membership last

    @classmethod
    def by(cls, room_nid: int, user_nid: int, server: str, event: Event, stripped: str) -> Self:
        """The membership that an event gives."""
        membership = MEMBERSHIPS[event.content["membership"]]
        text = stored_bytes(event).decode()
        return cls(
            room_nid, user_nid, membership, server, event.rules.version, event.event_id, text, stripped
        )

    @property
    def weight(self) -> int:
        """See ``Change.weight``."""
        return getsizeof(self.event) + getsizeof(self.stripped)

    @property
    def depth(self) -> int:
        """How deep in the room the event says that it is."""
        depth: int = msgspec.json.decode(self.event).get("depth", 0)
        return depth


class OutsideRow(NamedTuple):
    """What is kept of a membership from outside."""

    room_nid: int
    server: str
    version: str
    event_id: str
    event: str
    stripped: str


_SHOWN = ("content", "origin_server_ts", "sender", "state_key", "type")


def shown_outside(event: Mapping[str, Any], event_id: str) -> dict[str, Any]:
    """A membership from outside as clients see events, but for its room."""
    return {**{key: event[key] for key in _SHOWN if key in event}, "event_id": event_id}


def told_row(told: Told) -> tuple[int | str, ...]:
    """For ``PUT_TOLD``."""
    return told.room_nid, told.user_nid, told.server, told.version, told.event_id, told.event, told.stripped


def put_outside(tx: WriteTx, told: Told) -> None:
    """Note a membership of a room that this server is not in."""
    tx.insert(PUT_TOLD, [told_row(told)])
    tx.claim(Kind.OUTSIDE, -told.user_nid, told.room_nid, partial(_write_member, told=told), told)


def put_instead(tx: WriteTx, told: Told, seen: str) -> bool:
    """Note one that was made of the event ``seen``; False where something else is kept by now, which stays."""
    kept = load_told(tx, told.user_nid, told.room_nid)
    if kept is None or kept.event_id != seen:
        return False
    put_outside(tx, told)
    return True


def put_afterwards(tx: WriteTx, told: Told, seen: str) -> bool:
    """Note how one ended of which the room's own event ``seen`` tells here; False where it is something else by now."""
    member = find_member(tx, told.room_nid, told.user_nid)
    row = find_row(tx, seen)
    if member is None or member.outside or row is None or row.nid != member.event_nid:
        return False
    put_outside(tx, told)
    return True


def put_unless_later(tx: WriteTx, told: Told, seen: str) -> None:
    """Note one that the room has taken, but for what came after it: another than ``seen`` (empty: none), and deeper."""
    kept = load_told(tx, told.user_nid, told.room_nid)
    if kept is None or kept.event_id == seen or kept.depth < told.depth:
        put_outside(tx, told)


def _write_member(tx: Tx, pos: int, *, told: Told) -> None:
    put = PUT_ENDED if told.membership in ENDED else PUT_MEMBERS
    tx.insert(put, [(told.room_nid, told.user_nid, int(told.membership), 0, pos, 0, 1)])


def find_active(tx: Tx, room_nid: int, user_nids: Collection[int]) -> set[int]:
    """Those of some users of this server who are in a room, or invited to it, or knocking."""
    return set(tx.column(_ACTIVE, room_nid=room_nid, users=list(user_nids)))


def put_vanished(tx: Tx, room_nid: int, gone: Mapping[int, int]) -> None:
    """What users of this server were to a room a state resolution took away: user nid -> position."""
    tx.insert(PUT_TOLD, [(room_nid, user_nid, "", "", "", "{}", "[]") for user_nid in gone])
    leave = int(Membership.LEAVE)
    tx.insert(PUT_MEMBERS, [(room_nid, user_nid, leave, 0, pos, 0, 1) for user_nid, pos in gone.items()])


def load_outside(tx: Tx, user_nid: int, room_nids: Collection[int]) -> Mapping[int, OutsideRow]:
    """What is kept of a user's memberships of some rooms; meant for those whose standing says that it is from outside."""
    found = tx.all(_OF_USER, user_nid=user_nid, room_nids=list(room_nids))
    return {row[0]: OutsideRow(*row) for row in found}


def end_outside(tx: WriteTx, room_nid: int, user_nids: Collection[int]) -> None:
    """This server is in the room now, and the room itself says what these users are.

    Of whom it says nothing (its state was told by a server that has not heard of the invite yet) what was told stays.
    """
    known = set(user_nids)
    ended = [user_nid for user_nid in tx.column(_IN_ROOM, room_nid=room_nid) if user_nid in known]
    if ended:
        tx.run(_END, in_room=room_nid, users=ended)


def load_told(tx: Tx, user_nid: int, room_nid: int) -> Told | None:
    """A membership as it is kept; None where the room itself says now what the user is."""
    member = find_member(tx, room_nid, user_nid)
    row = load_outside(tx, user_nid, [room_nid]).get(room_nid)
    if member is None or row is None or not member.outside:
        return None
    return Told(
        room_nid,
        user_nid,
        member.membership,
        row.server,
        row.version,
        row.event_id,
        row.event,
        row.stripped,
    )
