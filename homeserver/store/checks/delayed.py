"""Invariants of events that wait for their time."""

from __future__ import annotations

from sqlalchemy import and_, or_, select

from homeserver.db.schema.accounts import accounts
from homeserver.db.schema.delayed import delayed_events
from homeserver.db.schema.rooms import events
from homeserver.store.checks.rules import points_nowhere, rule

_D = delayed_events.c

DELAYED = (
    points_nowhere(_D.user_nid, accounts.c.user_nid),
    points_nowhere(_D.event_id, events.c.event_id),
    rule(
        "a delayed event waits and has ended, or neither",
        select(_D.delay_id).where(
            or_(
                and_(_D.due_ts_ms.is_(None), _D.ended_ts_ms.is_(None)),
                and_(_D.due_ts_ms.is_not(None), _D.ended_ts_ms.is_not(None)),
                and_(_D.ended_ts_ms.is_(None), or_(_D.event_id.is_not(None), _D.error.is_not(None))),
                and_(_D.event_id.is_not(None), _D.error.is_not(None)),
            )
        ),
    ),
)
