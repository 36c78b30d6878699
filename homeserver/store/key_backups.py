"""Key backups: versions of a user's backup, and the keys in each. spec: client-server-api#server-side-key-backups

1. A backup's keys are under a number of its own (``keys_nid``). Deleting all of them at once is giving the backup
   another number: the old ones are swept later, a bounded number at a time.
2. Count, size and etag are kept with the backup, by the transaction that changes its keys; whoever writes holds its row.
3. Versions are numbered for each user and no number is given twice, so that one that was deleted is told from one that
   never was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import and_, bindparam, delete, func, select, tuple_, update

from homeserver.db.schema.accounts import accounts
from homeserver.db.schema.key_backups import backed_up_keys, dropped_keys, key_backups
from homeserver.db.statements import any_pair, pairs_text, rows, statement
from homeserver.db.tx import Tx, WriteTx

# LIMIT(a person makes a new backup when the old one's key is lost)
MAX_BACKUPS = 50
# LIMIT(all backups of a user; a key takes about one kilobyte)
MAX_BYTES_PER_USER = 1024 * 1024 * 1024
# What a key costs beside its texts.
_ROW_BYTES = 64
_PAIRS_AT_ONCE = 1_000

_B = key_backups.c
_K = backed_up_keys.c
_COLUMNS = (_B.version, _B.keys_nid, _B.algorithm, _B.auth_data, _B.etag, _B.key_count, _B.size)
_OF_USER = _B.user_nid == bindparam("user_nid")
_IS_LIVE = _B.keys_nid != 0
_ONE = statement(select(*_COLUMNS).where(and_(_OF_USER, _B.version == bindparam("version"), _IS_LIVE)))
_NEWEST = statement(select(*_COLUMNS).where(and_(_OF_USER, _IS_LIVE)).order_by(_B.version.desc()).limit(1))
# All of them: a new version and the bounds of a user depend on the others.
_LOCK = statement(select(*_COLUMNS).where(_OF_USER).order_by(_B.version).with_for_update())
# Two versions that are made at the same moment come one after the other, and none comes after the account's end.
_LOCK_ACCOUNT = statement(
    select(accounts.c.user_nid)
    .where(and_(accounts.c.user_nid == bindparam("user_nid"), accounts.c.deactivated == 0))
    .with_for_update()
)
_PUT_BACKUP = rows(
    key_backups,
    "user_nid",
    "version",
    "keys_nid",
    "algorithm",
    "auth_data",
    "etag",
    "key_count",
    "size",
    keys=("user_nid", "version"),
    update=("keys_nid", "algorithm", "auth_data", "etag", "key_count", "size"),
)
_IS_ONE = and_(_B.user_nid == bindparam("the_user"), _B.version == bindparam("the_version"))
_SET_AUTH_DATA = statement(
    update(key_backups)
    .where(and_(_IS_ONE, _IS_LIVE))
    .values(auth_data=bindparam("new_data"))
    .returning(_B.version)
)
_FORGET = statement(delete(key_backups).where(_IS_ONE))
_FORGET_DELETED = statement(
    delete(key_backups).where(and_(_B.user_nid == bindparam("the_user"), _B.keys_nid == 0))
)
_FORGET_USER = statement(delete(key_backups).where(_B.user_nid == bindparam("the_user")))
_IN_BACKUP = _K.keys_nid == bindparam("keys_nid")
_KNOWN = statement(
    select(_K.room_id, _K.session_id, _K.first_index, _K.forwarded, _K.verified, _K.size).where(
        and_(_IN_BACKUP, any_pair(_K.room_id, _K.session_id, "pairs"))
    )
)
_PUT = rows(
    backed_up_keys,
    "keys_nid",
    "room_id",
    "session_id",
    "first_index",
    "forwarded",
    "verified",
    "session_data",
    "size",
    keys=("keys_nid", "room_id", "session_id"),
    update=("first_index", "forwarded", "verified", "session_data", "size"),
)
_KEY_COLUMNS = (_K.room_id, _K.session_id, _K.first_index, _K.forwarded, _K.verified, _K.session_data)
_IN_ORDER = (_K.room_id, _K.session_id)
_PAGE = statement(
    select(*_KEY_COLUMNS)
    .where(and_(_IN_BACKUP, tuple_(*_IN_ORDER) > tuple_(bindparam("after_room"), bindparam("after_session"))))
    .order_by(*_IN_ORDER)
    .limit(bindparam("most"))
)
_ROOM_PAGE = statement(
    select(*_KEY_COLUMNS)
    .where(and_(_IN_BACKUP, _K.room_id == bindparam("room_id"), _K.session_id > bindparam("after_session")))
    .order_by(_K.session_id)
    .limit(bindparam("most"))
)
_SESSION = statement(
    select(*_KEY_COLUMNS).where(
        and_(_IN_BACKUP, _K.room_id == bindparam("room_id"), _K.session_id == bindparam("session_id"))
    )
)
_FROM_BACKUP = and_(_K.keys_nid == bindparam("from_nid"), _K.room_id == bindparam("from_room"))
_DROP_ROOM = statement(delete(backed_up_keys).where(_FROM_BACKUP).returning(_K.size))
_DROP_SESSION = statement(
    delete(backed_up_keys)
    .where(and_(_FROM_BACKUP, _K.session_id == bindparam("from_session")))
    .returning(_K.size)
)
_PUT_DROPPED = rows(dropped_keys, "keys_nid", ignore=True)
_A_DROPPED = statement(select(func.min(dropped_keys.c.keys_nid)))
_some = select(*_IN_ORDER).where(_K.keys_nid == bindparam("of_nid")).limit(bindparam("most"))
_SWEEP = statement(
    delete(backed_up_keys)
    .where(and_(_K.keys_nid == bindparam("from_nid"), tuple_(*_IN_ORDER).in_(_some)))
    .returning(_K.keys_nid)
)
_SWEPT = statement(delete(dropped_keys).where(dropped_keys.c.keys_nid == bindparam("from_nid")))


class Backup(NamedTuple):
    """One version of a backup; ``auth_data`` is JSON text."""

    version: int
    keys_nid: int
    algorithm: str
    auth_data: str
    etag: int = 0
    key_count: int = 0
    size: int = 0


class BackedUpKey(NamedTuple):
    """One session's key, as its client encrypted it (``session_data``, JSON text)."""

    room_id: str
    session_id: str
    first_index: int
    forwarded: int
    verified: int
    session_data: str

    @property
    def size(self) -> int:
        """What it counts of its owner's share."""
        names = len(self.room_id.encode()) + len(self.session_id.encode())
        return names + len(self.session_data.encode()) + _ROW_BYTES

    def is_better(self, verified: int, first_index: int, forwarded: int) -> bool:
        """Whether it takes the place of a key with these marks. spec: client-server-api#server-side-key-backups"""
        if bool(verified) != bool(self.verified):
            return bool(self.verified)
        return (self.first_index, self.forwarded) < (first_index, forwarded)


