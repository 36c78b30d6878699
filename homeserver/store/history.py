"""A room's history, row by row: where events stand, what they were sent on, and through which redaction they are seen.

# spec: client-server-api#getting-events-for-a-room
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from sqlalchemy import and_, bindparam, exists, func, literal_column, select

from homeserver.db.schema.relations import relations
from homeserver.db.schema.rooms import current_state, events, gaps, redactions, state_keys, timeline
from homeserver.db.schema.start import WELL_KNOWN_TYPES
from homeserver.db.statements import any_of, statement
from homeserver.db.tx import Row, Tx
from homeserver.store.past import IS_TOLD
from homeserver.store.state import BaseCache, load_snapshot

_MEMBER_TYPE = WELL_KNOWN_TYPES["m.room.member"]
# Before and after every position that there can be (and tokens carry at most 18 digits).
BEGINNING = -(10**18 - 1)
END = 10**18 - 1


_FLOOR = statement(
    select(timeline.c.pos)
    .where(and_(timeline.c.room_nid == bindparam("room_nid"), timeline.c.pos <= bindparam("high")))
    .order_by(timeline.c.pos.desc())
    .limit(1)
    .offset(bindparam("skip"))
)


class HistoryRow(NamedTuple):
    """One event of a room."""

    pos: int | None  # None: in no timeline
    nid: int
    state_key_nid: int  # 0: not a state event
    state_before: int | None  # None: an event without known state
    redacted_by: int  # nid of the redaction, or 0
    related: bool = True  # False: nothing relates to it
    # Where history of the room is missing: the highest ``gaps.top`` (0: below everything), or -1; None: not looked for.
    gap_top: int | None = None


_COLUMNS = (
    timeline.c.pos,
    events.c.nid,
    func.coalesce(events.c.state_key_nid, literal_column("0")),
    events.c.state_before,
    func.coalesce(redactions.c.by_nid, literal_column("0")),
)
_FROM_TIMELINE = timeline.join(events, events.c.nid == timeline.c.event_nid).outerjoin(
    redactions, redactions.c.target_id == events.c.event_id
)
_IN_SPAN = and_(
    timeline.c.room_nid == bindparam("room_nid"),
    timeline.c.pos > bindparam("low"),
    timeline.c.pos <= bindparam("high"),
    IS_TOLD,
)
# Beside the row, so that a page to which nothing relates, or that ends where the room begins, is one statement.
_RELATED = (
    exists()
    .where(and_(relations.c.target_id == events.c.event_id, relations.c.room_nid == events.c.room_nid))
    .label("related")
)
_GAP_TOP = func.coalesce(
    select(func.max(gaps.c.top)).where(gaps.c.room_nid == bindparam("room_nid")).scalar_subquery(),
    literal_column("-1"),
).label("gap_top")
_SPAN = (
    select(*_COLUMNS, _RELATED, _GAP_TOP).select_from(_FROM_TIMELINE).where(_IN_SPAN).limit(bindparam("most"))
)
_FORWARDS = statement(_SPAN.order_by(timeline.c.pos))
_BACKWARDS = statement(_SPAN.order_by(timeline.c.pos.desc()))
_ROWS = select(*_COLUMNS).select_from(
    events.outerjoin(timeline, timeline.c.event_nid == events.c.nid).outerjoin(
        redactions, redactions.c.target_id == events.c.event_id
    )
)
_BY_NID = statement(_ROWS.where(any_of(events.c.nid, "nids")))
_BY_ID = statement(
    _ROWS.where(and_(events.c.event_id == bindparam("event_id"), events.c.room_nid == bindparam("room_nid")))
)
_BY_TIME = (
    select(*_COLUMNS, events.c.event_id, events.c.ts_ms)
    .select_from(
        events.join(timeline, timeline.c.event_nid == events.c.nid).outerjoin(
            redactions, redactions.c.target_id == events.c.event_id
        )
    )
    .where(and_(events.c.room_nid == bindparam("room_nid"), timeline.c.pos <= bindparam("upto"), IS_TOLD))
    .limit(bindparam("most"))
    .offset(bindparam("skip"))
)
_AT_OR_AFTER = statement(
    _BY_TIME.where(events.c.ts_ms >= bindparam("ts_ms")).order_by(events.c.ts_ms, timeline.c.pos)
)
_AT_OR_BEFORE = statement(
    _BY_TIME.where(events.c.ts_ms <= bindparam("ts_ms")).order_by(
        events.c.ts_ms.desc(), timeline.c.pos.desc()
    )
)
_MEMBER_KEYS = statement(
    select(state_keys.c.nid, state_keys.c.state_key).where(
        and_(state_keys.c.type_nid == _MEMBER_TYPE, any_of(state_keys.c.state_key, "user_ids"))
    )
)
_CURRENT_MEMBERS = statement(
    select(current_state.c.state_key_nid, current_state.c.event_nid)
    .select_from(current_state.join(state_keys, state_keys.c.nid == current_state.c.state_key_nid))
    .where(and_(current_state.c.room_nid == bindparam("room_nid"), state_keys.c.type_nid == _MEMBER_TYPE))
)
# The type is compared afterwards: SQLite would else walk through the members of every room.
_TYPES_OF_KEYS = statement(
    select(state_keys.c.nid, state_keys.c.type_nid).where(any_of(state_keys.c.nid, "nids"))
)


def _row(row: Row) -> HistoryRow:
    return HistoryRow(*row[:5])


def load_span(
    tx: Tx, room_nid: int, low: int, high: int, most: int, *, backwards: bool = False
) -> list[HistoryRow]:
    """At most ``most`` events of a room in ``(low, high]``: the oldest first, or with ``backwards`` the newest."""
    found = tx.all(_BACKWARDS if backwards else _FORWARDS, room_nid=room_nid, low=low, high=high, most=most)
    return list(map(HistoryRow._make, found))


def load_history_rows(tx: Tx, nids: Collection[int]) -> dict[int, HistoryRow]:
    """Rows by event nid; unknown ones are absent."""
    return {row[1]: _row(row) for row in tx.all(_BY_NID, nids=list(nids))}


def find_history_row(tx: Tx, room_nid: int, event_id: str) -> HistoryRow | None:
    """The row of one event of a room."""
    row = tx.one(_BY_ID, room_nid=room_nid, event_id=event_id)
    return _row(row) if row is not None else None


class TimedRow(NamedTuple):
    """An event and its moment, as its server told it."""

    row: HistoryRow
    event_id: str
    ts_ms: int


def load_nearest(
    tx: Tx, room_nid: int, ts_ms: int, upto: int, most: int, skip: int, *, backwards: bool
) -> list[TimedRow]:
    """Events of a room's timeline at or after a moment (with ``backwards``: at or before it), the nearest first."""
    query = _AT_OR_BEFORE if backwards else _AT_OR_AFTER
    found = tx.all(query, room_nid=room_nid, ts_ms=ts_ms, upto=upto, most=most, skip=skip)
    return [TimedRow(_row(row), row[5], row[6]) for row in found]


