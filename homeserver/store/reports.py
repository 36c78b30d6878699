"""Reports: what users tell those in charge of rooms, events and users. spec: client-server-api#reporting-content"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import bindparam, delete, func, select

from homeserver.db.schema.moderation import reports
from homeserver.db.schema.rooms import user_ids
from homeserver.db.statements import rows, statement
from homeserver.db.tx import Tx, WriteTx
from homeserver.store.changes import Kind

# LIMIT(reports that wait, of one user)
REPORTS_MOST = 1_000

_R = reports.c
_INSERT = rows(reports, "pos", "reporter_nid", "ts_ms", "room_id", "event_id", "user_id", "reason")
_COUNT = statement(
    select(func.count()).select_from(reports).where(_R.reporter_nid == bindparam("reporter_nid"))
)
_SWEEP = statement(delete(reports).where(_R.ts_ms < bindparam("before_ms")))
_DROP = statement(delete(reports).where(_R.pos == bindparam("pos")))
_PAGE = statement(
    select(_R.pos, user_ids.c.user_id, _R.ts_ms, _R.room_id, _R.event_id, _R.user_id, _R.reason)
    .select_from(reports.join(user_ids, user_ids.c.nid == _R.reporter_nid))
    .where(_R.pos < bindparam("before"))
    .order_by(_R.pos.desc())
    .limit(bindparam("most"))
)


@dataclass(frozen=True, slots=True)
class Report:
    """What a user says. A room, an event in a room, or a user. Payload of ``Kind.REPORT``."""

    reporter_nid: int
    ts_ms: int
    reason: str
    room_id: str | None = None
    event_id: str | None = None
    user_id: str | None = None


class StoredReport(NamedTuple):
    """A report, as those in charge read it; ``pos`` is its name."""

    pos: int
    reporter_id: str
    ts_ms: int
    room_id: str | None
    event_id: str | None
    user_id: str | None
    reason: str


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
