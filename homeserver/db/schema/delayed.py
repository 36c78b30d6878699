"""The table of events that wait for their time."""

from __future__ import annotations

from sqlalchemy import Index, Table

from homeserver.db.schema.base import CLUSTERED, metadata, nid, text

# A row is kept for some days after its end, so that a client can find out how it ended, and can retry.
delayed_events = Table(
    "delayed_events",
    metadata,
    text("delay_id", primary=True),
    nid("user_nid"),
    text("room_id"),
    text("type"),
    text("state_key", optional=True),
    text("content"),  # JSON
    nid("sticky_ms", optional=True),
    nid("said_at_ms", optional=True),  # what it is to have for its time, where an application service says so
    nid("delay_ms"),
    nid("since_ts_ms"),  # scheduled, or started again
    nid("due_ts_ms", optional=True),  # NULL: it has ended
    nid("ended_ts_ms", optional=True),
    text("event_id", optional=True),  # where it was sent
    text("error", optional=True),  # JSON, where it could not be sent
    nid("device_nid"),  # with the next: so that the retry of a request finds what the first one scheduled
    text("txn_key"),
    Index("delayed_events_by_txn", "device_nid", "txn_key", unique=True),
    # What one user has scheduled, and what has ended of it, the newest first.
    Index("delayed_events_by_user", "user_nid", "ended_ts_ms"),
    Index("delayed_events_by_due", "due_ts_ms"),
    # Those that ended long ago.
    Index("delayed_events_by_end", "ended_ts_ms"),
    **CLUSTERED,
)
