"""Rows that are over, taken away a bounded number at a time."""

from __future__ import annotations

from sqlalchemy import and_, bindparam, delete, select, tuple_

from homeserver.db.schema.rooms import client_transactions
from homeserver.db.statements import statement
from homeserver.db.tx import Tx

_T = client_transactions
_KEY = (_T.c.device_nid, _T.c.room_nid, _T.c.txn_key)
_old = (
    select(*_KEY).where(_T.c.ts_ms < bindparam("before_ts_ms")).order_by(_T.c.ts_ms).limit(bindparam("most"))
)
_SWEEP_TRANSACTIONS = statement(delete(_T).where(and_(tuple_(*_KEY).in_(_old))).returning(_T.c.event_nid))


def sweep_transactions(tx: Tx, before_ts_ms: int, most: int) -> int:
    """Forget transaction ids that came before a moment, the oldest first; how many."""
    return len(tx.all(_SWEEP_TRANSACTIONS, before_ts_ms=before_ts_ms, most=most))