class NoAccountError(Exception):
    """The account was deactivated meanwhile."""


class NoBackupError(Exception):
    """There is no such backup, or none any more."""


class OldBackupError(Exception):
    """Keys go into the newest backup alone. ``args[0]`` is its version."""


class TooManyBackupsError(Exception):
    """The user has as many backups as a user may have."""


class BackupFullError(Exception):
    """The user's backups take as much as a user's may."""


def load_backup(tx: Tx, user_nid: int, version: int | None = None) -> Backup | None:
    """One backup; without a version the newest."""
    if version is None:
        row = tx.one(_NEWEST, user_nid=user_nid)
    else:
        row = tx.one(_ONE, user_nid=user_nid, version=version)
    return None if row is None else Backup(*row)


def _lock(tx: WriteTx, user_nid: int) -> list[Backup]:
    """Every row of a user's, oldest first, deleted ones too; nobody else changes them meanwhile."""
    return [Backup(*row) for row in tx.all(_LOCK, user_nid=user_nid)]


def _find(backups: Sequence[Backup], version: int) -> Backup:
    for one in backups:
        if one.version == version and one.keys_nid:
            return one
    raise NoBackupError


def create_backup(tx: WriteTx, user_nid: int, keys_nid: int, algorithm: str, auth_data: str) -> int:
    """Begin a new version; its number. Raises NoAccountError and TooManyBackupsError."""
    if tx.value(_LOCK_ACCOUNT, user_nid=user_nid) is None:
        raise NoAccountError
    backups = _lock(tx, user_nid)
    if sum(one.keys_nid != 0 for one in backups) >= MAX_BACKUPS:
        raise TooManyBackupsError
    version = max((one.version for one in backups), default=0) + 1
    tx.run(_FORGET_DELETED, the_user=user_nid)
    _store(tx, user_nid, Backup(version, keys_nid, algorithm, auth_data))
    return version


def _store(tx: WriteTx, user_nid: int, backup: Backup) -> None:
    tx.insert(_PUT_BACKUP, [(user_nid, *backup)])


def set_auth_data(tx: WriteTx, user_nid: int, version: int, auth_data: str) -> bool:
    """Whether there is such a backup."""
    return tx.value(_SET_AUTH_DATA, the_user=user_nid, the_version=version, new_data=auth_data) is not None


def drop_backup(tx: WriteTx, user_nid: int, version: int) -> None:
    """Delete a backup with its keys; nothing happens to one that was deleted before. Raises NoBackupError."""
    backups = _lock(tx, user_nid)
    newest = backups[-1].version if backups else 0
    if version > newest:
        raise NoBackupError
    try:
        backup = _find(backups, version)
    except NoBackupError:
        return
    tx.insert(_PUT_DROPPED, [(backup.keys_nid,)])
    if version == newest:
        _store(tx, user_nid, Backup(version, 0, "", "{}"))
    else:
        tx.run(_FORGET, the_user=user_nid, the_version=version)


