"""Received events that wait for what they stand on, and the answers that were given to transactions.

A staged event was acknowledged: it stays until it has a place, is refused, or was tried for as long as makes sense.

# spec: server-server-api#transactions
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from sqlalchemy import and_, bindparam, delete, func, or_, select, tuple_, update

from homeserver.db.schema.peers import incoming_transactions, staging
from homeserver.db.statements import any_of, any_pair, pairs_text, rows, statement
from homeserver.db.tx import Tx
from homeserver.store.work import short

_S, _T = staging.c, incoming_transactions.c
_COLUMNS = (_S.room_nid, _S.event_id, _S.origin, _S.json, _S.received_ts_ms, _S.attempts, _S.retry_ts_ms)
_PUT = rows(staging, *(column.name for column in _COLUMNS), ignore=True)
_REPLACE = rows(
    staging,
    *(column.name for column in _COLUMNS),
    keys=("room_nid", "event_id"),
    update=("json", "received_ts_ms", "attempts", "retry_ts_ms"),
)
_WAITING = statement(
    select(_S.room_nid, _S.event_id, _S.origin, _S.retry_ts_ms).order_by(_S.room_nid, _S.event_id)
)
_DUE = statement(
    select(*_COLUMNS)
    .where(
        and_(
            _S.room_nid == bindparam("room_nid"),
            _S.origin == bindparam("origin"),
            or_(_S.retry_ts_ms <= bindparam("now_ms"), _S.retry_ts_ms > bindparam("latest_ms")),
        )
    )
    .order_by(_S.received_ts_ms, _S.event_id)
    .limit(bindparam("most"))
)
_NEXT = statement(
    select(func.min(_S.retry_ts_ms)).where(
        and_(_S.room_nid == bindparam("room_nid"), _S.origin == bindparam("origin"))
    )
)
_REMOVE = statement(
    delete(staging).where(and_(_S.room_nid == bindparam("in_room"), any_of(_S.event_id, "event_ids")))
)
_REMOVE_COPIES = statement(
    delete(staging)
    .where(and_(_S.room_nid == bindparam("in_room"), any_pair(_S.event_id, _S.json, "copies")))
    .returning(_S.event_id)
)
_POSTPONE = statement(
    update(staging)
    .where(
        and_(
            _S.room_nid == bindparam("in_room"),
            any_of(_S.event_id, "event_ids"),
            _S.attempts == bindparam("tried"),
        )
    )
    .values(attempts=_S.attempts + 1, retry_ts_ms=bindparam("due_ts_ms"))
)
_HASTEN = statement(
    update(staging)
    .where(
        and_(
            _S.room_nid == bindparam("in_room"),
            _S.retry_ts_ms > bindparam("due_ts_ms"),
            _S.attempts < bindparam("until"),
        )
    )
    .values(retry_ts_ms=bindparam("due_ts_ms"))
)
_PUT_ANSWER = rows(incoming_transactions, "origin", "txn_id", "answer", "ts_ms", ignore=True)
_PUT_FIRST_ANSWER = rows(incoming_transactions, "origin", "txn_id", "answer", "ts_ms")
_ANSWER = statement(
    select(_T.answer).where(and_(_T.origin == bindparam("origin"), _T.txn_id == bindparam("txn_id")))
)
_old = (
    select(_T.origin, _T.txn_id)
    .where(_T.ts_ms < bindparam("before_ts_ms"))
    .order_by(_T.ts_ms)
    .limit(bindparam("most"))
)
_SWEEP = statement(
    delete(incoming_transactions).where(tuple_(_T.origin, _T.txn_id).in_(_old)).returning(_T.txn_id)
)


class StagedRow(NamedTuple):
    """One event that waits."""

    room_nid: int
    event_id: str
    origin: str
    json: str
    received_ts_ms: int
    attempts: int
    retry_ts_ms: int


class Waiting(NamedTuple):
    """The same without its text."""

    room_nid: int
    event_id: str
    origin: str
    retry_ts_ms: int


def put_staged(tx: Tx, staged: Sequence[StagedRow]) -> None:
    """Keep events; those that are kept already stay as they are."""
    tx.insert(_PUT, list(staged))


def replace_staged(tx: Tx, staged: Sequence[StagedRow]) -> None:
    """Keep other texts of events that are kept already, which may be nobody's; how often those were tried counts no more."""
    tx.insert(_REPLACE, list(staged))


def load_waiting(tx: Tx) -> list[Waiting]:
    """Everything that waits, without its texts."""
    return [Waiting(*row) for row in tx.all(_WAITING)]


def load_due(tx: Tx, room_nid: int, origin: str, now_ms: int, latest_ms: int, most: int) -> list[StagedRow]:
    """What one server sent to a room and is to be tried now, oldest first.

    So is what is due after ``latest_ms``: nothing waits that long, so the machine's clock has been set back since.
    """
    found = tx.all(_DUE, room_nid=room_nid, origin=origin, now_ms=now_ms, latest_ms=latest_ms, most=most)
    return [StagedRow(*row) for row in found]


def load_next_due(tx: Tx, room_nid: int, origin: str) -> int | None:
    """When the next event that one server sent to a room is to be tried; None where none waits."""
    found: int | None = tx.value(_NEXT, room_nid=room_nid, origin=origin)
    return found


def remove_staged(tx: Tx, room_nid: int, event_ids: Collection[str]) -> None:
    """These wait no longer."""
    tx.run(_REMOVE, in_room=room_nid, event_ids=list(event_ids))


def remove_copies(tx: Tx, room_nid: int, judged: Sequence[StagedRow]) -> list[str]:
    """These texts wait no longer; of which events that was. Where another one has taken the place of one, that stays."""
    copies = pairs_text([(row.event_id, row.json) for row in judged])
    return tx.column(_REMOVE_COPIES, in_room=room_nid, copies=copies)


def postpone_staged(tx: Tx, room_nid: int, event_ids: Collection[str], tried: int, due_ts_ms: int) -> None:
    """These were tried in vain once more after so many times: again at that moment."""
    tx.run(_POSTPONE, in_room=room_nid, event_ids=list(event_ids), tried=tried, due_ts_ms=due_ts_ms)


def hasten_staged(tx: Tx, room_nid: int, due_ts_ms: int, until: int) -> None:
    """Something moved in a room: what waits there is tried at that moment, unless it was tried so often already."""
    tx.run(_HASTEN, in_room=room_nid, due_ts_ms=due_ts_ms, until=until)


@short
def put_answer(tx: Tx, origin: str, txn_id: str, answer: str, ts_ms: int) -> None:
    """Note what a transaction was answered; the first answer stands."""
    tx.insert(_PUT_ANSWER, [(origin, txn_id, answer, ts_ms)])


def put_first_answer(tx: Tx, origin: str, txn_id: str, answer: str, ts_ms: int) -> None:
    """The same for one that nobody looked for: the commit fails with ``IntegrityViolation`` where it was answered."""
    tx.insert(_PUT_FIRST_ANSWER, [(origin, txn_id, answer, ts_ms)])


def find_answer(tx: Tx, origin: str, txn_id: str) -> str | None:
    """What a transaction was answered, if it was."""
    found: str | None = tx.value(_ANSWER, origin=origin, txn_id=txn_id)
    return found


def sweep_answers(tx: Tx, before_ts_ms: int, most: int) -> int:
    """Forget answers from before a moment, the oldest first; how many."""
    return len(tx.all(_SWEEP, before_ts_ms=before_ts_ms, most=most))
