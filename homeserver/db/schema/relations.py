"""The table of relationships between events: who points at whom. Written by ``store/commit.py`` alone."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Index, Table, literal_column

from homeserver.db.schema.base import CLUSTERED, metadata, nid, small, text

# A child of an event: what it says in its own m.relates_to. A row goes when the child is redacted; a parent may be
# unknown to us or in another room (then nobody asks for the row), hence its id.
relations = Table(
    "relations",
    metadata,
    # The key is the order in which aggregations look: an event's children of one kind, by their place.
    text("target_id", primary=True),
    nid("room_nid", primary=True),
    text("rel_type", primary=True),
    nid("pos", primary=True),  # the child's place in the timeline
    nid("child_nid"),
    nid("type_nid"),
    nid("sender_nid"),
    nid("ts_ms"),
    small("sound"),  # of an m.replace: 1 where it may be one, as far as it alone can tell
    # Paging through an event's children of all kinds.
    Index("relations_by_place", "target_id", "room_nid", "pos"),
    # The row of an event that is redacted.
    Index("relations_by_child", "child_nid", unique=True),
    **CLUSTERED,
)
# Redactions that take along what relates to their target in one way, what comes later too. What one sender may not
# redact another may: so each has a row.
related_redactions = Table(
    "related_redactions",
    metadata,
    text("target_id", primary=True),
    nid("room_nid", primary=True),
    text("rel_type", primary=True),
    nid("sender_nid", primary=True),  # in whose name
    nid("until_ts_ms"),
    # Those that are over.
    Index("related_redactions_by_end", "until_ts_ms"),
    **CLUSTERED,
)
# A constant in the text of statements, or SQLite would not see that the index below serves them.
THREAD: ColumnElement[str] = literal_column("'m.thread'")
# The threads of a room, each with its newest event and who took part; only events in threads have a row.
_IN_THREAD = relations.c.rel_type == THREAD
Index(
    "relations_of_threads",
    relations.c.room_nid,
    relations.c.target_id,
    relations.c.pos,
    relations.c.sender_nid,
    sqlite_where=_IN_THREAD,
    postgresql_where=_IN_THREAD,
)
