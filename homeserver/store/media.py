"""What was uploaded, by whom, and which file holds it. The bytes are not here: see ``homeserver.media.files``.

spec: client-server-api#content-repository
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from sqlalchemy import and_, bindparam, delete, exists, func, null, or_, select, tuple_, update

from homeserver.db.schema.media import media, media_usage, quarantined_files
from homeserver.db.statements import any_of, rows, statement
from homeserver.db.tx import Tx, WriteTx

_M = media.c
_KEY = and_(_M.origin == bindparam("the_origin"), _M.media_id == bindparam("the_media_id"))
_ONE = statement(
    select(
        _M.user_nid,
        _M.sha256,
        _M.size,
        _M.content_type,
        _M.file_name,
        _M.created_ts_ms,
        _M.last_access_ts_ms,
        _M.unused_expires_ts_ms,
        _M.quarantined,
    ).where(_KEY)
)
_same = media.alias("same")
# What is quarantined stays so under whatever address it comes again, though all it had are gone.
_INHERIT = statement(
    update(media)
    .where(
        and_(
            _KEY,
            _M.quarantined == 0,
            or_(
                exists().where(and_(_same.c.sha256 == _M.sha256, _same.c.quarantined == 1)),
                exists().where(quarantined_files.c.sha256 == _M.sha256),
            ),
        )
    )
    .values(quarantined=1)
)
# And what comes to an address that was quarantined before it had a file is quarantined wherever it is.
HIDE = statement(
    update(media).where(and_(_M.sha256 == bindparam("name"), _M.quarantined == 0)).values(quarantined=1)
)
_PENDING_OF_USER = statement(
    select(func.count())
    .select_from(media)
    .where(_M.user_nid == bindparam("the_user_nid"), _M.unused_expires_ts_ms > bindparam("now_ms"))
)
_USED = statement(select(_M.sha256).where(any_of(_M.sha256, "names")).distinct())
_INSERT = rows(
    media, "origin", "media_id", "user_nid", "sha256", "size", "content_type", "file_name", "created_ts_ms"
)
_INSERT_REMOTE = rows(
    media,
    *(
        "origin",
        "media_id",
        "sha256",
        "size",
        "content_type",
        "file_name",
        "created_ts_ms",
        "last_access_ts_ms",
    ),
    ignore=True,
)
_USAGE = statement(
    select(media_usage.c.files, media_usage.c.size).where(media_usage.c.user_nid == bindparam("the_user_nid"))
)
_PUT_USAGE = rows(media_usage, "user_nid", "files", "size", keys=("user_nid",), update=("files", "size"))
_INSERT_PENDING = rows(media, "origin", "media_id", "user_nid", "created_ts_ms", "unused_expires_ts_ms")
_FILL = statement(
    update(media)
    .where(_KEY)
    .values(
        sha256=bindparam("new_sha256"),
        size=bindparam("new_size"),
        content_type=bindparam("new_content_type"),
        file_name=bindparam("new_file_name"),
        created_ts_ms=bindparam("new_ts_ms"),
        unused_expires_ts_ms=null(),
    )
)
_TOUCH = statement(update(media).where(_KEY).values(last_access_ts_ms=bindparam("now_ms")))
_IS_REMOTE = and_(_M.user_nid.is_(None), _M.quarantined == 0)
_DROP_REMOTE = statement(delete(media).where(and_(_KEY, _IS_REMOTE)))
_old = (
    select(_M.origin, _M.media_id)
    .where(and_(_IS_REMOTE, _M.last_access_ts_ms < bindparam("before_ts_ms")))
    .order_by(_M.last_access_ts_ms)
    .limit(bindparam("most"))
)
_DROP_OLD_REMOTE = statement(
    delete(media).where(tuple_(_M.origin, _M.media_id).in_(_old)).returning(_M.media_id)
)
_DROP_EXPIRED = statement(delete(media).where(_M.unused_expires_ts_ms <= bindparam("now_ms")))


class MediaRow(NamedTuple):
    """One address, and what it leads to; ``sha256`` is None until the file has come."""

    user_nid: int | None
    sha256: str | None
    size: int | None
    content_type: str | None
    file_name: str | None
    created_ts_ms: int
    last_access_ts_ms: int | None
    unused_expires_ts_ms: int | None
    quarantined: int


class Upload(NamedTuple):
    """A file as it was stored."""

    sha256: str
    size: int
    content_type: str
    file_name: str | None


class Quota(NamedTuple):
    """What one user may upload in all; None: no such limit."""

    files: int | None
    size: int | None

    def holds(self, files: int, size: int) -> bool:
        """Whether so much is within it."""
        return (self.files is None or files <= self.files) and (self.size is None or size <= self.size)


class Filled(Enum):
    """What became of an upload to an address made beforehand."""

    DONE = "done"
    GONE = "gone"
    TAKEN = "taken"
    OVER_QUOTA = "over quota"


def load_media(tx: Tx, origin: str, media_id: str) -> MediaRow | None:
    """An address."""
    found = tx.one(_ONE, the_origin=origin, the_media_id=media_id)
    return None if found is None else MediaRow(*found)


def load_usage(tx: Tx, user_nid: int) -> tuple[int, int]:
    """How many files a user has uploaded, and how many bytes these are."""
    found = tx.one(_USAGE, the_user_nid=user_nid)
    return (0, 0) if found is None else (found[0], found[1])


def _count_upload(tx: WriteTx, user_nid: int, size: int, quota: Quota) -> bool:
    """One more file; False where the quota has no room for it."""
    files, bytes_ = load_usage(tx, user_nid)
    if not quota.holds(files + 1, bytes_ + size):
        return False
    tx.insert(_PUT_USAGE, [(user_nid, files + 1, bytes_ + size)])
    return True


def insert_media(
    tx: WriteTx, origin: str, media_id: str, user_nid: int, upload: Upload, now_ms: int, quota: Quota
) -> bool:
    """A new address with its file, which MUST be durable already; False where the quota has no room for it."""
    if not _count_upload(tx, user_nid, upload.size, quota):
        return False
    row = (
        origin,
        media_id,
        user_nid,
        upload.sha256,
        upload.size,
        upload.content_type,
        upload.file_name,
        now_ms,
    )
    tx.insert(_INSERT, [row])
    tx.run(_INHERIT, the_origin=origin, the_media_id=media_id)
    return True


def insert_pending(
    tx: WriteTx, origin: str, media_id: str, user_nid: int, now_ms: int, expires_ts_ms: int, most: int
) -> bool:
    """A new address without a file; False where the user holds ``most`` of these."""
    if tx.value(_PENDING_OF_USER, the_user_nid=user_nid, now_ms=now_ms) >= most:
        return False
    tx.insert(_INSERT_PENDING, [(origin, media_id, user_nid, now_ms, expires_ts_ms)])
    return True


def fill_pending(
    tx: WriteTx, origin: str, media_id: str, upload: Upload, now_ms: int, quota: Quota
) -> Filled:
    """Give an address its file, which MUST be durable already. An upload that began in time may end later."""
    row = load_media(tx, origin, media_id)
    if row is None:
        return Filled.GONE
    if row.sha256 is not None:
        return Filled.TAKEN
    if row.user_nid is not None and not _count_upload(tx, row.user_nid, upload.size, quota):
        return Filled.OVER_QUOTA
    tx.run(
        _FILL,
        the_origin=origin,
        the_media_id=media_id,
        new_sha256=upload.sha256,
        new_size=upload.size,
        new_content_type=upload.content_type,
        new_file_name=upload.file_name,
        new_ts_ms=now_ms,
    )
    tx.run(_INHERIT, the_origin=origin, the_media_id=media_id)
    if row.quarantined:
        tx.run(HIDE, name=upload.sha256)
    return Filled.DONE


def insert_remote(tx: WriteTx, origin: str, media_id: str, upload: Upload, now_ms: int) -> None:
    """A file of another server, which MUST be durable already; the row that is there stays."""
    row = (origin, media_id, *upload, now_ms, now_ms)
    tx.insert(_INSERT_REMOTE, [row])
    tx.run(_INHERIT, the_origin=origin, the_media_id=media_id)


def drop_remote(tx: WriteTx, origin: str, media_id: str) -> None:
    """Forget a file of another server, unless that it may not be shown must be remembered."""
    tx.run(_DROP_REMOTE, the_origin=origin, the_media_id=media_id)


def drop_old_remote(tx: WriteTx, before_ts_ms: int, most: int) -> int:
    """Forget files of other servers that nobody has looked at since then, the oldest first; how many."""
    return len(tx.all(_DROP_OLD_REMOTE, before_ts_ms=before_ts_ms, most=most))


def touch_media(tx: WriteTx, origin: str, media_id: str, now_ms: int) -> None:
    """Somebody has looked at it."""
    tx.run(_TOUCH, the_origin=origin, the_media_id=media_id, now_ms=now_ms)


def drop_expired(tx: WriteTx, now_ms: int) -> None:
    """Forget addresses whose files never came."""
    tx.run(_DROP_EXPIRED, now_ms=now_ms)


def find_used(tx: Tx, names: Sequence[str]) -> frozenset[str]:
    """Those of the files that an address leads to."""
    return frozenset(tx.column(_USED, names=list(names)))
