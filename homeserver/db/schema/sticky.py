"""The table of sticky events: those that are to reach everybody in their room, for an hour at most."""

from __future__ import annotations

from sqlalchemy import Index, Table

from homeserver.db.schema.base import CLUSTERED, metadata, nid

# Read at the start, and then followed in memory; rows go when they are over.
sticky_events = Table(
    "sticky_events",
    metadata,
    nid("event_nid", primary=True),
    nid("room_nid"),
    nid("pos"),  # 0: it was soft-failed, and is shown to nobody as yet
    nid("until_ts_ms"),
    # Those that are over; and those that are not.
    Index("sticky_events_by_end", "until_ts_ms"),
    **CLUSTERED,
)
