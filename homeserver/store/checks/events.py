"""Invariants of single events: the text says what the row says, and hashes to the id.

# spec: server-server-api#calculating-the-reference-hash-for-an-event
# spec: server-server-api#calculating-the-content-hash-for-an-event
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from sqlalchemy import and_, bindparam, func, select

from federation.errors import Malformed
from federation.event import Event, parse_stored, stored_bytes
from federation.hashes import check_content_hash, compute_event_id
from federation.ids import EventId
from federation.redaction import redact
from federation.versions import ROOM_VERSIONS
from homeserver.db.schema.rooms import (
    auth_edges,
    edges,
    event_json,
    event_types,
    events,
    rooms,
    state_keys,
    user_ids,
)
from homeserver.db.statements import any_of, statement
from homeserver.db.tx import Row, Tx
from homeserver.store.ids import true_name

_AT_ONCE = 500
_AFTER: Any = bindparam("after")
_COUNT = statement(select(func.count()).select_from(events))
_NIDS = statement(
    select(events.c.nid)
    .where(and_(events.c.nid > _AFTER, events.c.nid % bindparam("stride") == 0))
    .order_by(events.c.nid)
    .limit(_AT_ONCE)
)
_ROWS = statement(
    select(
        events.c.nid,
        events.c.event_id,
        rooms.c.room_id,
        rooms.c.version,
        event_types.c.type,
        user_ids.c.user_id,
        state_keys.c.state_key,
        events.c.depth,
        events.c.ts_ms,
        event_json.c.json,
    )
    .select_from(
        events.join(event_json, event_json.c.nid == events.c.nid)
        .join(rooms, rooms.c.nid == events.c.room_nid)
        .join(event_types, event_types.c.nid == events.c.type_nid)
        .join(user_ids, user_ids.c.nid == events.c.sender_nid)
        .outerjoin(state_keys, state_keys.c.nid == events.c.state_key_nid)
    )
    .where(any_of(events.c.nid, "nids"))
)
_EDGES = statement(select(edges.c.child_nid, edges.c.parent_id).where(any_of(edges.c.child_nid, "nids")))
_AUTH = statement(
    select(auth_edges.c.child_nid, events.c.event_id)
    .select_from(auth_edges.join(events, events.c.nid == auth_edges.c.parent_nid))
    .where(any_of(auth_edges.c.child_nid, "nids"))
)
_KNOWN = statement(
    select(events.c.event_id, rooms.c.room_id)
    .select_from(events.join(rooms, rooms.c.nid == events.c.room_nid))
    .where(and_(any_of(events.c.event_id, "ids"), events.c.state_key_nid.is_not(None)))
)


def event_problems(tx: Tx, most: int) -> Iterator[str]:
    """Of every event, or of about ``most`` of them where there are more (the same ones each time)."""
    stride = max(1, int(tx.value(_COUNT)) // most)
    after = -1
    while nids := tx.column(_NIDS, after=after, stride=stride):
        after = nids[-1]
        yield from _of_events(tx, nids)


def _of_events(tx: Tx, nids: list[int]) -> Iterator[str]:
    parents: dict[int, set[str]] = {nid: set() for nid in nids}
    for nid, parent_id in tx.all(_EDGES, nids=nids):
        parents[nid].add(parent_id)
    cited: dict[int, set[str]] = {nid: set() for nid in nids}
    for nid, parent_id in tx.all(_AUTH, nids=nids):
        cited[nid].add(parent_id)
    wanted: dict[int, set[tuple[str, str]]] = {}
    for row in tx.all(_ROWS, nids=nids):
        rules = ROOM_VERSIONS.get(row[3])
        if rules is None:
            yield f"event {row[1]}: its room has the unknown version {row[3]}"
            continue
        try:
            event = parse_stored(EventId(row[1]), row[9].encode(), rules)
            wrong = list(_differences(event, row))
        except (msgspec.DecodeError, Malformed, LookupError, TypeError, ValueError) as error:
            yield f"event {row[1]}: it cannot be read: {error}"
            continue
        if set(event.prev_event_ids) != parents[row[0]]:
            wrong.append("its edges are not its prev_events")
        if event.is_state():
            wanted[row[0]] = {(one, event.room_id) for one in event.auth_event_ids}
        for one in wrong:
            yield f"event {row[1]}: {one}"
    ids = sorted({event_id for named in wanted.values() for event_id, _ in named})
    known = {(row[0], row[1]) for row in tx.all(_KNOWN, ids=ids)}
    for nid, named in wanted.items():
        if {event_id for event_id, _ in named & known} != cited[nid]:
            yield f"event {nid}: its authorisation edges are not its auth_events"


def _differences(event: Event, row: Row) -> Iterator[str]:
    _, event_id, room_id, _, event_type, sender, state_key, depth, ts_ms, text = row
    told = (event.room_id, event.type, event.sender, event.state_key, event.depth, event.origin_server_ts)
    named = (true_name(event_type), sender, None if state_key is None else true_name(state_key))
    if told != (room_id, *named, depth, ts_ms):
        yield "its row and its text do not say the same"
    if compute_event_id(event.json, event.rules) != event_id:
        yield "its id is not its hash"
    # What came with a wrong hash is kept redacted, and what was redacted no longer has its content's hash.
    if not check_content_hash(event.json, event.rules) and redact(event.json, event.rules) != event.json:
        yield "its content hash is wrong"
    if stored_bytes(event) != text.encode():
        yield "its text is not canonical"
