"""What clients use beyond rooms and messages: key backups, application services, delayed events and their like.

Revision 0003; it comes after 0002.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
# The oldest program that understands a database of this revision.
oldest_reader = "0003"


def _big(name: str, *, nullable: bool = False, default: str | None = None) -> sa.Column[Any]:
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column(name, kind, nullable=nullable, autoincrement=False, server_default=default)


def _small(name: str, *, nullable: bool = False, default: str | None = None) -> sa.Column[Any]:
    return sa.Column(name, sa.Integer(), nullable=nullable, autoincrement=False, server_default=default)


def _text(name: str, *, nullable: bool = False, unique: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.Text(), nullable=nullable, unique=unique)


def _blob(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.LargeBinary(), nullable=nullable)


def _accounts() -> None:
    """Accounts that are suspended or locked, or have rates of their own; addresses of users."""
    op.add_column("accounts", _small("suspended", default="0"))
    op.add_column("accounts", _small("locked", default="0"))
    op.add_column("accounts", _big("rate_per_second", nullable=True))
    op.add_column("accounts", _big("rate_burst", nullable=True))
    op.create_table(
        "threepids",
        _text("medium"),
        _text("address"),
        _big("user_nid"),
        _big("validated_ts_ms"),
        _big("added_ts_ms"),
        sa.PrimaryKeyConstraint("medium", "address"),
        sqlite_with_rowid=False,
    )
    op.create_index("threepids_by_user", "threepids", ["user_nid"])
    op.create_table(
        "threepid_bindings",
        _big("user_nid"),
        _text("medium"),
        _text("address"),
        _text("id_server"),
        sa.PrimaryKeyConstraint("user_nid", "medium", "address", "id_server"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "validations",
        _text("sid"),
        _small("purpose"),
        _text("address"),
        _text("client_secret"),
        _big("send_attempt"),
        _blob("token_hash"),
        _small("wrong_tokens"),
        _text("next_link", nullable=True),
        _big("validated_ts_ms", nullable=True),
        _big("expires_ts_ms"),
        sa.PrimaryKeyConstraint("sid"),
    )
    op.create_index(
        "validations_by_client", "validations", ["address", "client_secret", "purpose"], unique=True
    )
    op.create_index("validations_by_expiry", "validations", ["expires_ts_ms"])


def _key_backups() -> None:
    """Room keys that clients keep here."""
    op.create_table(
        "key_backups",
        _big("user_nid"),
        _big("version"),
        _big("keys_nid"),
        _text("algorithm"),
        _text("auth_data"),
        _big("etag"),
        _big("key_count"),
        _big("size"),
        sa.PrimaryKeyConstraint("user_nid", "version"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "backed_up_keys",
        _big("keys_nid"),
        _text("room_id"),
        _text("session_id"),
        _big("first_index"),
        _big("forwarded"),
        _small("verified"),
        _text("session_data"),
        _big("size"),
        sa.PrimaryKeyConstraint("keys_nid", "room_id", "session_id"),
        sqlite_with_rowid=False,
    )
    op.create_table("dropped_keys", _big("keys_nid"), sa.PrimaryKeyConstraint("keys_nid"))


def _moderation() -> None:
    op.create_table(
        "reports",
        _big("pos"),
        _big("reporter_nid"),
        _big("ts_ms"),
        _text("room_id", nullable=True),
        _text("event_id", nullable=True),
        _text("user_id", nullable=True),
        _text("reason"),
        sa.PrimaryKeyConstraint("pos"),
        sqlite_with_rowid=False,
    )
    op.create_index("reports_by_reporter", "reports", ["reporter_nid"])
    op.create_index("reports_by_time", "reports", ["ts_ms"])
    op.create_table(
        "moderation_tasks",
        _text("task_id"),
        _small("kind"),
        _text("subject"),
        _big("by_nid"),
        _text("wishes"),
        _text("result"),
        _big("began_ts_ms"),
        _big("ended_ts_ms", nullable=True),
        _text("error", nullable=True),
        sa.PrimaryKeyConstraint("task_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("moderation_tasks_by_subject", "moderation_tasks", ["subject"])
    op.create_index("moderation_tasks_by_end", "moderation_tasks", ["ended_ts_ms"])
    op.create_table(
        "blocked_rooms",
        _big("room_nid"),
        _big("by_nid"),
        sa.PrimaryKeyConstraint("room_nid"),
    )


def _partial_joins() -> None:
    """How often the keys were asked for that a join lacks."""
    op.add_column("partial_joins", _small("attempts", default="0"))


def _declined() -> None:
    """What servers that were away are to be told yet."""
    op.create_table(
        "declined",
        _big("room_nid"),
        _big("user_nid"),
        sa.Column("event_id", sa.Text(), nullable=False),
        _small("attempts", default="0"),
        _big("retry_ts_ms"),
        sa.PrimaryKeyConstraint("room_nid", "user_nid"),
        sqlite_with_rowid=False,
    )
    op.create_index("declined_by_retry", "declined", ["retry_ts_ms"])


def _push() -> None:
    """Pushers that can be switched off, and what could not be sent to them yet."""
    op.add_column("pushers", _small("enabled", default="1"))
    op.create_index("pushers_by_device", "pushers", ["device_nid"])
    op.create_table(
        "pusher_debts",
        _big("user_nid"),
        _text("app_id"),
        _text("pushkey"),
        _small("failures"),
        _big("failing_since_ts_ms"),
        _big("retry_at_ts_ms"),
        _text("owed"),
        sa.PrimaryKeyConstraint("user_nid", "app_id", "pushkey"),
        sqlite_with_rowid=False,
    )


_NUMBER_MESSAGES = """
    UPDATE to_device SET place = numbered.place FROM (
        SELECT device_nid, pos, row_number() OVER (PARTITION BY device_nid ORDER BY pos) AS place FROM to_device
    ) AS numbered WHERE numbered.device_nid = to_device.device_nid AND numbered.pos = to_device.pos
