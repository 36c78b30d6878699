"""Read receipts: who has read how far, for a room as a whole, its main timeline or one of its threads.

A receipt never moves back: of one user, kind and thread only the one whose event stands last in our order is kept.
The fully read marker is account data of the room and moves by the same rule.

# spec: client-server-api#receipts
# spec: client-server-api#fully-read-markers
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
from sqlalchemy import and_, bindparam, select, update

from federation.event import Event
from homeserver.db.schema.accounts import receipts
from homeserver.db.schema.rooms import events, timeline, user_ids
from homeserver.db.statements import any_of, rows, statement
from homeserver.db.tx import Tx, WriteTx
from homeserver.store.account_data import FULLY_READ, load_account_data, put_account_data
from homeserver.store.changes import Kind
from homeserver.store.events import find_row, load_redacting
from homeserver.store.parsed import EventCache, load_events
from homeserver.store.relation import relation_of
from homeserver.store.work import short

READ = 0
PRIVATE = 1
KINDS: Mapping[str, int] = {"m.read": READ, "m.read.private": PRIVATE}
MAIN = "main"
UNTHREADED = ""
# spec: client-server-api#threaded-read-receipts ("a maximum of 3 hops is recommended")
HOPS = 3

_R = receipts.c
_PUT = rows(
    receipts,
    "room_nid",
    "user_nid",
    "kind",
    "thread",
    "event_nid",
    "ts_ms",
    "pos",
    keys=("room_nid", "user_nid", "kind", "thread"),
    update=("event_nid", "ts_ms", "pos"),
)
_SET_POS = statement(
    update(receipts)
    .where(
        and_(
            _R.room_nid == bindparam("in_room"),
            _R.user_nid == bindparam("of_user"),
            _R.kind == bindparam("of_kind"),
            _R.thread == bindparam("of_thread"),
        )
    )
    .values(pos=bindparam("new_pos"))
)
_KNOWN = statement(
    select(timeline.c.pos)
    .select_from(receipts.join(timeline, timeline.c.event_nid == _R.event_nid))
    .where(
        and_(
            _R.room_nid == bindparam("room_nid"),
            _R.user_nid == bindparam("user_nid"),
            _R.kind == bindparam("kind"),
            _R.thread == bindparam("thread"),
        )
    )
)
# The fields of a ``ReceiptChange``, and where they come from.
CHANGE_COLUMNS = (
    _R.room_nid,
    user_ids.c.user_id,
    _R.user_nid,
    _R.kind,
    _R.thread,
    events.c.event_id,
    _R.ts_ms,
    _R.event_nid,
)
CHANGE_ROWS = receipts.join(user_ids, user_ids.c.nid == _R.user_nid).join(
    events, events.c.nid == _R.event_nid
)
_SINCE = statement(
    select(*CHANGE_COLUMNS)
    .select_from(CHANGE_ROWS)
    .where(and_(any_of(_R.room_nid, "room_nids"), _R.pos > bindparam("since"), _R.pos <= bindparam("upto")))
    .order_by(_R.room_nid, _R.pos)
)
_OF_USER = statement(
    select(_R.room_nid, _R.thread, timeline.c.pos)
    .select_from(receipts.join(timeline, timeline.c.event_nid == _R.event_nid))
    .where(and_(any_of(_R.room_nid, "room_nids"), _R.user_nid == bindparam("user_nid")))
)
_PLACE_OF_ID = statement(
    select(timeline.c.pos)
    .select_from(events.join(timeline, timeline.c.event_nid == events.c.nid))
    .where(and_(events.c.event_id == bindparam("event_id"), events.c.room_nid == bindparam("room_nid")))
)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class ReceiptChange:
    """A receipt, and the payload of ``Kind.RECEIPT``."""

    room_nid: int
    user_id: str
    user_nid: int
    kind: int  # READ or PRIVATE
    thread: str  # UNTHREADED, MAIN or the event id of a thread's root
    event_id: str
    ts_ms: int
    event_nid: int = 0
    event_pos: int = 0  # where the event stands; 0 where this was loaded for telling clients


class Mark(NamedTuple):
    """How far a user has read, by one of their receipts."""

    room_nid: int
    thread: str
    pos: int


@dataclass(frozen=True, slots=True)
class Target:
    """An event that a receipt or a marker is set at."""

    event_id: str
    nid: int
    pos: int
    thread: str  # the thread that it is in: MAIN or a root's event id
    related: frozenset[str]  # it and what it relates to, a few steps up
    loose: bool = (
        False  # a redaction took it out of its thread: to who sees it now it is of the main timeline
    )


# --- reading ---------------------------------------------------------------------------------------------------


def load_receipts(tx: Tx, room_nids: Collection[int], since: int, upto: int) -> list[ReceiptChange]:
    """The receipts of rooms that changed in ``(since, upto]``, by room, in that order; private ones included."""
    found = tx.all(_SINCE, room_nids=list(room_nids), since=since, upto=upto)
    return [ReceiptChange(*row) for row in found]


def load_marks(tx: Tx, user_nid: int, room_nids: Collection[int]) -> list[Mark]:
    """How far a user has read in some rooms, by every receipt of theirs."""
    return [Mark(*row) for row in tx.all(_OF_USER, user_nid=user_nid, room_nids=list(room_nids))]


def find_target(tx: Tx, room_nid: int, event_id: str, cache: EventCache) -> Target | None:
    """An event of a room's timeline; None where the room's timeline has no such event."""
    row = find_row(tx, event_id)
    if row is None or row.room_nid != room_nid or row.pos is None:
        return None
    event = load_events(tx, [row.nid], cache)[row.nid]
    thread, related = find_thread(tx, event, room_nid, cache)
    loose = thread != MAIN and bool(load_redacting(tx, related - {thread}))
    return Target(event_id, row.nid, row.pos, thread, related, loose)


def find_targets(tx: Tx, room_nid: int, event_ids: Collection[str], cache: EventCache) -> dict[str, Target]:
    """Several of them; those that the room's timeline does not have are absent."""
    found = ((event_id, find_target(tx, room_nid, event_id, cache)) for event_id in event_ids)
    return {event_id: target for event_id, target in found if target is not None}


