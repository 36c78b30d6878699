"""Joins that are not complete: rooms of which we do not know all the state, and what was placed meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from sqlalchemy import and_, bindparam, delete, select, update

from federation.event import Event
from federation.ids import EventId, ServerName
from homeserver.db.schema.relations import relations
from homeserver.db.schema.rooms import (
    edges,
    event_json,
    events,
    partial_joins,
    redactions,
    timeline,
)
from homeserver.db.schema.stream import changes
from homeserver.db.statements import any_of, rows, statement
from homeserver.db.tx import Tx
from homeserver.store.changes import Kind
from homeserver.store.events import EventRow, load_rows
from homeserver.store.parsed import EventCache, load_events
from homeserver.store.state import BaseCache, Snapshot, load_snapshots

_PUT = rows(
    partial_joins,
    "room_nid",
    "join_nid",
    "server",
    "servers",
    "attempts",
    keys=("room_nid",),
    update=("join_nid", "server", "servers", "attempts"),
)
_ALL = statement(
    select(
        partial_joins.c.room_nid,
        partial_joins.c.join_nid,
        events.c.event_id,
        partial_joins.c.server,
        partial_joins.c.servers,
        partial_joins.c.attempts,
    ).select_from(partial_joins.join(events, events.c.nid == partial_joins.c.join_nid))
)
_ONE = statement(select(partial_joins.c.join_nid).where(partial_joins.c.room_nid == bindparam("room_nid")))
_END = statement(
    delete(partial_joins).where(
        and_(
            partial_joins.c.room_nid == bindparam("of_room"), partial_joins.c.join_nid == bindparam("of_join")
        )
    )
)
_COUNT = statement(
    update(partial_joins)
    .where(
        and_(
            partial_joins.c.room_nid == bindparam("of_room"), partial_joins.c.join_nid == bindparam("of_join")
        )
    )
    .values(attempts=bindparam("number"))
)
_END_ANY = statement(delete(partial_joins).where(partial_joins.c.room_nid == bindparam("of_room")))
_parent, _child = events.alias("parent"), events.alias("child")
_children = (
    select(edges.c.child_nid.label("nid"))
    .select_from(edges.join(_parent, _parent.c.event_id == edges.c.parent_id))
    .where(_parent.c.nid == bindparam("join_nid"))
    .cte("since", recursive=True)
)
_further = edges.alias("further")
_since = _children.union(
    select(_further.c.child_nid).select_from(
        _children.join(_child, _child.c.nid == _children.c.nid).join(
            _further, _further.c.parent_id == _child.c.event_id
        )
    )
)
_SINCE = statement(select(_since.c.nid))
_LEAVE_TIMELINE = statement(delete(timeline).where(any_of(timeline.c.event_nid, "nids")))
_UNRELATE = statement(delete(relations).where(any_of(relations.c.child_nid, "nids")))
_UNSAY = statement(
    update(changes)
    .where(and_(changes.c.kind == int(Kind.EVENT), any_of(changes.c.ref, "nids")))
    .values(kind=int(Kind.STATE_MOVED), ref=0)
)
_UNREDACT = statement(delete(redactions).where(any_of(redactions.c.by_nid, "nids")))
_TEXTS = statement(select(event_json.c.nid, event_json.c.json).where(any_of(event_json.c.nid, "nids")))
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[str]).decode


class PartialJoin(NamedTuple):
    """A join that is not complete: by which event, through whom, and who else is in the room.

    ``attempts`` 0: members are still to come. Else they have come, but for what is signed with keys that nobody gave;
    these are asked for so many times already.
    """

    room_nid: int
    join_nid: int
    join_id: EventId
    server: ServerName
    servers: tuple[ServerName, ...]
    attempts: int = 0


class Since(NamedTuple):
    """An event that was placed on a join, or the join itself."""

    row: EventRow
    event: Event
    text: str
    before: Snapshot


def put_partial_join(tx: Tx, join: PartialJoin) -> None:
    """Note that not all of a room's state is here."""
    servers = _encode(join.servers).decode()
    tx.insert(_PUT, [(join.room_nid, join.join_nid, join.server, servers, join.attempts)])


def count_attempts(tx: Tx, join: PartialJoin) -> None:
    """Note how often keys were asked for, if the join is still the one that is not complete."""
    tx.run(_COUNT, of_room=join.room_nid, of_join=join.join_nid, number=join.attempts)


def end_partial_join(tx: Tx, room_nid: int, join_nid: int) -> None:
    """They have come."""
    tx.run(_END, of_room=room_nid, of_join=join_nid)


def forget_partial_join(tx: Tx, room_nid: int) -> None:
    """Who came back was told all of the room: what an earlier join lacked matters no more."""
    tx.run(_END_ANY, of_room=room_nid)


def is_partial(tx: Tx, room_nid: int) -> bool:
    """Whether a room's join is not complete."""
    return tx.value(_ONE, room_nid=room_nid) is not None


def load_partial_joins(tx: Tx) -> list[PartialJoin]:
    """All of them (at the start)."""
    return [
        PartialJoin(
            room_nid,
            join_nid,
            EventId(join_id),
            ServerName(server),
            tuple(map(ServerName, _decode(servers))),
            attempts,
        )
        for room_nid, join_nid, join_id, server, servers, attempts in tx.all(_ALL)
    ]


def load_since(tx: Tx, join_nid: int, cache: EventCache, bases: BaseCache) -> list[Since]:
    """A join, and every event with a state that builds on it, in no particular order."""
    nids = [join_nid, *tx.column(_SINCE, join_nid=join_nid)]
    found = [row for row in load_rows(tx, nids).values() if row.state_before is not None]
    texts: dict[int, str] = dict(tx.all(_TEXTS, nids=[row.nid for row in found]))
    parsed = load_events(tx, [row.nid for row in found], cache)
    states = load_snapshots(tx, sorted({row.state_before or 0 for row in found}), bases)
    return [Since(row, parsed[row.nid], texts[row.nid], states[row.state_before or 0]) for row in found]


def withdraw_events(tx: Tx, nids: Sequence[int]) -> None:
    """Events that were shown too early: they leave the timeline, and what they did to others is undone."""
    tx.run(_LEAVE_TIMELINE, nids=list(nids))
    tx.run(_UNRELATE, nids=list(nids))
    tx.run(_UNREDACT, nids=list(nids))
    # Followers that have not come so far hear of no event; how the state moved with it stays.
    tx.run(_UNSAY, nids=list(nids))