"""
_COPY_MESSAGES = """
    INSERT INTO new_to_device (device_nid, pos, message, place)
        SELECT device_nid, pos, message, row_number() OVER (PARTITION BY device_nid ORDER BY pos) FROM to_device
        ORDER BY pos
"""


def _inboxes() -> None:
    """How much waits for a device, without counting it."""
    if op.get_bind().dialect.name == "postgresql":
        op.add_column("to_device", _small("place", default="0"))
        op.execute(_NUMBER_MESSAGES)
        return
    # SQLite's trees without row ids put what is longer than a kilobyte on a page of its own: a message was two pages.
    op.create_table(
        "new_to_device",
        _big("device_nid"),
        _big("pos"),
        _text("message"),
        _small("place", default="0"),
        sa.PrimaryKeyConstraint("device_nid", "pos"),
    )
    op.execute(_COPY_MESSAGES)
    op.drop_table("to_device")
    op.rename_table("new_to_device", "to_device")


_NUMBER_KEYS = """
    CREATE TABLE numbered_keys AS
        SELECT device_nid, algorithm, key_id, place, key,
            row_number() OVER (PARTITION BY device_nid, algorithm ORDER BY place, key_id) - 1 AS number
        FROM one_time_keys
"""
_COPY_KEYS = """
    INSERT INTO one_time_keys (device_nid, algorithm, number, key_id, place, key)
        SELECT device_nid, algorithm, number, key_id, place, key FROM numbered_keys
        ORDER BY device_nid, algorithm, number
"""
_COUNT_KEYS = """
    INSERT INTO one_time_counts (device_nid, algorithm, given, uploaded)
        SELECT device_nid, algorithm, 0, count(*) FROM numbered_keys GROUP BY device_nid, algorithm
