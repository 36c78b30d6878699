"""Invariants of what users have told those in charge."""

from __future__ import annotations

from sqlalchemy import and_, or_, select

from homeserver.db.schema.accounts import accounts
from homeserver.db.schema.moderation import reports
from homeserver.store.checks.rules import ahead, points_nowhere, rule

_R = reports.c

MODERATION = (
    points_nowhere(_R.reporter_nid, accounts.c.user_nid),
    ahead(_R.pos),
    rule(
        "a report is of nothing, or of a user in a room",
        select(_R.pos).where(
            or_(
                and_(_R.room_id.is_(None), _R.user_id.is_(None)),
                and_(_R.room_id.is_not(None), _R.user_id.is_not(None)),
                and_(_R.event_id.is_not(None), _R.room_id.is_(None)),
            )
        ),
    ),
)
