"""Invariants of sticky events."""

from __future__ import annotations

from homeserver.db.schema.rooms import events
from homeserver.db.schema.sticky import sticky_events
from homeserver.store.checks.rules import ahead, points_nowhere

STICKY = (
    points_nowhere(sticky_events.c.event_nid, events.c.nid),
    ahead(sticky_events.c.pos),
)
