"""Reports: what users tell those in charge of rooms, events and users. spec: client-server-api#reporting-content"""

from __future__ import annotations

from dataclasses import dataclass
from sys import getsizeof
from typing import NamedTuple

from sqlalchemy import ColumnElement, and_, bindparam, delete, func, or_, select

from homeserver.db.schema.moderation import reports
from homeserver.db.schema.rooms import events, user_ids
from homeserver.db.statements import rows, statement
from homeserver.db.tx import Row, Tx, WriteTx
from homeserver.store.changes import Kind
from homeserver.store.ids import stored_name, true_name

# LIMIT(reports that wait, of one user)
REPORTS_MOST = 1_000

_R = reports.c
_INSERT = rows(reports, "pos", "reporter_nid", "ts_ms", "room_id", "event_id", "user_id", "reason")
_COUNT = statement(
    select(func.count()).select_from(reports).where(_R.reporter_nid == bindparam("reporter_nid"))
)
_SWEEP = statement(delete(reports).where(_R.ts_ms < bindparam("before_ms")))
_DROP = statement(delete(reports).where(_R.pos == bindparam("pos")))
_DROP_OF_EVENT = statement(
    delete(reports).where(and_(_R.pos == bindparam("pos"), _R.event_id.is_not(None))).returning(_R.pos)
)
_PAGE = statement(
    select(_R.pos, user_ids.c.user_id, _R.ts_ms, _R.room_id, _R.event_id, _R.user_id, _R.reason)
    .select_from(reports.join(user_ids, user_ids.c.nid == _R.reporter_nid))
    .where(_R.pos < bindparam("before"))
    .order_by(_R.pos.desc())
    .limit(bindparam("most"))
)
_reporters, _senders = user_ids.alias("reporters"), user_ids.alias("senders")
_OF_EVENTS = (
    reports.join(_reporters, _reporters.c.nid == _R.reporter_nid)
    .outerjoin(events, events.c.event_id == _R.event_id)
    .outerjoin(_senders, _senders.c.nid == events.c.sender_nid)
)


def _is_wanted(column: ColumnElement[str], name: str) -> ColumnElement[bool]:
    """Whether a column has the value of a parameter, of which an empty one asks for nothing."""
    return or_(bindparam(name) == "", column == bindparam(name))


_WANTED = and_(
    _R.event_id.is_not(None),
    _is_wanted(_reporters.c.user_id, "reporter_name"),
    _is_wanted(_senders.c.user_id, "sender_name"),
    _is_wanted(_R.room_id, "in_room_id"),
)
_EVENT_REPORTS = select(
    _R.pos, _R.ts_ms, _R.room_id, _R.event_id, _R.reason, _reporters.c.user_id, _senders.c.user_id
).select_from(_OF_EVENTS)
_PAGE_OF_EVENTS = _EVENT_REPORTS.where(_WANTED).limit(bindparam("most")).offset(bindparam("skip"))
_EVENTS_FIRST_NEW = statement(_PAGE_OF_EVENTS.order_by(_R.pos.desc()))
_EVENTS_FIRST_OLD = statement(_PAGE_OF_EVENTS.order_by(_R.pos))
_COUNT_OF_EVENTS = statement(select(func.count()).select_from(_OF_EVENTS).where(_WANTED))
_ONE_OF_EVENTS = statement(_EVENT_REPORTS.where(and_(_R.pos == bindparam("pos"), _R.event_id.is_not(None))))


@dataclass(frozen=True, slots=True)
class Report:
    """What a user says. A room, an event in a room, or a user. Payload of ``Kind.REPORT``."""

    reporter_nid: int
    ts_ms: int
    reason: str
    room_id: str | None = None
    event_id: str | None = None
    user_id: str | None = None

    @property
    def weight(self) -> int:
        """See ``Change.weight``."""
        return getsizeof(self.reason)


class StoredReport(NamedTuple):
    """A report, as those in charge read it; ``pos`` is its name."""

    pos: int
    reporter_id: str
    ts_ms: int
    room_id: str | None
    event_id: str | None
    user_id: str | None
    reason: str


class EventReport(NamedTuple):
    """A report of an event; ``sender_id`` is None where the event is not here any more."""

    pos: int
    ts_ms: int
    room_id: str
    event_id: str
    reason: str
    reporter_id: str
    sender_id: str | None


@dataclass(frozen=True, slots=True)
class ReportsWanted:
    """Which reports of events; empty: whoever it was, wherever."""

    reporter_id: str = ""
    sender_id: str = ""
    room_id: str = ""


class TooManyReportsError(Exception):
    """The user has reported as much as one may."""


def insert_report(tx: WriteTx, report: Report, forget_before_ms: int) -> None:
    """Keep a report, and forget those that are too old. Raises TooManyReportsError."""
    tx.run(_SWEEP, before_ms=forget_before_ms)
    if tx.value(_COUNT, reporter_nid=report.reporter_nid) >= REPORTS_MOST:
        raise TooManyReportsError

    def write(tx: Tx, pos: int) -> None:
        one = report
        tx.insert(
            _INSERT,
            [(pos, one.reporter_nid, one.ts_ms, one.room_id, one.event_id, one.user_id, one.reason)],
        )

    tx.claim(Kind.REPORT, 0, report.reporter_nid, write, report)


def load_reports(tx: Tx, before: int, most: int) -> list[StoredReport]:
    """Reports before a position, the newest first."""
    return [StoredReport(*row) for row in tx.all(_PAGE, before=before, most=most)]


def drop_report(tx: Tx, pos: int) -> None:
    """A report was dealt with."""
    tx.run(_DROP, pos=pos)


def load_event_reports(
    tx: Tx, wanted: ReportsWanted, skip: int, most: int, *, newest_first: bool
) -> tuple[list[EventReport], int]:
    """A page of the reports of events, and how many there are in all."""
    which = {
        "reporter_name": stored_name(wanted.reporter_id),
        "sender_name": stored_name(wanted.sender_id),
        "in_room_id": wanted.room_id,
    }
    page = _EVENTS_FIRST_NEW if newest_first else _EVENTS_FIRST_OLD
    found = [_event_report(row) for row in tx.all(page, **which, most=most, skip=skip)]
    return found, tx.value(_COUNT_OF_EVENTS, **which)


def find_event_report(tx: Tx, pos: int) -> EventReport | None:
    """The report of an event, by its name."""
    row = tx.one(_ONE_OF_EVENTS, pos=pos)
    return None if row is None else _event_report(row)


def drop_event_report(tx: Tx, pos: int) -> bool:
    """The report of an event was dealt with; whether there was one."""
    return tx.value(_DROP_OF_EVENT, pos=pos) is not None


def _event_report(row: Row) -> EventReport:
    sender = None if row[6] is None else true_name(row[6])
    return EventReport(row[0], row[1], row[2], row[3], row[4], true_name(row[5]), sender)
