"""Invariants of what sync keeps: connections, subscriptions of threads, changes of profiles."""

from __future__ import annotations

from sqlalchemy import or_, select

from homeserver.db.schema.accounts import accounts, devices
from homeserver.db.schema.rooms import events, rooms
from homeserver.db.schema.sync import profile_changes, sliding_connections, thread_subscriptions
from homeserver.store.checks.rules import Rule, ahead, none_of, points_nowhere, rule

SYNC: tuple[Rule, ...] = (
    points_nowhere(sliding_connections.c.user_nid, accounts.c.user_nid),
    points_nowhere(sliding_connections.c.device_nid, devices.c.nid, sliding_connections.c.device_nid != 0),
    points_nowhere(thread_subscriptions.c.user_nid, accounts.c.user_nid),
    points_nowhere(thread_subscriptions.c.room_nid, rooms.c.nid),
    points_nowhere(thread_subscriptions.c.root_nid, events.c.nid),
    points_nowhere(profile_changes.c.user_nid, accounts.c.user_nid),
    ahead(thread_subscriptions.c.pos),
    ahead(thread_subscriptions.c.unsubscribed_pos),
    ahead(profile_changes.c.pos),
    rule(
        "a thread's root is in another room",
        select(thread_subscriptions.c.root_nid).where(
            events.c.nid == thread_subscriptions.c.root_nid,
            events.c.room_nid != thread_subscriptions.c.room_nid,
        ),
    ),
    rule(
        "a subscription is neither on nor off",
        select(thread_subscriptions.c.root_nid).where(
            or_(
                none_of(thread_subscriptions.c.subscribed, [0, 1]),
                none_of(thread_subscriptions.c.automatic, [0, 1]),
            )
        ),
    ),
)
