"""Invariants of what users have told those in charge, and of what these have begun."""

from __future__ import annotations

from sqlalchemy import and_, or_, select

from homeserver.db.schema.accounts import accounts
from homeserver.db.schema.moderation import blocked_rooms, moderation_tasks, reports
from homeserver.db.schema.rooms import rooms
from homeserver.store.checks.rules import ahead, points_nowhere, rule

_R = reports.c
_T = moderation_tasks.c

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
    points_nowhere(_T.by_nid, accounts.c.user_nid),
    points_nowhere(blocked_rooms.c.by_nid, accounts.c.user_nid),
    points_nowhere(blocked_rooms.c.room_nid, rooms.c.nid),
    rule(
        "a task has failed and not ended",
        select(_T.task_id).where(and_(_T.error.is_not(None), _T.ended_ts_ms.is_(None))),
    ),
)
