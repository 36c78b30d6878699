"""Work that those in charge have begun: kept until a day after its end, so that it survives restarts and can be asked about."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import and_, bindparam, delete, func, select, update

from homeserver.db.schema.moderation import moderation_tasks
from homeserver.db.statements import rows, statement
from homeserver.db.tx import Row, Tx, WriteTx

# LIMIT(tasks that have not ended, of everybody)
WAITING_MOST: Final = 1_000

_T = moderation_tasks.c
_COLUMNS = (
    _T.task_id,
    _T.kind,
    _T.subject,
    _T.by_nid,
    _T.wishes,
    _T.result,
    _T.began_ts_ms,
    _T.ended_ts_ms,
    _T.error,
)
_INSERT = rows(moderation_tasks, "task_id", "kind", "subject", "by_nid", "wishes", "result", "began_ts_ms")
_SWEEP = statement(delete(moderation_tasks).where(_T.ended_ts_ms < bindparam("before_ms")))
_WAITING = statement(select(func.count()).select_from(moderation_tasks).where(_T.ended_ts_ms.is_(None)))
_ONE = statement(select(*_COLUMNS).where(_T.task_id == bindparam("id")))
_OF_SUBJECT = statement(
    select(*_COLUMNS)
    .where(and_(_T.subject == bindparam("of_subject"), _T.kind == bindparam("of_kind")))
    .order_by(_T.began_ts_ms, _T.task_id)
)
_UNFINISHED = statement(
    select(_T.task_id).where(_T.ended_ts_ms.is_(None)).order_by(_T.began_ts_ms, _T.task_id)
)
_SET_RESULT = statement(
    update(moderation_tasks).where(_T.task_id == bindparam("id")).values(result=bindparam("new_result"))
)
_END = statement(
    update(moderation_tasks)
    .where(and_(_T.task_id == bindparam("id"), _T.ended_ts_ms.is_(None)))
    .values(ended_ts_ms=bindparam("now_ms"), error=bindparam("problem"))
)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class TaskKind(IntEnum):
    """What is to be done. Numbers are stored."""

    REDACT_USER = 1
    DELETE_ROOM = 2


class Task(NamedTuple):
    """One piece of work; ``error`` says why it ended before it was done."""

    task_id: str
    kind: TaskKind
    subject: str
    by_nid: int
    wishes: dict[str, Any]
    result: dict[str, Any]
    began_ts_ms: int
    ended_ts_ms: int | None = None
    error: str | None = None


class TooManyTasksError(Exception):
    """So much waits already."""


class TaskUnderWayError(Exception):
    """The same is being done already."""


def insert_task(tx: WriteTx, task: Task, forget_before_ms: int, *, alone: bool) -> None:
    """Keep a piece of work, and forget what ended before some time.

    Raises TooManyTasksError; and with ``alone`` TaskUnderWayError, where work of the kind about the subject has not ended.
    """
    tx.run(_SWEEP, before_ms=forget_before_ms)
    if alone and any(one.ended_ts_ms is None for one in load_tasks(tx, task.kind, task.subject)):
        raise TaskUnderWayError
    if tx.value(_WAITING) >= WAITING_MOST:
        raise TooManyTasksError
    wishes, result = _encode(task.wishes).decode(), _encode(task.result).decode()
    row = (task.task_id, int(task.kind), task.subject, task.by_nid, wishes, result, task.began_ts_ms)
    tx.insert(_INSERT, [row])


def find_task(tx: Tx, task_id: str) -> Task | None:
    """One piece of work."""
    row = tx.one(_ONE, id=task_id)
    return None if row is None else _task(row)


def load_tasks(tx: Tx, kind: TaskKind, subject: str) -> list[Task]:
    """What was begun about a user or a room, the oldest first."""
    return [_task(row) for row in tx.all(_OF_SUBJECT, of_subject=subject, of_kind=int(kind))]


def load_unfinished(tx: Tx) -> list[str]:
    """What has not ended, the oldest first."""
    return tx.column(_UNFINISHED)


def set_result(tx: WriteTx, task_id: str, result: dict[str, Any]) -> None:
    """What has come of it so far."""
    tx.run(_SET_RESULT, id=task_id, new_result=_encode(result).decode())


def end_task(tx: WriteTx, task_id: str, now_ms: int, error: str | None) -> None:
    """It is done, or (with an error) cannot be."""
    tx.run(_END, id=task_id, now_ms=now_ms, problem=error)


def _task(row: Row) -> Task:
    return Task(row[0], TaskKind(row[1]), row[2], row[3], _decode(row[4]), _decode(row[5]), *row[6:])
