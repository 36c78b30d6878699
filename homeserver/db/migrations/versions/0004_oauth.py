"""OAuth 2.0: apps, codes, logins and browsers.

Revision 0004; it comes after 0003.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
# The oldest program that understands a database of this revision.
oldest_reader = "0003"


def _big(name: str) -> sa.Column[Any]:
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column(name, kind, nullable=False, autoincrement=False)


def _text(name: str, *, nullable: bool = False, unique: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.Text(), nullable=nullable, unique=unique)


def _blob(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.LargeBinary(), nullable=False)


def _clients() -> None:
    op.create_table(
        "oauth_clients",
        _text("client_id"),
        _text("metadata"),
        _big("used_ts_ms"),
        sa.PrimaryKeyConstraint("client_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("oauth_clients_by_use", "oauth_clients", ["used_ts_ms"])
    op.create_table(
        "oauth_keys",
        _text("kid"),
        _text("private_key"),
        _big("created_ts_ms"),
        sa.PrimaryKeyConstraint("kid"),
    )


def _grants() -> None:
    op.create_table(
        "oauth_codes",
        _blob("hash"),
        _text("client_id"),
        _big("user_nid"),
        _text("redirect_uri"),
        _text("scope"),
        _text("challenge"),
        _text("nonce", nullable=True),
        _big("expires_ts_ms"),
        _big("device_nid"),
        sa.PrimaryKeyConstraint("hash"),
    )
    op.create_index("oauth_codes_by_user", "oauth_codes", ["user_nid"])
    op.create_index("oauth_codes_by_expiry", "oauth_codes", ["expires_ts_ms"])
    op.create_table(
        "oauth_device_codes",
        _blob("hash"),
        _text("user_code", unique=True),
        _text("client_id"),
        _text("scope"),
        _big("expires_ts_ms"),
        sa.Column("verdict", sa.Integer(), nullable=False, autoincrement=False),
        _big("user_nid"),
        sa.PrimaryKeyConstraint("hash"),
    )
    op.create_index("oauth_device_codes_by_user", "oauth_device_codes", ["user_nid"])
    op.create_index("oauth_device_codes_by_expiry", "oauth_device_codes", ["expires_ts_ms"])


def _sessions() -> None:
    op.create_table(
        "oauth_sessions",
        _big("device_nid"),
        _big("user_nid"),
        _text("client_id"),
        _text("scope"),
        _blob("family_hash"),
        sa.PrimaryKeyConstraint("device_nid"),
        sqlite_with_rowid=False,
    )
    op.create_index("oauth_sessions_by_family", "oauth_sessions", ["family_hash"], unique=True)
    op.create_index("oauth_sessions_by_client", "oauth_sessions", ["client_id"])
    op.create_table(
        "browser_sessions",
        _blob("hash"),
        _big("user_nid"),
        _big("begun_ts_ms"),
        _big("expires_ts_ms"),
        sa.PrimaryKeyConstraint("hash"),
    )
    op.create_index("browser_sessions_by_user", "browser_sessions", ["user_nid"])
    op.create_index("browser_sessions_by_expiry", "browser_sessions", ["expires_ts_ms"])


def upgrade() -> None:
    """Add what is new."""
    _clients()
    _grants()
    _sessions()
