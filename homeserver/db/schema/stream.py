"""Tables of the log: one counter of positions, the changes at each, and who has read how far."""

from __future__ import annotations

from sqlalchemy import Table

from homeserver.db.schema.base import metadata, nid, small, text

# One row. Its lock makes positions appear in order, on both databases.
stream = Table("stream", metadata, small("id", primary=True), nid("pos"))
# One narrow row per durable fact; trimmed behind the slowest follower.
changes = Table("changes", metadata, nid("pos", primary=True), small("kind"), nid("topic"), nid("ref"))
followers = Table("followers", metadata, text("name", primary=True), nid("pos"))
# Facts about the database itself: the server name that it belongs to, the oldest reader that may open it. And what one
# process leaves to the next: where somebody typed.
server_facts = Table("server_facts", metadata, text("name", primary=True), text("value"))
