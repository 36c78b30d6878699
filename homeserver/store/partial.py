"""Joins that are not complete: rooms of which we do not know all the state, and what was placed meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Select, Table, and_, bindparam, delete, select, union_all, update

from federation.event import Event
from federation.ids import EventId, ServerName
from homeserver.db.schema.relations import relations
from homeserver.db.schema.rooms import (
    earlier_joins,
    edges,
    event_json,
    events,
    partial_joins,
    redactions,
    timeline,
    waiting_redactions,
)
from homeserver.db.schema.stream import changes
from homeserver.db.statements import any_of, rows, statement
from homeserver.db.tx import Tx
from homeserver.store.changes import Kind
from homeserver.store.descendants import build_descent
from homeserver.store.events import EventRow, load_rows
from homeserver.store.hearsay import keep_hearsay
from homeserver.store.parsed import EventCache, load_events
from homeserver.store.state import BaseCache, Snapshot, load_snapshots

# LIMIT(of so many earlier stays in a room the states are asked for; the oldest remain as they are)
EARLIER_MOST = 8

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
_PUT_EARLIER = rows(
    earlier_joins,
    "room_nid",
    "join_nid",
    "server",
    "servers",
    "attempts",
    keys=("room_nid", "join_nid"),
    update=("server", "servers", "attempts"),
)


def _of_event(table: Table) -> Select[Any]:
    return select(
        table.c.room_nid,
        table.c.join_nid,
        events.c.event_id,
        table.c.server,
        table.c.servers,
        table.c.attempts,
    ).select_from(table.join(events, events.c.nid == table.c.join_nid))


_TABLES = (earlier_joins, partial_joins)
_ALL = [statement(_of_event(table).order_by(table.c.join_nid)) for table in _TABLES]
_UNFINISHED = statement(
    union_all(
        *(select(table.c.join_nid).where(table.c.room_nid == bindparam("room_nid")) for table in _TABLES)
    )
)
_EARLIER = statement(
    select(earlier_joins.c.join_nid)
    .where(earlier_joins.c.room_nid == bindparam("of_room"))
    .order_by(earlier_joins.c.join_nid)
)
_LATEST = statement(
    select(
        partial_joins.c.join_nid, partial_joins.c.server, partial_joins.c.servers, partial_joins.c.attempts
    ).where(partial_joins.c.room_nid == bindparam("of_room"))
)
_END_LATEST = statement(delete(partial_joins).where(partial_joins.c.room_nid == bindparam("of_room")))
_END = [
    statement(
        delete(table).where(
            and_(table.c.room_nid == bindparam("of_room"), table.c.join_nid == bindparam("of_join"))
        )
    )
    for table in _TABLES
]
_COUNT = [
    statement(
        update(table)
        .where(and_(table.c.room_nid == bindparam("of_room"), table.c.join_nid == bindparam("of_join")))
        .values(attempts=bindparam("number"))
    )
    for table in _TABLES
]
_since = build_descent(
    select(edges.c.child_nid.label("nid"))
    .select_from(edges.join(events, events.c.event_id == edges.c.parent_id))
    .where(events.c.nid == bindparam("join_nid"))
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
_UNAWAIT = statement(delete(waiting_redactions).where(any_of(waiting_redactions.c.by_nid, "nids")))
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
    """Note how often keys were asked for, if the join still is one that is not complete."""
    for count in _COUNT:
        tx.run(count, of_room=join.room_nid, of_join=join.join_nid, number=join.attempts)


def end_partial_join(tx: Tx, room_nid: int, join_nid: int) -> None:
    """They have come. Whatever was placed before MUST be stored already."""
    keep_hearsay(tx, room_nid, join_nid)
    for end in _END:
        tx.run(end, of_room=room_nid, of_join=join_nid)


def end_stay(tx: Tx, room_nid: int) -> bool:
    """Somebody came back to a room that everybody had left: what the join before lacked nobody waits for any more.

    It is had all the same, since what is told of the time between builds on it. Whether members were still to come.
    """
    row = tx.one(_LATEST, of_room=room_nid)
    if row is None:
        return False
    join_nid, server, servers, attempts = row
    tx.run(_END_LATEST, of_room=room_nid)
    earlier = tx.column(_EARLIER, of_room=room_nid)
    for old_nid in earlier[: max(0, len(earlier) - EARLIER_MOST + 1)]:
        end_partial_join(tx, room_nid, old_nid)
    tx.insert(_PUT_EARLIER, [(room_nid, join_nid, server, servers, max(attempts, 1))])
    return not attempts


def is_partial(tx: Tx, room_nid: int, except_join: int = 0) -> bool:
    """Whether a join of a room, another one than this, is not complete."""
    return any(nid != except_join for nid in tx.column(_UNFINISHED, room_nid=room_nid))


def load_partial_joins(tx: Tx) -> list[PartialJoin]:
    """All of them (at the start); of a room those of earlier stays come first."""
    return [
        PartialJoin(
            room_nid,
            join_nid,
            EventId(join_id),
            ServerName(server),
            tuple(map(ServerName, _decode(servers))),
            attempts,
        )
        for every in _ALL
        for room_nid, join_nid, join_id, server, servers, attempts in tx.all(every)
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
    """Events that were shown too early: they leave the timeline, and what they did to others, or were to do, is undone."""
    tx.run(_LEAVE_TIMELINE, nids=list(nids))
    tx.run(_UNRELATE, nids=list(nids))
    tx.run(_UNREDACT, nids=list(nids))
    tx.run(_UNAWAIT, nids=list(nids))
    # Followers that have not come so far hear of no event; how the state moved with it stays.
    tx.run(_UNSAY, nids=list(nids))
