"""Tables of application services: how far each has been told, and the networks that they list rooms of."""

from __future__ import annotations

from sqlalchemy import Index, Table

from homeserver.db.schema.base import CLUSTERED, blob, metadata, nid, small, text

# One row for each application service that is told anything; never one for what waits for it.
appservice_positions = Table(
    "appservice_positions",
    metadata,
    text("service_id", primary=True),
    nid("caught_up_to"),  # it was told of everything up to this position
    small("failures"),
    nid("retry_at_ts_ms"),
    **CLUSTERED,
)
# The transaction that each is being told: the same bytes under the same id until it has them, whatever happens to us.
appservice_transactions = Table(
    "appservice_transactions",
    metadata,
    text("service_id", primary=True),
    text("txn_id"),
    nid("upto"),  # with it the application service knows everything up to this position
    blob("body"),  # JSON
    text("delivered"),  # JSON: [[device nid, position], …] of messages to devices that are over with it
)
# Rooms that application services publish, each in a network of theirs.
appservice_rooms = Table(
    "appservice_rooms",
    metadata,
    text("service_id", primary=True),
    text("network_id", primary=True),
    nid("room_nid", primary=True),
    # Which networks a room is listed in.
    Index("appservice_rooms_by_room", "room_nid"),
    **CLUSTERED,
)
