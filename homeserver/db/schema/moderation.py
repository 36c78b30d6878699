"""Tables of moderation: what users have told those in charge."""

from __future__ import annotations

from sqlalchemy import Index, Table

from homeserver.db.schema.base import CLUSTERED, metadata, nid, text

# Written once, and removed by those in charge or by age. What was reported is kept by name: it may go away.
reports = Table(
    "reports",
    metadata,
    nid("pos", primary=True),
    nid("reporter_nid"),
    nid("ts_ms"),
    text("room_id", optional=True),
    text("event_id", optional=True),  # with its room
    text("user_id", optional=True),  # without a room: the user as such
    text("reason"),
    # How many one user may have.
    Index("reports_by_reporter", "reporter_nid"),
    # Those that are too old.
    Index("reports_by_time", "ts_ms"),
    **CLUSTERED,
)
