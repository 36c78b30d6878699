"""Invariants of pushers."""

from __future__ import annotations

from sqlalchemy import and_, select

from homeserver.db.schema.accounts import accounts, devices
from homeserver.db.schema.push import pusher_debts, pushers
from homeserver.store.checks.rules import points_nowhere, rule

PUSH = (
    points_nowhere(pushers.c.user_nid, accounts.c.user_nid),
    points_nowhere(pushers.c.device_nid, devices.c.nid, pushers.c.device_nid != 0),
    rule(
        "a pusher that is no more has something to get",
        select(pusher_debts.c.user_nid, pusher_debts.c.app_id)
        .select_from(
            pusher_debts.outerjoin(
                pushers,
                and_(
                    pushers.c.user_nid == pusher_debts.c.user_nid,
                    pushers.c.app_id == pusher_debts.c.app_id,
                    pushers.c.pushkey == pusher_debts.c.pushkey,
                ),
            )
        )
        .where(pushers.c.user_nid.is_(None)),
    ),
)
