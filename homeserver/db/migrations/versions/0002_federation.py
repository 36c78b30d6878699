"""Federation and encryption: what rooms with forks need, other servers, device keys.

Revision 0002; it comes after 0001.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
# The oldest program that understands a database of this revision.
oldest_reader = "0002"


def _big(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column(name, kind, nullable=nullable, autoincrement=False)


def _small(name: str, *, nullable: bool = False, default: str | None = None) -> sa.Column[Any]:
    return sa.Column(name, sa.Integer(), nullable=nullable, autoincrement=False, server_default=default)


def _text(name: str, *, nullable: bool = False, unique: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.Text(), nullable=nullable, unique=unique)


def _blob(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.LargeBinary(), nullable=nullable)


_FROM_CHILDREN = """
    UPDATE events SET state_after = (
        SELECT MIN(child.state_before) FROM edges JOIN events AS child ON child.nid = edges.child_nid
        WHERE edges.parent_id = events.event_id
    ) WHERE state_key_nid IS NOT NULL
"""
_FROM_HEADS = """
    UPDATE events SET state_after = (
        SELECT snapshot_nid FROM room_heads WHERE room_heads.room_nid = events.room_nid
    ) WHERE state_key_nid IS NOT NULL AND state_after IS NULL
"""


def _rooms() -> None:
    """Rooms that are shared with other servers: forks, gaps, and memberships told by others."""
    op.add_column("events", _big("state_after", nullable=True))
    op.add_column("members", _small("outside", default="0"))
    op.create_index("auth_edges_by_parent", "auth_edges", ["parent_nid"])
    op.create_table("ends", _big("event_nid"), sa.PrimaryKeyConstraint("event_nid"))
    op.create_table(
        "waiting_redactions",
        _text("target_id"),
        _big("by_nid"),
        sa.PrimaryKeyConstraint("target_id", "by_nid"),
        sqlite_with_rowid=False,
    )
    # So far every room was a chain: the state after an event is that before its only child, or that of the head.
    op.execute(_FROM_CHILDREN)
    op.execute(_FROM_HEADS)


def _server_keys() -> None:
    """The keys of other servers."""
    op.create_table(
        "server_key_answers",
        sa.Column("server_name", sa.Text(), primary_key=True, nullable=False),
        _big("fetched_ts_ms"),
        _big("valid_until_ts_ms"),
        _blob("answer", nullable=True),
    )
    op.create_table(
        "server_keys",
        _text("server_name"),
        _text("key_id"),
        _blob("public_key"),
        _big("valid_until_ts_ms"),
        _small("expired"),
        sa.PrimaryKeyConstraint("server_name", "key_id"),
        sqlite_with_rowid=False,
    )


def _outgoing() -> None:
    """What we owe other servers."""
    op.create_table(
        "destinations",
        _text("server_name"),
        _big("caught_up_to"),
        _big("devices_after"),
        _small("failures"),
        _big("retry_at_ts_ms"),
        sa.PrimaryKeyConstraint("server_name"),
        sqlite_with_rowid=False,
    )
    op.create_table("relays", _big("pos"), _big("event_nid"), sa.PrimaryKeyConstraint("pos"))


def _incoming() -> None:
    """What other servers sent."""
    op.create_table(
        "incoming_transactions",
        _text("origin"),
        _text("txn_id"),
        _text("answer"),
        _big("ts_ms"),
        sa.PrimaryKeyConstraint("origin", "txn_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("incoming_transactions_by_age", "incoming_transactions", ["ts_ms"])
    op.create_table(
        "staging",
        _big("room_nid"),
        _text("event_id"),
        _text("origin"),
        _text("json"),
        _big("received_ts_ms"),
        _small("attempts"),
        _big("retry_ts_ms"),
        sa.PrimaryKeyConstraint("room_nid", "event_id"),
        sqlite_with_rowid=False,
    )


def _joins() -> None:
    """Memberships of rooms that this server is not in, and joins that are not complete."""
    op.create_table(
        "outside",
        _big("room_nid"),
        _big("user_nid"),
        _text("server"),
        _text("version"),
        _text("event_id"),
        _text("event"),
        _text("stripped"),
        sa.PrimaryKeyConstraint("room_nid", "user_nid"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "partial_joins",
        _big("room_nid"),
        _big("join_nid"),
        _text("server"),
        _text("servers"),
        sa.PrimaryKeyConstraint("room_nid"),
    )


def _device_keys() -> None:
    """Keys and messages of devices."""
    op.create_table(
        "device_keys",
        _big("device_nid"),
        _big("user_nid"),
        _text("json"),
        sa.PrimaryKeyConstraint("device_nid"),
    )
    op.create_index("device_keys_by_user", "device_keys", ["user_nid"])
    op.create_table(
        "one_time_keys",
        _big("device_nid"),
        _text("algorithm"),
        _text("key_id"),
        _big("place"),
        _text("key"),
        sa.PrimaryKeyConstraint("device_nid", "algorithm", "key_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("one_time_keys_by_place", "one_time_keys", ["device_nid", "algorithm", "place", "key_id"])
    op.create_table(
        "fallback_keys",
        _big("device_nid"),
        _text("algorithm"),
        _text("key_id"),
        _text("key"),
        _small("used"),
        sa.PrimaryKeyConstraint("device_nid", "algorithm"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "signing_keys",
        _big("user_nid"),
        _text("usage"),
        _text("public_key"),
        _text("key"),
        sa.PrimaryKeyConstraint("user_nid", "usage"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "key_signatures",
        _big("target_nid"),
        _text("target_id"),
        _big("signer_nid"),
        _text("key_id"),
        _text("signature"),
        sa.PrimaryKeyConstraint("target_nid", "target_id", "signer_nid", "key_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("key_signatures_by_signer", "key_signatures", ["signer_nid", "key_id"])
    _device_messages()
    _device_lists()


def _device_messages() -> None:
    op.create_table(
        "to_device",
        _big("device_nid"),
        _big("pos"),
        _text("message"),
        sa.PrimaryKeyConstraint("device_nid", "pos"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "to_device_out",
        _big("pos"),
        _text("destination"),
        _text("content"),
        sa.PrimaryKeyConstraint("pos"),
    )
    op.create_index("to_device_out_by_destination", "to_device_out", ["destination", "pos"])
    op.create_table(
        "to_device_seen",
        _text("origin"),
        _text("message_id"),
        _big("ts_ms"),
        sa.PrimaryKeyConstraint("origin", "message_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("to_device_seen_by_age", "to_device_seen", ["ts_ms"])
    op.create_table(
        "device_transactions",
        _big("device_nid"),
        _text("txn_key"),
        _big("ts_ms"),
        sa.PrimaryKeyConstraint("device_nid", "txn_key"),
        sqlite_with_rowid=False,
    )
    op.create_index("device_transactions_by_age", "device_transactions", ["ts_ms"])


def _device_lists() -> None:
    op.create_table(
        "list_changes",
        _big("pos"),
        _big("user_nid"),
        _text("device_id"),
        sa.PrimaryKeyConstraint("pos"),
    )
    op.create_index("list_changes_by_user", "list_changes", ["user_nid", "pos"])
    op.create_table(
        "signature_changes",
        _big("signer_nid"),
        _big("target_nid"),
        _big("pos"),
        sa.PrimaryKeyConstraint("signer_nid", "target_nid"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "remote_lists",
        _big("user_nid"),
        _big("stream_id"),
        _small("stale"),
        _big("pos"),
        sa.PrimaryKeyConstraint("user_nid"),
    )
    op.create_table(
        "remote_devices",
        _big("user_nid"),
        _text("device_id"),
        _text("json"),
        _text("display_name", nullable=True),
        sa.PrimaryKeyConstraint("user_nid", "device_id"),
        sqlite_with_rowid=False,
    )


def _remote_media() -> None:
    """Media of other servers, and tokens that tell services of other people who a user is."""
    op.create_index(
        "media_remote",
        "media",
        ["last_access_ts_ms"],
        sqlite_where=sa.text("user_nid IS NULL"),
        postgresql_where=sa.text("user_nid IS NULL"),
    )
    op.create_table(
        "openid_tokens",
        _blob("hash"),
        _big("user_nid"),
        _big("expires_ts_ms"),
        sa.PrimaryKeyConstraint("hash"),
    )
    op.create_index("openid_tokens_by_expiry", "openid_tokens", ["expires_ts_ms"])
    op.create_index("openid_tokens_by_user", "openid_tokens", ["user_nid"])


def upgrade() -> None:
    """From 0001."""
    _rooms()
    _server_keys()
    _outgoing()
    _incoming()
    _joins()
    _device_keys()
    _remote_media()
