"""Tables of key backups: what a user's devices keep here so that the next one can read old messages."""

from __future__ import annotations

from sqlalchemy import Table

from homeserver.db.schema.base import CLUSTERED, metadata, nid, small, text

# Versions of a user's backup. The newest one stays as an empty row when it is deleted: its number is not given again.
key_backups = Table(
    "key_backups",
    metadata,
    nid("user_nid", primary=True),
    nid("version", primary=True),
    nid("keys_nid"),  # under which its keys are; 0: it was deleted
    text("algorithm"),
    text("auth_data"),
    nid("etag"),  # counts how often its keys changed
    nid("key_count"),
    nid("size"),  # bytes of its keys, as far as their owner has to answer for them
    **CLUSTERED,
)
backed_up_keys = Table(
    "backed_up_keys",
    metadata,
    nid("keys_nid", primary=True),
    text("room_id", primary=True),  # as the client says: the server need not know the room
    text("session_id", primary=True),
    nid("first_index"),
    nid("forwarded"),
    small("verified"),
    text("session_data"),
    nid("size"),
    **CLUSTERED,
)
# Keys that belong to no backup any more, until they are swept: a large backup goes away little by little.
dropped_keys = Table("dropped_keys", metadata, nid("keys_nid", primary=True))
