"""Tables of media: what was uploaded, by whom, and where its bytes are."""

from __future__ import annotations

from sqlalchemy import Index, Table

from homeserver.db.schema.base import CLUSTERED, blob, metadata, nid, small, text

media = Table(
    "media",
    metadata,
    text("origin", primary=True),  # server name
    text("media_id", primary=True),
    nid("user_nid", optional=True),  # NULL: fetched from another server
    text("sha256", optional=True),  # names the file; NULL: created, and not uploaded yet
    nid("size", optional=True),
    text("content_type", optional=True),
    text("file_name", optional=True),
    nid("created_ts_ms"),
    nid("last_access_ts_ms", optional=True),
    nid("unused_expires_ts_ms", optional=True),  # of media created and not uploaded yet
    small("quarantined", default=0),  # 1: shown to nobody, nor any other file of the same content
    nid("quarantined_by_nid", optional=True),
    # What a user has uploaded, newest first; whether a file is still in use.
    Index("media_by_user", "user_nid", "created_ts_ms"),
    Index("media_by_file", "sha256"),
)
# How many a user has created without uploading, and which of all have expired: few rows, so small trees.
_IS_PENDING = media.c.unused_expires_ts_ms.is_not(None)
Index(
    "media_pending",
    media.c.user_nid,
    media.c.unused_expires_ts_ms,
    sqlite_where=_IS_PENDING,
    postgresql_where=_IS_PENDING,
)
Index("media_expiring", media.c.unused_expires_ts_ms, sqlite_where=_IS_PENDING, postgresql_where=_IS_PENDING)
# Which files of other servers nobody has looked at for long.
Index(
    "media_remote",
    media.c.last_access_ts_ms,
    sqlite_where=media.c.user_nid.is_(None),
    postgresql_where=media.c.user_nid.is_(None),
)

# What was quarantined when it was deleted, and was not released since: it stays so under whatever address it comes again.
quarantined_files = Table(
    "quarantined_files",
    metadata,
    text("sha256", primary=True),
    **CLUSTERED,
)

# How much each user has uploaded: quotas are asked at each upload.
media_usage = Table(
    "media_usage",
    metadata,
    nid("user_nid", primary=True),
    nid("files"),
    nid("size"),  # bytes
)

# What was found where a link leads to; rows go when their time is over.
url_previews = Table(
    "url_previews",
    metadata,
    text("url_hash", primary=True),  # SHA-256 of the address, in hexadecimal
    blob("body"),  # JSON, as clients get it
    nid("expires_ts_ms"),
    Index("url_previews_by_expiry", "expires_ts_ms"),
    **CLUSTERED,
)
