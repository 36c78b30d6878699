"""Tables of other servers: their keys, what we owe them, what they sent and we have not worked through."""

from __future__ import annotations

from sqlalchemy import Index, Table

from homeserver.db.schema.base import CLUSTERED, blob, metadata, nid, small, text

# Of when what is known of a server's keys is, and what it told us itself: as a notary we hand that on.
server_key_answers = Table(
    "server_key_answers",
    metadata,
    text("server_name", primary=True),
    nid("fetched_ts_ms"),
    nid("valid_until_ts_ms"),
    blob("answer", optional=True),  # JSON
)

# Every key that a server was ever seen to have: those of old events stay good when they are no longer listed.
server_keys = Table(
    "server_keys",
    metadata,
    text("server_name", primary=True),
    text("key_id", primary=True),
    blob("public_key"),
    nid("valid_until_ts_ms"),  # when it expired, where it has
    small("expired"),
    **CLUSTERED,
)
# Servers that have not got everything, or do not answer: few. Who has no row here has all up to the follower's cursor.
destinations = Table(
    "destinations",
    metadata,
    text("server_name", primary=True),
    nid("caught_up_to"),  # every event for it up to this position was delivered
    nid("devices_after"),  # and what devices have for it up to this one; 0: there is nothing
    small("failures"),
    nid("retry_at_ts_ms"),
    **CLUSTERED,
)
# Events that are sent on: of other servers' users who joined or left by us, or in whose name we made an invite; sticky
# ones, to who comes into their room.
relays = Table(
    "relays",
    metadata,
    nid("pos", primary=True),
    nid("event_nid"),
    text("only_to", optional=True),  # the one server that has not got it; else all those of its room
)

# What a server was told about a transaction, so that its retry hears the same.
incoming_transactions = Table(
    "incoming_transactions",
    metadata,
    text("origin", primary=True),
    text("txn_id", primary=True),
    text("answer"),  # JSON
    nid("ts_ms"),
    # Old ones are forgotten.
    Index("incoming_transactions_by_age", "ts_ms"),
    **CLUSTERED,
)

# Events that were acknowledged and have no place yet: something that they stand on, or a key, has not come.
staging = Table(
    "staging",
    metadata,
    nid("room_nid", primary=True),
    text("event_id", primary=True),
    text("origin"),  # who sent it, and is asked first for what is missing
    text("json"),
    nid("received_ts_ms"),
    small("attempts"),
    nid("retry_ts_ms"),
    **CLUSTERED,
)
