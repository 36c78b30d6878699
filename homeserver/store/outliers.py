"""State events without a place, many at once: what a join brings. Written in the same tables as everything else.

Placing each of them as an event of its room (``commit.py``) is for those of which something is here already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import and_, func, select

from homeserver.db.schema.rooms import (
    auth_edges,
    edges,
    event_json,
    events,
    waiting_redactions,
)
from homeserver.db.statements import any_of, rows, statement
from homeserver.db.tx import Tx

_HERE = statement(
    select(
        events.c.event_id,
        events.c.nid,
        events.c.room_nid,
        events.c.rejected_reason,
        events.c.auth_rank,
        events.c.state_key_nid,
        event_json.c.json,
    )
    .select_from(events.join(event_json, event_json.c.nid == events.c.nid))
    .where(any_of(events.c.event_id, "ids"))
)
_WAITING = statement(
    select(waiting_redactions.c.target_id).where(any_of(waiting_redactions.c.target_id, "ids"))
)
_SOUND = statement(
    select(func.count())
    .select_from(events)
    .where(and_(any_of(events.c.nid, "nids"), events.c.rejected_reason.is_(None)))
)
_EVENTS = rows(
    events,
    "nid",
    "room_nid",
    "type_nid",
    "state_key_nid",
    "sender_nid",
    "event_id",
    "depth",
    "ts_ms",
    "auth_rank",
)
_JSON = rows(event_json, "nid", "json")
_EDGES = rows(edges, "parent_id", "child_nid")
_AUTH = rows(auth_edges, "child_nid", "parent_nid")


class Here(NamedTuple):
    """An event that has a row."""

    nid: int
    room_nid: int
    is_rejected: bool
    rank: int
    key_nid: int
    text: str


@dataclass(slots=True)
class OutlierRows:
    """What is inserted for some events, in the order of the tables' columns."""

    events: list[tuple[object, ...]] = field(default_factory=list)
    json: list[tuple[int, str]] = field(default_factory=list)
    edges: list[tuple[str, int]] = field(default_factory=list)
    auth: list[tuple[int, int]] = field(default_factory=list)


def find_here(tx: Tx, event_ids: Sequence[str]) -> tuple[dict[str, Here], set[str]]:
    """Those of some events that are here, of whatever room; and those for which a redaction waits."""
    ids = list(event_ids)
    found = {
        event_id: Here(nid, room_nid, reason is not None, rank or 0, key_nid or 0, text)
        for event_id, nid, room_nid, reason, rank, key_nid, text in tx.all(_HERE, ids=ids)
    }
    return found, set(tx.column(_WAITING, ids=ids))


def are_sound(tx: Tx, nids: Sequence[int]) -> bool:
    """Whether all of some events are here, and none of them is rejected."""
    return tx.value(_SOUND, nids=list(nids)) == len(nids)  # type: ignore[no-any-return]


def write_outliers(tx: Tx, new: OutlierRows) -> None:
    """Store events that are not here. They MUST have passed checks 1 to 4."""
    tx.load(_EVENTS, new.events)
    tx.load(_JSON, new.json)
    tx.load(_EDGES, new.edges)
    tx.load(_AUTH, new.auth)
