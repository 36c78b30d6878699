"""Invariants of what application services are told."""

from __future__ import annotations

from sqlalchemy import func, literal, or_, select

from homeserver.db.schema.appservices import appservice_positions, appservice_rooms, appservice_transactions
from homeserver.db.schema.rooms import rooms
from homeserver.store.checks.rules import POSITION, Rule, points_nowhere, rule

APPSERVICES: tuple[Rule, ...] = (
    points_nowhere(appservice_rooms.c.room_nid, rooms.c.nid),
    rule(
        "an application service knows what has not happened yet, or failed a negative number of times",
        select(appservice_positions.c.service_id).where(
            or_(
                appservice_positions.c.caught_up_to > POSITION,
                appservice_positions.c.failures < 0,
                appservice_positions.c.retry_at_ts_ms < 0,
            )
        ),
    ),
    rule(
        "a transaction tells an application service nothing, or of the future",
        select(appservice_transactions.c.service_id).where(
            or_(
                appservice_transactions.c.upto > POSITION,
                appservice_transactions.c.txn_id == literal(""),
                func.length(appservice_transactions.c.body) < 2,
                func.length(appservice_transactions.c.delivered) < 2,
            )
        ),
    ),
)