def find_member_keys(tx: Tx, user_ids: Collection[str]) -> dict[str, int]:
    """The state key nids of users' membership events."""
    return {user_id: nid for nid, user_id in tx.all(_MEMBER_KEYS, user_ids=list(user_ids))}


def load_current_members(tx: Tx, room_nid: int) -> dict[int, int]:
    """The membership events in force: state key nid -> event nid."""
    return dict(tx.all(_CURRENT_MEMBERS, room_nid=room_nid))


def members_among(tx: Tx, key_nids: Collection[int]) -> set[int]:
    """Which of these state keys are of membership events."""
    found = tx.all(_TYPES_OF_KEYS, nids=list(key_nids))
    return {nid for nid, type_nid in found if type_nid == _MEMBER_TYPE}


def state_after(tx: Tx, rows: Sequence[HistoryRow], bases: BaseCache) -> dict[int, int]:
    """The whole state after the newest of some rows: state key nid -> event nid."""
    newest = max(rows, key=lambda row: END if row.pos is None else row.pos)
    state = load_snapshot(tx, newest.state_before or 0, bases).as_dict()
    if newest.state_key_nid:
        state[newest.state_key_nid] = newest.nid
    return state


def find_floor(tx: Tx, room_nid: int, high: int, most: int) -> int | None:
    """The place below the ``most`` newest events at or below one, for who goes through a timeline in pieces; None: there
    is nothing below them."""
    floor: int | None = tx.value(_FLOOR, room_nid=room_nid, high=high, skip=most)
    return floor
