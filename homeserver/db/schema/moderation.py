"""Tables of moderation: what users have told those in charge, and what these have begun."""

from __future__ import annotations

from sqlalchemy import Index, Table

from homeserver.db.schema.base import CLUSTERED, metadata, nid, small, text

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

# Work that those in charge have begun, and that goes on over restarts until it has ended.
moderation_tasks = Table(
    "moderation_tasks",
    metadata,
    text("task_id", primary=True),
    small("kind"),  # homeserver.store.moderation_tasks.TaskKind
    text("subject"),  # the user or room that it is about
    nid("by_nid"),
    text("wishes"),  # JSON: what is to be done
    text("result"),  # JSON: what has come of it so far
    nid("began_ts_ms"),
    nid("ended_ts_ms", optional=True),
    text("error", optional=True),  # why it ended before it was done
    # What was begun about a room.
    Index("moderation_tasks_by_subject", "subject"),
    # What has not ended (few rows), and what ended long ago.
    Index("moderation_tasks_by_end", "ended_ts_ms"),
    **CLUSTERED,
)

# Rooms that nobody of this server may join or be invited to; they may be unknown here.
blocked_rooms = Table(
    "blocked_rooms",
    metadata,
    nid("room_nid", primary=True),
    nid("by_nid"),
)
