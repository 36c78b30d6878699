"""Tables of OAuth 2.0: apps that registered themselves, what people let them do, and who is signed in with a browser.

Of everything that opens something only hashes are kept.
"""

from __future__ import annotations

from sqlalchemy import Index, Table

from homeserver.db.schema.base import CLUSTERED, blob, metadata, nid, small, text

oauth_clients = Table(
    "oauth_clients",
    metadata,
    text("client_id", primary=True),  # made of the metadata: the same app has the same id everywhere
    text("metadata"),
    nid("used_ts_ms"),
    # Those that nobody uses any more are swept.
    Index("oauth_clients_by_use", "used_ts_ms"),
    **CLUSTERED,
)
oauth_codes = Table(
    "oauth_codes",
    metadata,
    blob("hash", primary=True),
    text("client_id"),
    nid("user_nid"),
    text("redirect_uri"),
    text("scope"),
    text("challenge"),
    text("nonce", optional=True),
    nid("expires_ts_ms"),
    nid("device_nid"),  # 0 until it is exchanged; who comes with it again ends that login
    # Revoked with the account; swept when they are over.
    Index("oauth_codes_by_user", "user_nid"),
    Index("oauth_codes_by_expiry", "expires_ts_ms"),
)
oauth_device_codes = Table(
    "oauth_device_codes",
    metadata,
    blob("hash", primary=True),
    text("user_code", unique=True),  # it opens nothing: whoever enters it must log in
    text("client_id"),
    text("scope"),
    nid("expires_ts_ms"),
    small("verdict"),  # 0: nobody has decided, 1: allowed, 2: refused
    nid("user_nid"),  # who decided
    # Revoked with the account; swept when they are over.
    Index("oauth_device_codes_by_user", "user_nid"),
    Index("oauth_device_codes_by_expiry", "expires_ts_ms"),
)
# Devices that logged in by OAuth; all others did by the legacy API.
oauth_sessions = Table(
    "oauth_sessions",
    metadata,
    nid("device_nid", primary=True),
    nid("user_nid"),
    text("client_id"),
    text("scope"),
    blob("family_hash"),  # of what all refresh tokens of this login begin with
    # Whose refresh token it once was; whether somebody uses a client.
    Index("oauth_sessions_by_family", "family_hash", unique=True),
    Index("oauth_sessions_by_client", "client_id"),
    **CLUSTERED,
)
# Where somebody is signed in with a browser, to let apps in and to look after their account.
browser_sessions = Table(
    "browser_sessions",
    metadata,
    blob("hash", primary=True),
    nid("user_nid"),
    nid("begun_ts_ms"),
    nid("expires_ts_ms"),
    # Ended with the account; swept when they are over.
    Index("browser_sessions_by_user", "user_nid"),
    Index("browser_sessions_by_expiry", "expires_ts_ms"),
)
# With what id tokens are signed; one row.
oauth_keys = Table(
    "oauth_keys",
    metadata,
    text("kid", primary=True),
    text("private_key"),  # PEM
    nid("created_ts_ms"),
)
