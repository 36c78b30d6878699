"""Whether a transaction waits for another one: for tests of what two processes do at the same time on PostgreSQL."""

from __future__ import annotations

from sqlalchemy import and_, column, func, select, table

from homeserver.db.statements import statement
from homeserver.db.tx import Tx

_ACTIVITY = table("pg_stat_activity", column("wait_event_type"), column("datname"))
_WAITING = statement(
    select(func.count())
    .select_from(_ACTIVITY)
    .where(and_(_ACTIVITY.c.wait_event_type == "Lock", _ACTIVITY.c.datname == func.current_database()))
)


def somebody_waits(tx: Tx) -> bool:
    """Somebody on this database waits for a lock."""
    return bool(tx.value(_WAITING))
