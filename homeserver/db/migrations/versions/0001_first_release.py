"""Every table of the first release.

Revision 0001; there is none before it.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
# The oldest program that understands a database of this revision.
oldest_reader = "0001"

_TYPES = (
    ("m.room.create", 1),
    ("m.room.member", 2),
    ("m.room.power_levels", 3),
    ("m.room.join_rules", 4),
    ("m.room.history_visibility", 5),
    ("m.room.canonical_alias", 6),
    ("m.room.name", 7),
    ("m.room.topic", 8),
    ("m.room.avatar", 9),
    ("m.room.guest_access", 10),
    ("m.room.message", 11),
    ("m.room.encrypted", 12),
    ("m.room.redaction", 13),
    ("m.reaction", 14),
    ("m.room.tombstone", 15),
    ("m.room.encryption", 16),
    ("m.space.child", 17),
    ("m.space.parent", 18),
    ("m.room.server_acl", 19),
    ("m.room.third_party_invite", 20),
)


def _big(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column(name, kind, nullable=nullable, autoincrement=False)


def _small(name: str, *, nullable: bool = False, default: str | None = None) -> sa.Column[Any]:
    return sa.Column(name, sa.Integer(), nullable=nullable, autoincrement=False, server_default=default)


def _text(name: str, *, nullable: bool = False, unique: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.Text(), nullable=nullable, unique=unique)


def _blob(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.LargeBinary(), nullable=nullable)


def _names() -> None:
    """Names, and the numbers that stand for them."""
    op.create_table(
        "rooms",
        _big("nid"),
        _text("room_id", unique=True),
        _text("version", nullable=True),
        sa.PrimaryKeyConstraint("nid"),
    )
    op.create_table("user_ids", _big("nid"), _text("user_id", unique=True), sa.PrimaryKeyConstraint("nid"))
    op.create_table("event_types", _big("nid"), _text("type", unique=True), sa.PrimaryKeyConstraint("nid"))
    op.create_table(
        "state_keys", _big("nid"), _big("type_nid"), _text("state_key"), sa.PrimaryKeyConstraint("nid")
    )
    op.create_index("state_keys_by_name", "state_keys", ["type_nid", "state_key"], unique=True)
    op.create_table("nid_leases", _text("name"), _big("next"), sa.PrimaryKeyConstraint("name"))


def _history() -> None:
    """Events and their order."""
    op.create_table(
        "events",
        _big("nid"),
        _big("room_nid"),
        _big("type_nid"),
        _big("state_key_nid", nullable=True),
        _big("sender_nid"),
        _text("event_id", unique=True),
        _big("depth"),
        _big("ts_ms"),
        _big("state_before", nullable=True),
        _text("rejected_reason", nullable=True),
        _big("auth_rank", nullable=True),
        sa.PrimaryKeyConstraint("nid"),
    )
    op.create_index("events_by_time", "events", ["room_nid", "ts_ms"])
    op.create_table("event_json", _big("nid"), _text("json"), sa.PrimaryKeyConstraint("nid"))
    op.create_table(
        "timeline",
        _big("room_nid"),
        _big("pos"),
        _big("event_nid"),
        sa.PrimaryKeyConstraint("room_nid", "pos"),
        sqlite_with_rowid=False,
    )
    op.create_index("timeline_by_event", "timeline", ["event_nid"], unique=True)
    op.create_table(
        "redactions",
        _text("target_id"),
        _big("by_nid"),
        sa.PrimaryKeyConstraint("target_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "edges",
        _text("parent_id"),
        _big("child_nid"),
        sa.PrimaryKeyConstraint("parent_id", "child_nid"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "auth_edges",
        _big("child_nid"),
        _big("parent_nid"),
        sa.PrimaryKeyConstraint("child_nid", "parent_nid"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "gaps",
        _big("room_nid"),
        _text("missing_id"),
        sa.PrimaryKeyConstraint("room_nid", "missing_id"),
        sqlite_with_rowid=False,
    )


def _state() -> None:
    """State at each point, and the latest of each room."""
    op.create_table(
        "snapshots",
        _big("nid"),
        _big("room_nid"),
        _big("base_nid", nullable=True),
        _big("size"),
        _blob("data"),
        sa.PrimaryKeyConstraint("nid"),
    )
    op.create_index("snapshots_by_room", "snapshots", ["room_nid"])
    op.create_table(
        "room_heads",
        _big("room_nid"),
        _big("version"),
        _big("snapshot_nid"),
        _big("depth"),
        _text("extremities"),
        sa.PrimaryKeyConstraint("room_nid"),
    )
    op.create_table(
        "current_state",
        _big("room_nid"),
        _big("state_key_nid"),
        _big("event_nid"),
        sa.PrimaryKeyConstraint("room_nid", "state_key_nid"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "state_log",
        _big("room_nid"),
        _big("pos"),
        _big("state_key_nid"),
        _big("event_nid"),
        _big("prev_nid"),
        sa.PrimaryKeyConstraint("room_nid", "pos", "state_key_nid"),
        sqlite_with_rowid=False,
    )
    op.create_index("state_log_by_key", "state_log", ["room_nid", "state_key_nid", "pos"])
    op.create_table(
        "members",
        _big("room_nid"),
        _big("user_nid"),
        _small("membership"),
        _big("event_nid"),
        _big("pos"),
        _small("forgotten", default="0"),
        sa.PrimaryKeyConstraint("room_nid", "user_nid"),
        sqlite_with_rowid=False,
    )
    op.create_index("members_by_user", "members", ["user_nid", "membership"])


def _around_rooms() -> None:
    """What belongs to rooms without being history."""
    op.create_table(
        "client_transactions",
        _big("device_nid"),
        _big("room_nid"),
        _text("txn_key"),
        _big("event_nid"),
        _big("ts_ms"),
        sa.PrimaryKeyConstraint("device_nid", "room_nid", "txn_key"),
        sqlite_with_rowid=False,
    )
    op.create_index("client_transactions_by_age", "client_transactions", ["ts_ms"])
    op.create_table(
        "aliases", _text("alias"), _big("room_nid"), _big("creator_nid"), sa.PrimaryKeyConstraint("alias")
    )
    op.create_index("aliases_by_room", "aliases", ["room_nid"])
    op.create_table("published_rooms", _big("room_nid"), sa.PrimaryKeyConstraint("room_nid"))
    op.create_table(
        "pushers",
        _big("user_nid"),
        _text("app_id"),
        _text("pushkey"),
        _text("kind"),
        _text("app_display_name"),
        _text("device_display_name"),
        _text("profile_tag", nullable=True),
        _text("lang"),
        _text("data"),
        _big("device_nid"),
        _big("created_ts_ms"),
        sa.PrimaryKeyConstraint("user_nid", "app_id", "pushkey"),
        sqlite_with_rowid=False,
    )
    op.create_index("pushers_by_key", "pushers", ["app_id", "pushkey"])
    op.create_table(
        "receipts",
        _big("room_nid"),
        _big("user_nid"),
        _small("kind"),
        _text("thread"),
        _big("event_nid"),
        _big("ts_ms"),
        _big("pos"),
        sa.PrimaryKeyConstraint("room_nid", "user_nid", "kind", "thread"),
        sqlite_with_rowid=False,
    )
    op.create_index("receipts_by_pos", "receipts", ["room_nid", "pos"])


def _relations() -> None:
    """Which events relate to which."""
    op.create_table(
        "relations",
        _text("target_id"),
        _big("room_nid"),
        _text("rel_type"),
        _big("pos"),
        _big("child_nid"),
        _big("type_nid"),
        _big("sender_nid"),
        _big("ts_ms"),
        _small("sound"),
        sa.PrimaryKeyConstraint("target_id", "room_nid", "rel_type", "pos"),
        sqlite_with_rowid=False,
    )
    op.create_index("relations_by_place", "relations", ["target_id", "room_nid", "pos"])
    op.create_index("relations_by_child", "relations", ["child_nid"], unique=True)
    op.create_index(
        "relations_of_threads",
        "relations",
        ["room_nid", "target_id", "pos", "sender_nid"],
        sqlite_where=sa.text("rel_type = 'm.thread'"),
        postgresql_where=sa.text("rel_type = 'm.thread'"),
    )


def _accounts() -> None:
    """Accounts, devices, profiles."""
    op.create_table(
        "accounts",
        _big("user_nid"),
        _text("password_hash", nullable=True),
        _big("created_ts_ms"),
        _small("admin", default="0"),
        _small("guest", default="0"),
        _small("deactivated", default="0"),
        _small("erased", default="0"),
        _text("appservice_id", nullable=True),
        _text("user_type", nullable=True),
        sa.PrimaryKeyConstraint("user_nid"),
    )
    op.create_table(
        "devices",
        _big("nid"),
        _big("user_nid"),
        _text("device_id"),
        _text("display_name", nullable=True),
        _big("created_ts_ms"),
        _big("last_seen_ts_ms", nullable=True),
        _text("last_seen_ip", nullable=True),
        _text("user_agent", nullable=True),
        sa.PrimaryKeyConstraint("nid"),
    )
    op.create_index("devices_by_user", "devices", ["user_nid", "device_id"], unique=True)
    op.create_table(
        "registration_tokens",
        _text("token"),
        _big("uses_allowed", nullable=True),
        _big("completed"),
        _big("expires_ts_ms", nullable=True),
        sa.PrimaryKeyConstraint("token"),
    )
    op.create_table(
        "profiles",
        _big("user_nid"),
        _text("field"),
        _text("value"),
        sa.PrimaryKeyConstraint("user_nid", "field"),
        sqlite_with_rowid=False,
    )


def _tokens() -> None:
    """Hashes of tokens."""
    op.create_table(
        "access_tokens",
        _blob("hash"),
        _big("user_nid"),
        _big("device_nid"),
        _big("generation"),
        _big("expires_ts_ms", nullable=True),
        sa.PrimaryKeyConstraint("hash"),
    )
    op.create_index("access_tokens_by_device", "access_tokens", ["device_nid"])
    op.create_index("access_tokens_by_user", "access_tokens", ["user_nid"])
    op.create_table(
        "refresh_tokens",
        _blob("hash"),
        _big("user_nid"),
        _big("device_nid"),
        _big("generation"),
        _big("expires_ts_ms", nullable=True),
        sa.PrimaryKeyConstraint("hash"),
    )
    op.create_index("refresh_tokens_by_device", "refresh_tokens", ["device_nid"])
    op.create_index("refresh_tokens_by_user", "refresh_tokens", ["user_nid"])
    op.create_table(
        "login_tokens",
        _blob("hash"),
        _big("user_nid"),
        _big("expires_ts_ms"),
        sa.PrimaryKeyConstraint("hash"),
    )
    op.create_index("login_tokens_by_expiry", "login_tokens", ["expires_ts_ms"])
    op.create_index("login_tokens_by_user", "login_tokens", ["user_nid"])


def _kept_for_users() -> None:
    """What users keep here."""
    op.create_table(
        "account_data",
        _big("user_nid"),
        _big("room_nid"),
        _text("type"),
        _text("content"),
        _big("pos"),
        sa.PrimaryKeyConstraint("user_nid", "room_nid", "type"),
        sqlite_with_rowid=False,
    )
    op.create_index("account_data_by_pos", "account_data", ["user_nid", "pos"])
    op.create_table(
        "filters",
        _big("user_nid"),
        _big("filter_id"),
        _blob("hash"),
        _text("filter"),
        sa.PrimaryKeyConstraint("user_nid", "filter_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("filters_by_hash", "filters", ["user_nid", "hash"], unique=True)


def _media() -> None:
    """What was uploaded."""
    op.create_table(
        "media",
        _text("origin"),
        _text("media_id"),
        _big("user_nid", nullable=True),
        _text("sha256", nullable=True),
        _big("size", nullable=True),
        _text("content_type", nullable=True),
        _text("file_name", nullable=True),
        _big("created_ts_ms"),
        _big("last_access_ts_ms", nullable=True),
        _big("unused_expires_ts_ms", nullable=True),
        _small("quarantined", default="0"),
        sa.PrimaryKeyConstraint("origin", "media_id"),
    )
    op.create_index("media_by_file", "media", ["sha256"])
    op.create_index("media_by_user", "media", ["user_nid", "created_ts_ms"])
    op.create_index(
        "media_expiring",
        "media",
        ["unused_expires_ts_ms"],
        sqlite_where=sa.text("unused_expires_ts_ms IS NOT NULL"),
        postgresql_where=sa.text("unused_expires_ts_ms IS NOT NULL"),
    )
    op.create_index(
        "media_pending",
        "media",
        ["user_nid", "unused_expires_ts_ms"],
        sqlite_where=sa.text("unused_expires_ts_ms IS NOT NULL"),
        postgresql_where=sa.text("unused_expires_ts_ms IS NOT NULL"),
    )


def _log() -> None:
    """The log of changes, and facts about the database."""
    op.create_table("stream", _small("id"), _big("pos"), sa.PrimaryKeyConstraint("id"))
    op.create_table(
        "changes", _big("pos"), _small("kind"), _big("topic"), _big("ref"), sa.PrimaryKeyConstraint("pos")
    )
    op.create_table("followers", _text("name"), _big("pos"), sa.PrimaryKeyConstraint("name"))
    op.create_table("server_facts", _text("name"), _text("value"), sa.PrimaryKeyConstraint("name"))


def _first_rows() -> None:
    op.bulk_insert(sa.table("stream", sa.column("id"), sa.column("pos")), [{"id": 1, "pos": 0}])
    op.bulk_insert(
        sa.table("nid_leases", sa.column("name"), sa.column("next")), [{"name": "nid", "next": 1000}]
    )
    types = sa.table("event_types", sa.column("nid"), sa.column("type"))
    op.bulk_insert(types, [{"nid": nid, "type": name} for name, nid in _TYPES])


def upgrade() -> None:
    """Into an empty database."""
    _names()
    _history()
    _state()
    _around_rooms()
    _relations()
    _accounts()
    _tokens()
    _kept_for_users()
    _media()
    _log()
    _first_rows()