def drop_user_backups(tx: WriteTx, user_nid: int) -> None:
    """The account is gone."""
    tx.insert(_PUT_DROPPED, [(one.keys_nid,) for one in _lock(tx, user_nid) if one.keys_nid])
    tx.run(_FORGET_USER, the_user=user_nid)


# --- keys ------------------------------------------------------------------------------------------------------------


def put_backed_up_keys(tx: WriteTx, user_nid: int, version: int, keys: Sequence[BackedUpKey]) -> Backup:
    """Add keys to a backup where they are better than what is there; the backup as it is then.

    Raises NoBackupError, OldBackupError and BackupFullError.
    """
    backups = _lock(tx, user_nid)
    backup = _find(backups, version)
    newest = max(one.version for one in backups if one.keys_nid)
    if version != newest:
        raise OldBackupError(newest)
    known = _load_known(tx, backup.keys_nid, keys)
    fresh: list[BackedUpKey] = []
    count = size = 0
    for one in keys:
        old = known.get((one.room_id, one.session_id))
        if old is None:
            count += 1
            size += one.size
        elif one.is_better(old.verified, old.first_index, old.forwarded):
            size += one.size - old.size
        else:
            continue
        fresh.append(one)
    if not fresh:
        return backup
    if size > 0 and sum(one.size for one in backups) + size > MAX_BYTES_PER_USER:
        raise BackupFullError
    tx.insert(_PUT, [(backup.keys_nid, *one, one.size) for one in fresh])
    return _change(tx, user_nid, backup, count, size)


class _Known(NamedTuple):
    first_index: int
    forwarded: int
    verified: int
    size: int


def _load_known(tx: Tx, keys_nid: int, keys: Sequence[BackedUpKey]) -> dict[tuple[str, str], _Known]:
    found: dict[tuple[str, str], _Known] = {}
    for start in range(0, len(keys), _PAIRS_AT_ONCE):
        pairs = pairs_text([(one.room_id, one.session_id) for one in keys[start : start + _PAIRS_AT_ONCE]])
        for room_id, session_id, *marks in tx.all(_KNOWN, keys_nid=keys_nid, pairs=pairs):
            found[room_id, session_id] = _Known(*marks)
    return found


def _change(tx: WriteTx, user_nid: int, backup: Backup, count: int, size: int) -> Backup:
    """Count what came (or, below 0, went); whoever compares etags finds out."""
    changed = backup._replace(
        etag=backup.etag + 1, key_count=backup.key_count + count, size=backup.size + size
    )
    _store(tx, user_nid, changed)
    return changed


def load_backed_up_keys(
    tx: Tx, keys_nid: int, room_id: str | None, after: tuple[str, str], most: int
) -> list[BackedUpKey]:
    """The next keys of a backup, or of one room in it, in the order of (room, session)."""
    after_room, after_session = after
    if room_id is None:
        found = tx.all(
            _PAGE, keys_nid=keys_nid, after_room=after_room, after_session=after_session, most=most
        )
    else:
        found = tx.all(_ROOM_PAGE, keys_nid=keys_nid, room_id=room_id, after_session=after_session, most=most)
    return [BackedUpKey(*row) for row in found]


def load_backed_up_key(tx: Tx, keys_nid: int, room_id: str, session_id: str) -> BackedUpKey | None:
    """One session's key."""
    row = tx.one(_SESSION, keys_nid=keys_nid, room_id=room_id, session_id=session_id)
    return None if row is None else BackedUpKey(*row)


def drop_backed_up_keys(
    tx: WriteTx, user_nid: int, version: int, room_id: str | None, session_id: str | None, fresh_nid: int
) -> Backup:
    """Delete all keys of a backup, those of a room or that of one session; the backup as it is then.

    ``fresh_nid`` is for the keys that come after all were deleted. Raises NoBackupError.
    """
    backup = _find(_lock(tx, user_nid), version)
    if room_id is None:
        if not backup.key_count:
            return backup
        tx.insert(_PUT_DROPPED, [(backup.keys_nid,)])
        return _change(tx, user_nid, backup._replace(keys_nid=fresh_nid), -backup.key_count, -backup.size)
    if session_id is None:
        gone = tx.column(_DROP_ROOM, from_nid=backup.keys_nid, from_room=room_id)
    else:
        gone = tx.column(_DROP_SESSION, from_nid=backup.keys_nid, from_room=room_id, from_session=session_id)
    return _change(tx, user_nid, backup, -len(gone), -sum(gone)) if gone else backup


def sweep_keys(tx: WriteTx, most: int) -> bool:
    """Take some of the keys away that belong to no backup; whether there may be more."""
    keys_nid = tx.value(_A_DROPPED)
    if keys_nid is None:
        return False
    if len(tx.all(_SWEEP, from_nid=keys_nid, of_nid=keys_nid, most=most)) < most:
        tx.run(_SWEPT, from_nid=keys_nid)
    return True
