"""Tables of third-party identifiers: addresses of users, and the proofs that they are theirs."""

from __future__ import annotations

from sqlalchemy import Index, Table

from homeserver.db.schema.base import CLUSTERED, blob, metadata, nid, small, text

# An address belongs to one account at most.
threepids = Table(
    "threepids",
    metadata,
    text("medium", primary=True),
    text("address", primary=True),
    nid("user_nid"),
    nid("validated_ts_ms"),
    nid("added_ts_ms"),
    # A user's addresses.
    Index("threepids_by_user", "user_nid"),
    **CLUSTERED,
)
# What was bound through this server, so that it can be unbound where it was.
threepid_bindings = Table(
    "threepid_bindings",
    metadata,
    nid("user_nid", primary=True),
    text("medium", primary=True),
    text("address", primary=True),
    text("id_server", primary=True),
    **CLUSTERED,
)
# Attempts to prove that an address is one's own; over after a day.
validations = Table(
    "validations",
    metadata,
    text("sid", primary=True),
    small("purpose"),  # store.validations.Purpose
    text("address"),
    text("client_secret"),
    nid("send_attempt"),
    blob("token_hash"),  # of the newest letter's token
    small("wrong_tokens"),
    text("next_link", optional=True),
    nid("validated_ts_ms", optional=True),
    nid("expires_ts_ms"),
    # The same client asks again.
    Index("validations_by_client", "address", "client_secret", "purpose", unique=True),
    # Swept when they are over.
    Index("validations_by_expiry", "expires_ts_ms"),
)
