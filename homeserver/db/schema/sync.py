"""Tables of sync: what sliding sync remembers of its connections, and what is told there beyond rooms."""

from __future__ import annotations

from sqlalchemy import Index, Table

from homeserver.db.schema.base import CLUSTERED, blob, metadata, nid, small, text

# What a device was told on a connection, as it was after an answer: the newest that it is known to have, and those that
# it may have got since. A row is written only when an answer changed which rooms it was told of, and how.
sliding_connections = Table(
    "sliding_connections",
    metadata,
    nid("user_nid", primary=True),
    nid("device_nid", primary=True),  # 0: a token without a device
    text("conn_id", primary=True),
    nid("version", primary=True),
    text("epoch"),  # drawn when the connection begins: a position of an earlier one is unknown
    blob("state"),
    nid("used_ts_ms"),
    # Connections that nobody came back to.
    Index("sliding_connections_by_age", "used_ts_ms"),
    # Those of devices that are deleted.
    Index("sliding_connections_by_device", "device_nid"),
)
# Whether somebody wants to hear of a thread. A row stays when they no longer do: other devices must hear of that.
thread_subscriptions = Table(
    "thread_subscriptions",
    metadata,
    nid("user_nid", primary=True),
    nid("room_nid", primary=True),
    nid("root_nid", primary=True),
    small("subscribed"),
    small("automatic"),
    nid("unsubscribed_pos"),  # up to where they had seen the room when they last unsubscribed; 0: never
    nid("pos"),
    # What changed since a position; also in pages, backwards.
    Index("thread_subscriptions_by_pos", "user_nid", "pos"),
    **CLUSTERED,
)
# When a field of a local user's profile last changed. A field without a row in ``profiles`` was removed.
profile_changes = Table(
    "profile_changes",
    metadata,
    nid("user_nid", primary=True),
    text("field", primary=True),
    nid("pos"),
    # What changed since a position.
    Index("profile_changes_by_pos", "pos"),
    **CLUSTERED,
)
