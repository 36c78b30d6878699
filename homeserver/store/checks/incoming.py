"""Invariants of what other servers sent."""

from __future__ import annotations

from sqlalchemy import func, or_, select

from homeserver.db.schema.peers import incoming_transactions, staging
from homeserver.db.schema.rooms import room_heads
from homeserver.store.checks.rules import Rule, points_nowhere, rule

INCOMING: tuple[Rule, ...] = (
    points_nowhere(staging.c.room_nid, room_heads.c.room_nid),
    rule(
        "an event waits that nobody sent, that says nothing, or that is tried at no time",
        select(staging.c.room_nid, staging.c.event_id).where(
            or_(
                staging.c.origin == "",
                func.length(staging.c.json) < 2,
                staging.c.attempts < 0,
                staging.c.retry_ts_ms < staging.c.received_ts_ms,
            )
        ),
    ),
    rule(
        "a transaction was answered with nothing",
        select(incoming_transactions.c.origin, incoming_transactions.c.txn_id).where(
            func.length(incoming_transactions.c.answer) < 2
        ),
    ),
)
