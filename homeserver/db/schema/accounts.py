"""Tables of accounts: who may log in, from which devices, and what they keep here."""

from __future__ import annotations

from sqlalchemy import Index, Table

from homeserver.db.schema.base import CLUSTERED, blob, metadata, nid, small, text

accounts = Table(
    "accounts",
    metadata,
    nid("user_nid", primary=True),
    text("password_hash", optional=True),  # NULL: no login by password
    nid("created_ts_ms"),
    small("admin", default=0),
    small("guest", default=0),
    small("deactivated", default=0),
    small("erased", default=0),
    text("appservice_id", optional=True),
    text("user_type", optional=True),  # "bot", "support"; NULL for a person
    small("suspended", default=0),
    small("locked", default=0),
    # What administrators allow this user instead of the configured rates; NULL: nothing of the kind.
    nid("rate_per_second", optional=True),  # 0: as much as they like
    nid("rate_burst", optional=True),
)
# Whose events are shown in their redacted form to those who came later; read as a whole at the start.
erasures = Table(
    "erasures",
    metadata,
    nid("user_nid", primary=True),
    nid("pos"),  # of the erasure, in the order of all changes
)
devices = Table(
    "devices",
    metadata,
    nid("nid", primary=True),
    nid("user_nid"),
    text("device_id"),
    text("display_name", optional=True),
    nid("created_ts_ms"),
    nid("last_seen_ts_ms", optional=True),
    text("last_seen_ip", optional=True),
    text("user_agent", optional=True),
    # A user's devices; a device by its id.
    Index("devices_by_user", "user_nid", "device_id", unique=True),
)
# Only hashes of tokens are kept: whoever reads the database cannot log in with it.
access_tokens = Table(
    "access_tokens",
    metadata,
    blob("hash", primary=True),
    nid("user_nid"),
    nid("device_nid"),
    # How many refreshes lie between the login and this token; see store/tokens.py.
    nid("generation"),
    nid("expires_ts_ms", optional=True),
    # Logging out a device or a user.
    Index("access_tokens_by_device", "device_nid"),
    Index("access_tokens_by_user", "user_nid"),
)
refresh_tokens = Table(
    "refresh_tokens",
    metadata,
    blob("hash", primary=True),
    nid("user_nid"),
    nid("device_nid"),
    nid("generation"),
    nid("expires_ts_ms", optional=True),  # 0: another one has replaced it
    # When it was used, and what the pair that it became was derived with; NULL until then.
    nid("used_ts_ms", optional=True),
    blob("seed", optional=True),
    # What a device still holds when its tokens are rotated or revoked.
    Index("refresh_tokens_by_device", "device_nid"),
    Index("refresh_tokens_by_user", "user_nid"),
)
# Tokens of m.login.token: short-lived, and gone with their first use.
login_tokens = Table(
    "login_tokens",
    metadata,
    blob("hash", primary=True),
    nid("user_nid"),
    nid("expires_ts_ms"),
    # Revoked with the account; swept when they are over.
    Index("login_tokens_by_user", "user_nid"),
    Index("login_tokens_by_expiry", "expires_ts_ms"),
)
# Tokens that say who somebody is to a service that is not ours, and nothing else.
openid_tokens = Table(
    "openid_tokens",
    metadata,
    blob("hash", primary=True),
    nid("user_nid"),
    nid("expires_ts_ms"),
    # Revoked with the account; swept when they are over.
    Index("openid_tokens_by_user", "user_nid"),
    Index("openid_tokens_by_expiry", "expires_ts_ms"),
)
registration_tokens = Table(
    "registration_tokens",
    metadata,
    text("token", primary=True),
    nid("uses_allowed", optional=True),
    nid("completed"),
    nid("expires_ts_ms", optional=True),
)
# One row per profile field, its value as JSON text.
profiles = Table(
    "profiles",
    metadata,
    nid("user_nid", primary=True),
    text("field", primary=True),
    text("value"),
    **CLUSTERED,
)
# room_nid 0: global account data.
account_data = Table(
    "account_data",
    metadata,
    nid("user_nid", primary=True),
    nid("room_nid", primary=True),
    text("type", primary=True),
    text("content"),
    nid("pos"),
    # What changed since a sync token.
    Index("account_data_by_pos", "user_nid", "pos"),
    **CLUSTERED,
)
filters = Table(
    "filters",
    metadata,
    nid("user_nid", primary=True),
    nid("filter_id", primary=True),
    blob("hash"),
    text("filter"),
    # The same filter twice gets the same id.
    Index("filters_by_hash", "user_nid", "hash", unique=True),
    **CLUSTERED,
)
receipts = Table(
    "receipts",
    metadata,
    nid("room_nid", primary=True),
    nid("user_nid", primary=True),
    small("kind", primary=True),  # 0: m.read, 1: m.read.private
    text("thread", primary=True),  # "": unthreaded
    nid("event_nid"),
    nid("ts_ms"),
    nid("pos"),
    # What changed since a sync token.
    Index("receipts_by_pos", "room_nid", "pos"),
    **CLUSTERED,
)
