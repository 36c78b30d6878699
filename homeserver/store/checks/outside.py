"""Invariants of memberships of rooms that this server is not in."""

from __future__ import annotations

from sqlalchemy import and_, or_, select

from homeserver.db.schema.accounts import accounts
from homeserver.db.schema.rooms import declined, members, offered, outside, rooms
from homeserver.store.checks.rules import points_nowhere, rule
from homeserver.store.placement import Membership

OUTSIDE = (
    points_nowhere(declined.c.room_nid, rooms.c.nid),
    points_nowhere(declined.c.user_nid, accounts.c.user_nid),
    points_nowhere(offered.c.room_nid, rooms.c.nid),
    points_nowhere(offered.c.user_nid, accounts.c.user_nid),
    points_nowhere(outside.c.room_nid, rooms.c.nid),
    points_nowhere(outside.c.user_nid, accounts.c.user_nid),
    rule(
        "a membership from outside is without what was told of it",
        select(members.c.room_nid, members.c.user_nid)
        .select_from(
            members.outerjoin(
                outside,
                and_(outside.c.room_nid == members.c.room_nid, outside.c.user_nid == members.c.user_nid),
            )
        )
        .where(members.c.outside == 1, outside.c.room_nid.is_(None)),
    ),
    rule(
        "a membership from outside has an event, or says joined",
        select(members.c.room_nid, members.c.user_nid).where(
            members.c.outside == 1,
            or_(members.c.event_nid != 0, members.c.membership == int(Membership.JOIN)),
        ),
    ),
)