def fits_thread(target: Target, thread: str) -> bool:
    """Whether a receipt of a thread may stand at an event."""
    if thread in (UNTHREADED, target.thread):
        return True
    if thread == MAIN:
        # spec: client-server-api#aggregations-of-child-events ("the relationship is broken"); who has not heard of the
        # redaction yet may still name the thread.
        return target.loose
    # COMPAT(clients that open a thread without replies, always): its root, which is of the main timeline, and what
    # relates to the root may carry the thread's receipt as well.
    return thread in target.related


def find_thread(tx: Tx, event: Event, room_nid: int, cache: EventCache) -> tuple[str, frozenset[str]]:
    """The thread that an event is in (MAIN or its root), and the event ids on the way to that answer."""
    # spec: client-server-api#threaded-read-receipts
    related = {str(event.event_id)}
    for hop in range(HOPS + 1):
        # State is in no thread, whatever it says: clients show it in the main timeline.
        relation = relation_of(event.content) if event.state_key is None else None
        if relation is None:
            break
        rel_type, parent_id = relation
        if rel_type == "m.thread":
            return parent_id, frozenset({*related, parent_id})
        if hop == HOPS or parent_id in related:
            break
        row = find_row(tx, parent_id)
        if row is None or row.room_nid != room_nid:
            break
        related.add(parent_id)
        event = load_events(tx, [row.nid], cache)[row.nid]
    return MAIN, frozenset(related)


# --- writing ---------------------------------------------------------------------------------------------------


@short
def put_markers(
    tx: WriteTx, user_nid: int, room_nid: int, changes: Sequence[ReceiptChange], fully_read: Target | None
) -> None:
    """A unit of work: set receipts and the fully read marker together."""
    for change in changes:
        put_receipt(tx, change)
    if fully_read is not None:
        put_fully_read(tx, user_nid, room_nid, fully_read)


def put_receipt(tx: WriteTx, change: ReceiptChange) -> bool:
    """Keep a receipt; False where the user's receipt is there or further on already."""
    room_nid, user_nid, kind, thread = change.room_nid, change.user_nid, change.kind, change.thread
    known = tx.value(_KNOWN, room_nid=room_nid, user_nid=user_nid, kind=kind, thread=thread)
    if known is not None and known >= change.event_pos:
        return False
    # At once, so that a later unit of the same transaction sees it; the position comes at the transaction's end.
    tx.insert(_PUT, [(room_nid, user_nid, kind, thread, change.event_nid, change.ts_ms, 0)])

    def write(tx: Tx, pos: int) -> None:
        tx.run(_SET_POS, in_room=room_nid, of_user=user_nid, of_kind=kind, of_thread=thread, new_pos=pos)

    tx.claim(Kind.RECEIPT, room_nid, user_nid, write, change)
    return True


def put_fully_read(tx: WriteTx, user_nid: int, room_nid: int, target: Target) -> bool:
    """Move the fully read marker; False where it is there or further on already."""
    content = load_account_data(tx, user_nid, room_nid, FULLY_READ)
    if content is not None:
        known = tx.value(_PLACE_OF_ID, event_id=_decode(content)["event_id"], room_nid=room_nid)
        if known is not None and known >= target.pos:
            return False
    put_account_data(tx, user_nid, room_nid, FULLY_READ, _encode({"event_id": target.event_id}).decode())
    return True