"""


def _one_time_keys() -> None:
    """Which key is the next, without looking for it."""
    op.execute(_NUMBER_KEYS)
    op.drop_table("one_time_keys")
    op.create_table(
        "one_time_keys",
        _big("device_nid"),
        _text("algorithm"),
        _big("number"),
        _text("key_id"),
        _big("place"),
        _text("key"),
        sa.PrimaryKeyConstraint("device_nid", "algorithm", "number"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "one_time_counts",
        _big("device_nid"),
        _text("algorithm"),
        _big("given"),
        _big("uploaded"),
        sa.PrimaryKeyConstraint("device_nid", "algorithm"),
        sqlite_with_rowid=False,
    )
    op.execute(_COPY_KEYS)
    op.execute(_COUNT_KEYS)
    op.drop_table("numbered_keys")


def _dehydrated_devices() -> None:
    """Devices that take messages while nobody is logged in."""
    op.create_table(
        "dehydrated_devices",
        _big("user_nid"),
        _big("device_nid"),
        _text("device_data"),
        sa.PrimaryKeyConstraint("user_nid"),
    )


def _delayed_events() -> None:
    op.create_table(
        "delayed_events",
        _text("delay_id"),
        _big("user_nid"),
        _text("room_id"),
        _text("type"),
        _text("state_key", nullable=True),
        _text("content"),
        _big("sticky_ms", nullable=True),
        _big("said_at_ms", nullable=True),
        _big("delay_ms"),
        _big("since_ts_ms"),
        _big("due_ts_ms", nullable=True),
        _big("ended_ts_ms", nullable=True),
        _text("event_id", nullable=True),
        _text("error", nullable=True),
        _big("device_nid"),
        _text("txn_key"),
        sa.PrimaryKeyConstraint("delay_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("delayed_events_by_txn", "delayed_events", ["device_nid", "txn_key"], unique=True)
    op.create_index("delayed_events_by_user", "delayed_events", ["user_nid", "ended_ts_ms"])
    op.create_index("delayed_events_by_due", "delayed_events", ["due_ts_ms"])
    op.create_index("delayed_events_by_end", "delayed_events", ["ended_ts_ms"])


def _application_services() -> None:
    """How far each was told, and the rooms that they list."""
    op.create_table(
        "appservice_positions",
        _text("service_id"),
        _big("caught_up_to"),
        _small("failures"),
        _big("retry_at_ts_ms"),
        sa.PrimaryKeyConstraint("service_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "appservice_transactions",
        _text("service_id"),
        _text("txn_id"),
        _big("upto"),
        _blob("body"),
        _text("delivered"),
        sa.PrimaryKeyConstraint("service_id"),
    )
    op.create_table(
        "appservice_rooms",
        _text("service_id"),
        _text("network_id"),
        _big("room_nid"),
        sa.PrimaryKeyConstraint("service_id", "network_id", "room_nid"),
        sqlite_with_rowid=False,
    )
    op.create_index("appservice_rooms_by_room", "appservice_rooms", ["room_nid"])


def _sticky_events() -> None:
    op.create_table(
        "sticky_events",
        _big("event_nid"),
        _big("room_nid"),
        _big("pos"),
        _big("until_ts_ms"),
        sa.PrimaryKeyConstraint("event_nid"),
        sqlite_with_rowid=False,
    )
    op.create_index("sticky_events_by_end", "sticky_events", ["until_ts_ms"])
    op.add_column("relays", _text("only_to", nullable=True))


def _sync() -> None:
    """Connections of sliding sync, subscriptions of threads, changes of profiles."""
    op.create_table(
        "sliding_connections",
        _big("user_nid"),
        _big("device_nid"),
        _text("conn_id"),
        _big("version"),
        _text("epoch"),
        _blob("state"),
        _big("used_ts_ms"),
        sa.PrimaryKeyConstraint("user_nid", "device_nid", "conn_id", "version"),
    )
    op.create_index("sliding_connections_by_age", "sliding_connections", ["used_ts_ms"])
    op.create_index("sliding_connections_by_device", "sliding_connections", ["device_nid"])
    op.create_table(
        "thread_subscriptions",
        _big("user_nid"),
        _big("room_nid"),
        _big("root_nid"),
        _small("subscribed"),
        _small("automatic"),
        _big("unsubscribed_pos"),
        _big("pos"),
        sa.PrimaryKeyConstraint("user_nid", "room_nid", "root_nid"),
        sqlite_with_rowid=False,
    )
    op.create_index("thread_subscriptions_by_pos", "thread_subscriptions", ["user_nid", "pos"])
    op.create_table(
        "profile_changes",
        _big("user_nid"),
        _text("field"),
        _big("pos"),
        sa.PrimaryKeyConstraint("user_nid", "field"),
        sqlite_with_rowid=False,
    )
    op.create_index("profile_changes_by_pos", "profile_changes", ["pos"])


def _related_redactions() -> None:
    op.create_table(
        "related_redactions",
        _text("target_id"),
        _big("room_nid"),
        _text("rel_type"),
        _big("sender_nid"),
        _big("until_ts_ms"),
        sa.PrimaryKeyConstraint("target_id", "room_nid", "rel_type"),
        sqlite_with_rowid=False,
    )
    op.create_index("related_redactions_by_end", "related_redactions", ["until_ts_ms"])


_COUNT_UPLOADS = """
    INSERT INTO media_usage (user_nid, files, size)
    SELECT user_nid, count(*), sum(size) FROM media
    WHERE user_nid IS NOT NULL AND sha256 IS NOT NULL GROUP BY user_nid
