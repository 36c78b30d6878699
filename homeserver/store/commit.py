"""The one writer of room history: bundles of placed events into the tables, many rooms in one transaction.

Order within the transaction (architecture, section 6): names, then everything without a position, then the
positions, then the rows that carry them, then the changes. One statement per table, whatever the number of events.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import and_, bindparam, delete, update

from homeserver.db.schema.rooms import (
    auth_edges,
    client_transactions,
    current_state,
    edges,
    ends,
    event_json,
    events,
    gaps,
    members,
    redactions,
    state_log,
    timeline,
    waiting_redactions,
)
from homeserver.db.statements import any_of, rows, statement
from homeserver.db.tx import Tx, WriteTx
from homeserver.store.changes import Kind
from homeserver.store.heads import move_heads
from homeserver.store.members import PUT_ENDED, PUT_MEMBERS
from homeserver.store.outside import find_active, put_vanished
from homeserver.store.past import HOLE, place_history
from homeserver.store.placement import ENDED, Bundle, Place, Placement, StateMove, StateMoved
from homeserver.store.relations import write_relations
from homeserver.store.search import queue_for_search, searched_type
from homeserver.store.state import INSERT_SNAPSHOTS, snapshot_row

_EVENT_COLUMNS = (
    "nid",
    "room_nid",
    "type_nid",
    "state_key_nid",
    "sender_nid",
    "event_id",
    "depth",
    "ts_ms",
    "state_before",
    "rejected_reason",
    "auth_rank",
    "state_after",
)
_INSERT_EVENTS = rows(events, *_EVENT_COLUMNS)
# What was an outlier has its row, and gets a place now.
_PLACE_EVENTS = rows(
    events, *_EVENT_COLUMNS, keys=("nid",), update=("state_before", "state_after", "rejected_reason")
)
_INSERT_JSON = rows(event_json, "nid", "json", ignore=True)
_INSERT_EDGES = rows(edges, "parent_id", "child_nid", ignore=True)
_INSERT_AUTH = rows(auth_edges, "child_nid", "parent_nid", ignore=True)
_INSERT_REDACTIONS = rows(redactions, "target_id", "by_nid", ignore=True)
_INSERT_TRANSACTIONS = rows(client_transactions, "device_nid", "room_nid", "txn_key", "event_nid", "ts_ms")
_INSERT_TIMELINE = rows(timeline, "room_nid", "pos", "event_nid", "mark")
_INSERT_STATE_LOG = rows(state_log, "room_nid", "pos", "state_key_nid", "event_nid", "prev_nid")
_INSERT_CURRENT = rows(
    current_state,
    "room_nid",
    "state_key_nid",
    "event_nid",
    keys=("room_nid", "state_key_nid"),
    update=("event_nid",),
)
_INSERT_GAPS = rows(gaps, "room_nid", "missing_id", "top", ignore=True)
# Within a transaction: the gap is below an event that has no position yet.
_UNPLACED = -1
_PLACE_GAPS = statement(
    update(gaps)
    .where(
        and_(
            gaps.c.room_nid == bindparam("of_room"),
            gaps.c.top == bindparam("unplaced"),
            any_of(gaps.c.missing_id, "ids"),
        )
    )
    .values(top=bindparam("at"))
)
_CLOSE_GAPS = statement(
    delete(gaps).where(and_(gaps.c.room_nid == bindparam("of_room"), any_of(gaps.c.missing_id, "ids")))
)
_INSERT_ENDS = rows(ends, "event_nid", ignore=True)
_INSERT_WAITING = rows(waiting_redactions, "target_id", "by_nid", ignore=True)
_END_WAITING = statement(delete(waiting_redactions).where(any_of(waiting_redactions.c.target_id, "ids")))
_REMOVE_CURRENT = statement(
    delete(current_state).where(
        and_(current_state.c.room_nid == bindparam("of_room"), any_of(current_state.c.state_key_nid, "keys"))
    )
)
_REMOVE_MEMBERS = statement(
    delete(members).where(
        and_(members.c.room_nid == bindparam("of_room"), any_of(members.c.user_nid, "users"))
    )
)
# From so many rows on one more round trip is worth it.
_MANY = 1_000


def write_events(tx: Tx, bundles: Sequence[Bundle]) -> list[Placement]:
    """Write all of the bundles that needs no position; returns in order the placements that are to get one.

    Raises ``Conflict`` where a room is not at the version that a bundle was built on, or a redaction waits for an event
    that a bundle took for unseen (that such an event is stored already, its unique id says).
    """
    move_heads(tx, bundles)
    placements = [placement for bundle in bundles for placement in bundle.placements]
    _write_rows(tx, placements)
    snapshots = [snapshot_row(one) for bundle in bundles for one in bundle.snapshots]
    tx.insert(INSERT_SNAPSHOTS, snapshots)
    tx.insert(_INSERT_ENDS, [(nid,) for bundle in bundles for nid in bundle.ends])
    if any(not placed.is_plain for placed in placements):
        _write_around(tx, placements)
        return [placed for placed in placements if placed.place is Place.TIMELINE]
    return placements


def _event_row(placed: Placement) -> tuple[object, ...]:
    event, before, after = placed.event, placed.state_before.nid, placed.state_after.nid
    outlier = placed.place is Place.OUTLIER
    return (
        placed.nid,
        placed.room_nid,
        placed.type_nid,
        placed.state_key_nid,
        placed.sender_nid,
        event.event_id,
        event.depth,
        event.origin_server_ts,
        None if outlier else before,
        placed.rejected,
        placed.auth_rank,
        None if outlier or after == before else after,
    )


def _write_rows(tx: Tx, placements: Sequence[Placement]) -> None:
    json_rows = []
    edge_rows = []
    auth_rows = []
    redaction_rows = []
    transaction_rows = []
    for placed in placements:
        event = placed.event
        json_rows.append((placed.nid, placed.json.decode()))
        for parent_id in event.prev_event_ids:
            edge_rows.append((parent_id, placed.nid))
        if placed.state_key_nid is not None:
            for auth_nid in placed.auth_nids:
                auth_rows.append((placed.nid, auth_nid))
        if placed.redacts_target is not None:
            redaction_rows.append((placed.redacts_target, placed.nid))
        if placed.transaction is not None:
            transaction_rows.append(
                (
                    placed.transaction.device_nid,
                    placed.room_nid,
                    placed.transaction.txn_key,
                    placed.nid,
                    placed.transaction.ts_ms,
                )
            )
    tx.insert(_INSERT_EVENTS, [_event_row(placed) for placed in placements if placed.is_new])
    tx.insert(_INSERT_JSON, json_rows)
    tx.insert(_INSERT_EDGES, edge_rows)
    tx.insert(_INSERT_AUTH, auth_rows)
    tx.insert(_INSERT_REDACTIONS, redaction_rows)
    tx.insert(_INSERT_TRANSACTIONS, transaction_rows)


def _write_around(tx: Tx, placements: Sequence[Placement]) -> None:
    """What only events from elsewhere need: their gaps, their place in the past, redactions that came too early."""
    tx.insert(_PLACE_EVENTS, [_event_row(placed) for placed in placements if not placed.is_new])
    placed_here = [one for one in placements if one.place is not Place.OUTLIER]
    history = [placed for placed in placements if placed.place is Place.HISTORY]
    tops = place_history(tx, history) if history else {}
    for room_nid in sorted({placed.room_nid for placed in placed_here}):
        of_room = [placed for placed in placed_here if placed.room_nid == room_nid]
        missing = [
            (room_nid, missing_id, _UNPLACED if placed.above_hole else tops.get(placed.nid, 0))
            for placed in of_room
            for missing_id in placed.missing
        ]
        tx.insert(_INSERT_GAPS, missing)
        tx.run(_CLOSE_GAPS, of_room=room_nid, ids=[placed.event.event_id for placed in of_room])
    early = [
        (placed.event.redacts, placed.nid)
        for placed in placed_here
        if placed.awaits_target and placed.event.redacts is not None
    ]
    tx.insert(_INSERT_WAITING, early)
    redacted = [placed for placed in placements if placed.redacted_by]
    if redacted:
        tx.insert(_INSERT_REDACTIONS, [(placed.event.event_id, placed.redacted_by) for placed in redacted])
        tx.run(_END_WAITING, ids=[placed.event.event_id for placed in redacted])
    if history:
        _write_history(tx, history)


def _write_history(tx: Tx, placements: Sequence[Placement]) -> None:
    """Backfilled events, which have their positions already."""
    tx.insert(_INSERT_TIMELINE, [_timeline_row(placed) for placed in placements])
    write_relations(tx, placements)
    targets = [one.redacts_target for one in placements if one.redacts_target is not None]
    queue_for_search(tx, [one.nid for one in placements if searched_type(one.type_nid)], targets)


def _timeline_row(placed: Placement) -> tuple[int, int, int, int]:
    return placed.room_nid, placed.pos, placed.nid, int(placed.mark)


def span_of(placements: Sequence[Placement]) -> int:
    """How many positions placements take, with those that stay free below them."""
    return len(placements) + HOLE * sum(placed.above_hole for placed in placements)


def write_positions(tx: Tx, placements: Sequence[Placement], first: int) -> None:
    """Give the placements the positions from ``first`` on and write the rows that carry them."""
    moves: list[tuple[int, int, StateMove]] = []
    pos = first
    for placed in placements:
        if placed.above_hole:
            pos += HOLE
            tx.run(_PLACE_GAPS, of_room=placed.room_nid, unplaced=_UNPLACED, ids=list(placed.missing), at=pos)
        placed.pos = pos
        for move in placed.moves:
            moves.append((placed.room_nid, pos, move))
        pos += 1
    tx.insert(_INSERT_TIMELINE, [_timeline_row(placed) for placed in placements])
    write_moves(tx, moves)
    write_relations(tx, placements)


def move_state(tx: WriteTx, room_nid: int, moves: tuple[StateMove, ...]) -> None:
    """The current state of a room moves, and no new event of its timeline is the reason."""

    def write(inner: Tx, pos: int) -> None:
        write_moves(inner, [(room_nid, pos, move) for move in moves])

    tx.claim(Kind.STATE_MOVED, room_nid, 0, write, StateMoved(moves))


def write_moves(tx: Tx, moves: Sequence[tuple[int, int, StateMove]]) -> None:
    """How current states moved, as (room nid, position, move), oldest first."""
    if not moves:
        return
    log_rows = []
    current: dict[tuple[int, int], int] = {}
    member_rows: dict[tuple[int, int], tuple[int, ...] | None] = {}
    returned: set[tuple[int, int]] = set()  # for whom the room was not over all the while
    for room_nid, pos, move in moves:
        log_rows.append((room_nid, pos, move.key_nid, move.event_nid, move.prev_nid))
        current[(room_nid, move.key_nid)] = move.event_nid
        if move.member_nid:
            row = (room_nid, move.member_nid, int(move.membership), move.event_nid, pos, 0, 0)
            member_rows[(room_nid, move.member_nid)] = row if move.event_nid else None
            if not move.event_nid or move.membership not in ENDED:
                returned.add((room_nid, move.member_nid))
    (tx.load if len(log_rows) >= _MANY else tx.insert)(_INSERT_STATE_LOG, log_rows)
    tx.insert(_INSERT_CURRENT, [(*key, nid) for key, nid in current.items() if nid])
    tx.insert(PUT_MEMBERS, [row for key, row in member_rows.items() if row is not None and key in returned])
    ended = [row for key, row in member_rows.items() if row is not None and key not in returned]
    tx.insert(PUT_ENDED, ended)
    gone = [key for key, nid in current.items() if not nid]
    for room_nid in sorted({room for room, _ in gone}):
        tx.run(_REMOVE_CURRENT, of_room=room_nid, keys=[key for room, key in gone if room == room_nid])
        users = [user for (room, user), row in member_rows.items() if room == room_nid and row is None]
        if users:
            active = find_active(tx, room_nid, users)
            tx.run(_REMOVE_MEMBERS, of_room=room_nid, users=users)
            last = {move.member_nid: pos for room, pos, move in moves if room == room_nid}
            put_vanished(tx, room_nid, {user: last[user] for user in users if user in active})
