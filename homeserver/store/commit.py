"""The one writer of room history: bundles of placed events into the tables, many rooms in one transaction.

Order within the transaction (architecture, section 6): names, then everything without a position, then the
positions, then the rows that carry them, then the changes. One statement per table, whatever the number of events.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import select

from homeserver.db.errors import Conflict
from homeserver.db.schema.rooms import (
    auth_edges,
    client_transactions,
    current_state,
    edges,
    event_json,
    events,
    members,
    redactions,
    room_heads,
    state_log,
    timeline,
)
from homeserver.db.statements import any_of, rows, statement
from homeserver.db.tx import Tx
from homeserver.store.placement import MEMBERSHIPS, Bundle, Membership, Placement
from homeserver.store.relations import write_relations
from homeserver.store.state import INSERT_SNAPSHOTS, Snapshot, snapshot_row

_HEADS = statement(
    select(room_heads.c.room_nid, room_heads.c.version)
    .where(any_of(room_heads.c.room_nid, "room_nids"))
    .with_for_update()
)
_INSERT_HEADS = rows(
    room_heads,
    "room_nid",
    "version",
    "snapshot_nid",
    "depth",
    "extremities",
    keys=("room_nid",),
    update=("version", "snapshot_nid", "depth", "extremities"),
)
_INSERT_EVENTS = rows(
    events,
    "nid",
    "room_nid",
    "type_nid",
    "state_key_nid",
    "sender_nid",
    "event_id",
    "depth",
    "ts_ms",
    "state_before",
    "auth_rank",
)
_INSERT_JSON = rows(event_json, "nid", "json")
_INSERT_EDGES = rows(edges, "parent_id", "child_nid", ignore=True)
_INSERT_AUTH = rows(auth_edges, "child_nid", "parent_nid", ignore=True)
_INSERT_REDACTIONS = rows(redactions, "target_id", "by_nid", ignore=True)
_INSERT_TRANSACTIONS = rows(client_transactions, "device_nid", "room_nid", "txn_key", "event_nid", "ts_ms")
_INSERT_TIMELINE = rows(timeline, "room_nid", "pos", "event_nid")
_INSERT_STATE_LOG = rows(state_log, "room_nid", "pos", "state_key_nid", "event_nid", "prev_nid")
_INSERT_CURRENT = rows(
    current_state,
    "room_nid",
    "state_key_nid",
    "event_nid",
    keys=("room_nid", "state_key_nid"),
    update=("event_nid",),
)
_INSERT_MEMBERS = rows(
    members,
    "room_nid",
    "user_nid",
    "membership",
    "event_nid",
    "pos",
    "forgotten",
    keys=("room_nid", "user_nid"),
    update=("membership", "event_nid", "pos", "forgotten"),
)
_encode = msgspec.json.Encoder().encode


def write_events(tx: Tx, bundles: Sequence[Bundle]) -> list[Placement]:
    """Write all of the bundles that needs no position; returns their placements in order.

    Raises ``Conflict`` where a room is not at the version that a bundle was built on.
    """
    _check_versions(tx, bundles)
    placements = [placement for bundle in bundles for placement in bundle.placements]
    _write_rows(tx, placements)
    heads = {bundle.room_nid: bundle.head for bundle in bundles}
    tx.insert(
        _INSERT_HEADS,
        [
            (
                head.room_nid,
                head.version,
                head.snapshot.nid,
                head.depth,
                _encode([nid for nid, _ in head.extremities]).decode(),
            )
            for head in heads.values()
        ],
    )
    return placements


def _check_versions(tx: Tx, bundles: Sequence[Bundle]) -> None:
    stored: dict[int, int] = dict(tx.all(_HEADS, room_nids=sorted({bundle.room_nid for bundle in bundles})))
    for bundle in bundles:
        if stored.get(bundle.room_nid, 0) != bundle.expected_version:
            raise Conflict(f"room {bundle.room_nid} is not at version {bundle.expected_version}")
        stored[bundle.room_nid] = bundle.head.version


def _write_rows(tx: Tx, placements: Sequence[Placement]) -> None:
    event_rows = []
    json_rows = []
    edge_rows = []
    auth_rows = []
    redaction_rows = []
    transaction_rows = []
    new_snapshots: dict[int, Snapshot] = {}
    for placed in placements:
        event = placed.event
        event_rows.append(
            (
                placed.nid,
                placed.room_nid,
                placed.type_nid,
                placed.state_key_nid,
                placed.sender_nid,
                event.event_id,
                event.depth,
                event.origin_server_ts,
                placed.state_before.nid,
                placed.auth_rank,
            )
        )
        json_rows.append((placed.nid, placed.json.decode()))
        for parent_id in event.prev_event_ids:
            edge_rows.append((parent_id, placed.nid))
        if placed.state_key_nid is not None:
            for auth_nid in placed.auth_nids:
                auth_rows.append((placed.nid, auth_nid))
            if placed.state_after.nid != placed.state_before.nid:
                new_snapshots[placed.state_after.nid] = placed.state_after
        if placed.redacts_target is not None:
            redaction_rows.append((placed.redacts_target, placed.nid))
        if placed.transaction is not None:
            transaction_rows.append(
                (
                    placed.transaction.device_nid,
                    placed.room_nid,
                    placed.transaction.txn_key,
                    placed.nid,
                    event.origin_server_ts,
                )
            )
    tx.insert(_INSERT_EVENTS, event_rows)
    tx.insert(_INSERT_JSON, json_rows)
    tx.insert(_INSERT_EDGES, edge_rows)
    tx.insert(_INSERT_AUTH, auth_rows)
    tx.insert(INSERT_SNAPSHOTS, [snapshot_row(one) for one in new_snapshots.values()])
    tx.insert(_INSERT_REDACTIONS, redaction_rows)
    tx.insert(_INSERT_TRANSACTIONS, transaction_rows)


def write_positions(tx: Tx, placements: Sequence[Placement], first: int) -> None:
    """Give the placements the positions from ``first`` on and write the rows that carry them."""
    log_rows = []
    current_rows: dict[tuple[int, int], tuple[int, int, int]] = {}
    member_rows: dict[tuple[int, int], tuple[int, int, int, int, int, int]] = {}
    for pos, placed in enumerate(placements, first):
        placed.pos = pos
        key = placed.state_key_nid
        if key is None:
            continue
        log_rows.append((placed.room_nid, pos, key, placed.nid, placed.prev_nid))
        current_rows[(placed.room_nid, key)] = (placed.room_nid, key, placed.nid)
        if placed.member_nid:
            membership = membership_of(placed)
            row = (placed.room_nid, placed.member_nid, int(membership), placed.nid, pos, 0)
            member_rows[(placed.room_nid, placed.member_nid)] = row
    tx.insert(_INSERT_TIMELINE, [(placed.room_nid, placed.pos, placed.nid) for placed in placements])
    tx.insert(_INSERT_STATE_LOG, log_rows)
    tx.insert(_INSERT_CURRENT, list(current_rows.values()))
    tx.insert(_INSERT_MEMBERS, list(member_rows.values()))
    write_relations(tx, placements)


def membership_of(placed: Placement) -> Membership:
    """What a placed membership event makes of its user."""
    return MEMBERSHIPS[placed.event.content["membership"]]