"""


def _media() -> None:
    """How much each user has uploaded; who has quarantined a file; previews of links."""
    op.add_column("media", _big("quarantined_by_nid", nullable=True))
    op.create_table(
        "media_usage",
        _big("user_nid"),
        _big("files"),
        _big("size"),
        sa.PrimaryKeyConstraint("user_nid"),
    )
    op.execute(_COUNT_UPLOADS)
    op.create_table(
        "url_previews",
        _text("url_hash"),
        _blob("body"),
        _big("expires_ts_ms"),
        sa.PrimaryKeyConstraint("url_hash"),
        sqlite_with_rowid=False,
    )
    op.create_index("url_previews_by_expiry", "url_previews", ["expires_ts_ms"])


def _search() -> None:
    """The text search. Its index is filled by the server, in the background."""
    op.create_table(
        "search_documents",
        _big("event_nid"),
        _big("place"),
        _big("room_nid"),
        sa.PrimaryKeyConstraint("event_nid"),
        sa.UniqueConstraint("place"),
    )
    op.create_table("search_queue", _big("event_nid"), sa.PrimaryKeyConstraint("event_nid"))
    op.create_table(
        "search_progress",
        _small("id"),
        _big("below"),
        sa.PrimaryKeyConstraint("id"),
        sqlite_with_rowid=False,
    )
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            "CREATE VIRTUAL TABLE search_words USING fts5(marks, words, content='',"
            " tokenize=\"unicode61 remove_diacritics 0 categories 'L* N* M*'\")"
        )
    else:
        op.execute("CREATE TABLE search_words (place BIGINT PRIMARY KEY, words TSVECTOR NOT NULL)")
        op.execute("ALTER TABLE search_words ALTER COLUMN words SET STATISTICS 0")
        op.execute(
            "CREATE INDEX search_words_by_word ON search_words USING gin (words) WITH (gin_pending_list_limit = 256)"
        )


# Who asked for it before: whoever is in a room by now has had their events.
_ERASED_BEFORE = """
    INSERT INTO erasures (user_nid, pos)
    SELECT user_nid, coalesce((SELECT max(pos) FROM stream), 0) FROM accounts WHERE erased <> 0
"""


def _erasures() -> None:
    """Since when the events of users who wanted it are shown in their redacted form to newcomers."""
    op.create_table("erasures", _big("user_nid"), _big("pos"), sa.PrimaryKeyConstraint("user_nid"))
    op.execute(_ERASED_BEFORE)


def _holes() -> None:
    """History that is missing in the middle of a timeline, and goes there when it comes."""
    op.add_column("timeline", _small("mark", default="0"))
    op.execute("UPDATE timeline SET mark = 2 WHERE pos < 0")
    op.add_column("gaps", _big("top", default="0"))


def upgrade() -> None:
    """Add what is new."""
    _accounts()
    _key_backups()
    _moderation()
    _partial_joins()
    _declined()
    _push()
    _inboxes()
    _one_time_keys()
    _dehydrated_devices()
    _delayed_events()
    _application_services()
    _sticky_events()
    _sync()
    _related_redactions()
    _media()
    _search()
    _erasures()
    _holes()
