"""Event rows and their JSON; where an event stands; which events were redacted by what."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import and_, bindparam, select

from homeserver.db.schema.rooms import (
    client_transactions,
    event_json,
    events,
    redactions,
    room_heads,
    rooms,
    timeline,
)
from homeserver.db.statements import any_of, statement, to_utf8, utf8
from homeserver.db.tx import Tx


class EventRow(NamedTuple):
    """What is known of an event without its text."""

    nid: int
    event_id: str
    room_nid: int
    type_nid: int
    state_key_nid: int | None
    sender_nid: int
    depth: int
    ts_ms: int
    state_before: int | None
    rejected_reason: str | None
    pos: int | None  # None: not in the timeline
    state_after: int | None  # None: as before


_COLUMNS = (
    events.c.nid,
    events.c.event_id,
    events.c.room_nid,
    events.c.type_nid,
    events.c.state_key_nid,
    events.c.sender_nid,
    events.c.depth,
    events.c.ts_ms,
    events.c.state_before,
    events.c.rejected_reason,
    timeline.c.pos,
    events.c.state_after,
)
_ROWS = select(*_COLUMNS).select_from(events.outerjoin(timeline, timeline.c.event_nid == events.c.nid))
_BY_NID = statement(_ROWS.where(any_of(events.c.nid, "nids")))
_BY_ID = statement(_ROWS.where(any_of(events.c.event_id, "ids")))
_JSON = statement(
    select(events.c.nid, events.c.event_id, rooms.c.version, utf8(event_json.c.json))
    .select_from(
        events.join(event_json, event_json.c.nid == events.c.nid).join(
            rooms, rooms.c.nid == events.c.room_nid
        )
    )
    .where(any_of(events.c.nid, "nids"))
)
_RANKS = statement(select(events.c.nid, events.c.auth_rank).where(any_of(events.c.nid, "nids")))
_REDACTED_BY = statement(
    select(events.c.nid, redactions.c.by_nid)
    .select_from(events.join(redactions, redactions.c.target_id == events.c.event_id))
    .where(any_of(events.c.nid, "nids"))
)
_REDACTS = statement(
    select(redactions.c.by_nid, redactions.c.target_id).where(any_of(redactions.c.target_id, "ids"))
)
_HEAD = statement(
    select(
        room_heads.c.version, room_heads.c.snapshot_nid, room_heads.c.depth, room_heads.c.extremities
    ).where(room_heads.c.room_nid == bindparam("room_nid"))
)
_TRANSACTIONS = statement(
    select(client_transactions.c.room_nid, client_transactions.c.txn_key, events.c.nid, events.c.event_id)
    .select_from(client_transactions.join(events, events.c.nid == client_transactions.c.event_nid))
    .where(client_transactions.c.device_nid == bindparam("device_nid"))
    .order_by(client_transactions.c.ts_ms.desc())
    .limit(bindparam("most"))
)
_TRANSACTION = statement(
    select(events.c.event_id)
    .select_from(client_transactions.join(events, events.c.nid == client_transactions.c.event_nid))
    .where(
        and_(
            client_transactions.c.device_nid == bindparam("device_nid"),
            client_transactions.c.room_nid == bindparam("room_nid"),
            client_transactions.c.txn_key == bindparam("txn_key"),
        )
    )
)


class StoredJson(NamedTuple):
    """An event's stored text, as UTF-8, and what is needed to parse it."""

    nid: int
    event_id: str
    version: str
    json: bytes


def load_rows(tx: Tx, nids: Collection[int]) -> dict[int, EventRow]:
    """Event rows by nid; unknown ones are absent."""
    return {row[0]: EventRow(*row) for row in tx.all(_BY_NID, nids=list(nids))}


def find_rows(tx: Tx, event_ids: Collection[str]) -> dict[str, EventRow]:
    """Event rows by event id; unknown ones are absent."""
    return {row[1]: EventRow(*row) for row in tx.all(_BY_ID, ids=list(event_ids))}


def find_row(tx: Tx, event_id: str) -> EventRow | None:
    """One event row by event id."""
    return find_rows(tx, [event_id]).get(event_id)


def load_json(tx: Tx, nids: Collection[int]) -> list[StoredJson]:
    """The stored texts of events, in no particular order."""
    return [
        StoredJson(nid, event_id, version, to_utf8(json))
        for nid, event_id, version, json in tx.all(_JSON, nids=list(nids))
    ]


def load_redactions(tx: Tx, nids: Sequence[int]) -> dict[int, int]:
    """Which of these events are redacted: event nid -> nid of the redaction."""
    redacted: dict[int, int] = dict(tx.all(_REDACTED_BY, nids=list(nids)))
    return redacted


def load_redacting(tx: Tx, event_ids: Collection[str]) -> dict[int, str]:
    """Which redactions took effect on some events: nid of the redaction -> event id."""
    targets: dict[int, str] = dict(tx.all(_REDACTS, ids=list(event_ids)))
    return targets


class _Membership(msgspec.Struct):
    membership: Any = None


class _Member(msgspec.Struct):
    content: _Membership


_decode_member = msgspec.json.Decoder(_Member).decode


def load_memberships(tx: Tx, nids: Collection[int]) -> dict[int, str]:
    """What membership events say, by nid: the word, "" where that is none."""
    found: dict[int, str] = {}
    for row in load_json(tx, nids) if nids else ():
        word = _decode_member(row.json).content.membership
        found[row.nid] = word if isinstance(word, str) else ""
    return found


def load_ranks(tx: Tx, nids: Collection[int]) -> dict[int, int]:
    """The ranks of state events in the auth graph."""
    return {nid: rank for nid, rank in tx.all(_RANKS, nids=list(nids)) if rank is not None}


class HeadRow(NamedTuple):
    """A row of ``room_heads``."""

    version: int
    snapshot_nid: int
    depth: int
    extremities: str  # JSON list of event nids


def load_head(tx: Tx, room_nid: int) -> HeadRow | None:
    """Where a room is, or None where nothing is stored of it."""
    row = tx.one(_HEAD, room_nid=room_nid)
    return HeadRow(*row) if row is not None else None


def load_transactions(tx: Tx, device_nid: int, most: int) -> list[tuple[int, str, int, str]]:
    """A device's newest transactions: (room nid, key, event nid, event id)."""
    return [
        (row[0], row[1], row[2], row[3]) for row in tx.all(_TRANSACTIONS, device_nid=device_nid, most=most)
    ]


def find_transaction(tx: Tx, device_nid: int, room_nid: int, txn_key: str) -> str | None:
    """The event that a device sent under a transaction id."""
    found: str | None = tx.value(_TRANSACTION, device_nid=device_nid, room_nid=room_nid, txn_key=txn_key)
    return found
