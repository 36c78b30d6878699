"""Events that wait for their time: scheduled, started again, ended exactly once.

An event that is sent ends its row in the transaction that stores the event, so a crash leaves both or neither.
spec: https://github.com/matrix-org/matrix-spec-proposals/pull/4140
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import and_, bindparam, delete, func, null, select, update

from homeserver.db.schema.delayed import delayed_events
from homeserver.db.schema.rooms import user_ids
from homeserver.db.statements import any_of, rows, statement
from homeserver.db.tx import Row, Tx, WriteTx
from homeserver.store.open_accounts import is_open

# LIMIT(of one user, events that have ended and are still told of)
ENDED_MOST = 500

_D = delayed_events.c
_ID = _D.delay_id == bindparam("id")
_COLUMNS = (
    _D.delay_id,
    _D.user_nid,
    user_ids.c.user_id,
    _D.room_id,
    _D.type,
    _D.state_key,
    _D.content,
    _D.sticky_ms,
    _D.said_at_ms,
    _D.delay_ms,
    _D.since_ts_ms,
    _D.due_ts_ms,
    _D.ended_ts_ms,
    _D.event_id,
    _D.error,
)
_FROM = delayed_events.join(user_ids, user_ids.c.nid == _D.user_nid)
_INSERT = rows(
    delayed_events,
    "delay_id",
    "user_nid",
    "room_id",
    "type",
    "state_key",
    "content",
    "sticky_ms",
    "said_at_ms",
    "delay_ms",
    "since_ts_ms",
    "due_ts_ms",
    "device_nid",
    "txn_key",
)
_BY_TXN = statement(
    select(_D.delay_id).where(and_(_D.device_nid == bindparam("device_nid"), _D.txn_key == bindparam("key")))
)
_WAITING = statement(
    select(func.count(), func.min(_D.due_ts_ms))
    .select_from(delayed_events)
    .where(and_(_D.user_nid == bindparam("user_nid"), _D.ended_ts_ms.is_(None)))
)
_OLDEST_KEPT = statement(
    select(_D.ended_ts_ms)
    .where(and_(_D.user_nid == bindparam("user_nid"), _D.ended_ts_ms.is_not(None)))
    .order_by(_D.ended_ts_ms.desc())
    .limit(1)
    .offset(bindparam("most"))
)
_DROP_OLD = statement(
    delete(delayed_events).where(
        and_(_D.user_nid == bindparam("user_nid"), _D.ended_ts_ms <= bindparam("upto_ms"))
    )
)
_SWEEP = statement(delete(delayed_events).where(_D.ended_ts_ms < bindparam("before_ms")))
_DROP_OF_USER = statement(delete(delayed_events).where(_D.user_nid == bindparam("of_user")))
_ONE = statement(select(*_COLUMNS).select_from(_FROM).where(_ID))
_OF_USER = statement(
    select(*_COLUMNS)
    .select_from(_FROM)
    .where(and_(_D.user_nid == bindparam("user_nid"), _D.ended_ts_ms.is_(None)))
    .order_by(_D.due_ts_ms, _D.delay_id)
)
_DUE = statement(
    select(_D.delay_id, _D.user_nid, _D.due_ts_ms)
    .where(and_(_D.due_ts_ms.is_not(None), ~any_of(_D.user_nid, "passed_over")))
    .order_by(_D.due_ts_ms, _D.delay_id)
    .limit(bindparam("most"))
)
_RESTART = statement(
    update(delayed_events)
    .where(and_(_ID, _D.ended_ts_ms.is_(None)))
    .values(since_ts_ms=bindparam("now_ms"), due_ts_ms=bindparam("now_ms") + _D.delay_ms)
    .returning(_D.due_ts_ms)
)
_POSTPONE = statement(
    update(delayed_events)
    .where(and_(_ID, _D.due_ts_ms == bindparam("seen_ms")))
    .values(due_ts_ms=bindparam("later_ms"))
)
_END = statement(
    update(delayed_events)
    .where(and_(_ID, _D.ended_ts_ms.is_(None)))
    .values(
        due_ts_ms=null(),
        ended_ts_ms=bindparam("now_ms"),
        event_id=bindparam("sent_id"),
        error=bindparam("problem"),
    )
    .returning(_D.delay_id)
)


@dataclass(frozen=True, slots=True)
class NewDelayed:
    """What a client schedules."""

    delay_id: str
    user_nid: int
    room_id: str
    type: str
    state_key: str | None
    content: str
    sticky_ms: int | None
    said_at_ms: int | None
    delay_ms: int
    now_ms: int
    device_nid: int
    txn_key: str


class Delayed(NamedTuple):
    """A row. ``due_ts_ms`` is None where it has ended: sent, not to be sent (``error``), or taken back.

    It is later than ``delay_ms`` after ``since_ts_ms`` where the event could not be sent then and is tried again.
    """

    delay_id: str
    user_nid: int
    user_id: str
    room_id: str
    type: str
    state_key: str | None
    content: str
    sticky_ms: int | None
    said_at_ms: int | None
    delay_ms: int
    since_ts_ms: int
    due_ts_ms: int | None
    ended_ts_ms: int | None
    event_id: str | None
    error: str | None


class TooManyDelayedError(Exception):
    """The user has scheduled as many as one may; ``due_ts_ms``: when the first of them is sent."""

    def __init__(self, due_ts_ms: int) -> None:
        super().__init__(due_ts_ms)
        self.due_ts_ms = due_ts_ms


class EndedError(Exception):
    """It has ended already."""


def schedule(tx: WriteTx, new: NewDelayed, most: int) -> str:
    """Schedule an event; the id by which it is managed, the same for a retry. Raises TooManyDelayedError."""
    if not is_open(tx, new.user_nid):
        return new.delay_id  # the account has ended meanwhile, and says nothing more
    known: str | None = tx.value(_BY_TXN, device_nid=new.device_nid, key=new.txn_key)
    if known is not None:
        return known
    row = tx.one(_WAITING, user_nid=new.user_nid)
    if row is not None and row[0] >= most:
        raise TooManyDelayedError(row[1] or new.now_ms)
    upto_ms = tx.value(_OLDEST_KEPT, user_nid=new.user_nid, most=ENDED_MOST)
    if upto_ms is not None:
        tx.run(_DROP_OLD, user_nid=new.user_nid, upto_ms=upto_ms)
    tx.insert(_INSERT, [_row(new)])
    return new.delay_id


def _row(new: NewDelayed) -> Row:
    due_ts_ms = new.now_ms + new.delay_ms
    what = (new.delay_id, new.user_nid, new.room_id, new.type, new.state_key, new.content)
    return (
        *what,
        new.sticky_ms,
        new.said_at_ms,
        new.delay_ms,
        new.now_ms,
        due_ts_ms,
        new.device_nid,
        new.txn_key,
    )


def drop_delayed_of(tx: Tx, user_nid: int) -> None:
    """What a user has scheduled is not sent, and not kept."""
    tx.run(_DROP_OF_USER, of_user=user_nid)


def sweep_delayed(tx: Tx, before_ms: int) -> None:
    """Forget those that ended before a moment."""
    tx.run(_SWEEP, before_ms=before_ms)


def find_delayed(tx: Tx, delay_id: str) -> Delayed | None:
    """One of them, ended or not."""
    row = tx.one(_ONE, id=delay_id)
    return Delayed(*row) if row is not None else None


def load_delayed_of(tx: Tx, user_nid: int) -> list[Delayed]:
    """What a user has scheduled, in the order in which it is to be sent."""
    return [Delayed(*row) for row in tx.all(_OF_USER, user_nid=user_nid)]


def load_next_delayed(tx: Tx, most: int, passed_over: Collection[int]) -> list[tuple[str, int, int]]:
    """The next ones of all users but some: their ids, whose they are, and when they are due."""
    return [(row[0], row[1], row[2]) for row in tx.all(_DUE, most=most, passed_over=passed_over)]


def restart_delayed(tx: Tx, delay_id: str, now_ms: int) -> int:
    """Wait anew, from now on; when it is due. Raises EndedError."""
    due_ts_ms: int | None = tx.value(_RESTART, id=delay_id, now_ms=now_ms)
    if due_ts_ms is None:
        raise EndedError
    return due_ts_ms


def postpone_delayed(tx: Tx, delay_id: str, seen_ms: int, later_ms: int) -> None:
    """It is to be sent later than at the moment that was seen, unless it has ended or waits anew since then."""
    tx.run(_POSTPONE, id=delay_id, seen_ms=seen_ms, later_ms=later_ms)


def end_delayed(
    tx: Tx, delay_id: str, now_ms: int, *, event_id: str | None = None, error: str | None = None
) -> None:
    """It was sent, could not be sent, or (neither) was taken back. Raises EndedError."""
    if tx.value(_END, id=delay_id, now_ms=now_ms, sent_id=event_id, problem=error) is None:
        raise EndedError
