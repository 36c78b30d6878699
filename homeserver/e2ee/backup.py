"""Key backups: room keys that a user's devices keep here, encrypted, for devices to come.

1. What a key is worth the server cannot see; it keeps the better one by the marks that the client gave it.
2. One request is one transaction. A whole backup, which may be hundreds of megabytes, is read a page at a time and
   leaves in pieces. Keys that come meanwhile may be in it or not; if the backup goes meanwhile, the answer breaks off.

# spec: client-server-api#server-side-key-backups
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Annotated, Any

import msgspec

from federation.canonical import MAX_INTEGER
from federation.ids import parse_room_id
from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.e2ee.shapes import is_name
from homeserver.e2ee.types import Requester
from homeserver.http.errors import (
    ClientGone,
    MatrixError,
    UserLimitReachedError,
    invalid_param,
    not_found,
    too_large,
    unknown_token,
)
from homeserver.store.ids import Interner
from homeserver.store.key_backups import (
    BackedUpKey,
    Backup,
    BackupFullError,
    NoAccountError,
    NoBackupError,
    OldBackupError,
    TooManyBackupsError,
    create_backup,
    drop_backed_up_keys,
    drop_backup,
    load_backed_up_key,
    load_backed_up_keys,
    load_backup,
    put_backed_up_keys,
    set_auth_data,
)
from homeserver.store.work import Worker

# LIMIT(honest data takes some hundred bytes, and grows with the devices that sign it)
MAX_AUTH_DATA_BYTES = 64 * 1024
# LIMIT(an honest key takes about one kilobyte)
MAX_SESSION_BYTES = 64 * 1024
MAX_ALGORITHM = 255
# Keys that are read, and sent, at a time.
PAGE = 250

Body = bytes | AsyncIterator[bytes]
_Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_INTEGER)]
_encode = msgspec.json.Encoder().encode


class KeyData(msgspec.Struct):
    """One session's key as a client sends it. spec: client-server-api#definition-keybackupdata"""

    first_message_index: _Count
    forwarded_count: _Count
    is_verified: bool
    session_data: dict[str, Any]


class RoomKeys(msgspec.Struct):
    """The keys of a room by session. spec: client-server-api#definition-roomkeybackup"""

    sessions: dict[str, KeyData]


class KeyBackups:
    """See the module."""

    def __init__(self, database: Database, worker: Worker, interner: Interner) -> None:
        self._database = database
        self._worker = worker
        self._interner = interner

    # --- versions ------------------------------------------------------------------------------------------------

    async def create(self, requester: Requester, algorithm: str, auth_data: Mapping[str, Any]) -> str:
        """Begin a new version; its name."""
        if not is_name(algorithm):
            raise invalid_param("algorithm is empty or too long")
        text = _auth_text(auth_data)
        keys_nid = self._interner.take_nid()
        try:
            version = await self._worker.work(create_backup, requester.user_nid, keys_nid, algorithm, text)
        except NoAccountError:
            raise unknown_token() from None
        except TooManyBackupsError:
            raise UserLimitReachedError("There are too many backups already: delete old ones first") from None
        return str(version)

    async def get(self, requester: Requester, version: str | None) -> dict[str, Any]:
        """What a version is; without one the newest."""
        number = None if version is None else _number(version)
        if version is not None and number is None:
            raise _no_backup()
        backup = await self._database.read(load_backup, requester.user_nid, number)
        if backup is None:
            raise not_found("No current backup version") if version is None else _no_backup()
        return {
            "algorithm": backup.algorithm,
            "auth_data": msgspec.Raw(backup.auth_data.encode()),
            "version": str(backup.version),
            **_told(backup),
        }

    async def update(
        self, requester: Requester, version: str, algorithm: str, auth_data: Mapping[str, Any]
    ) -> None:
        """Other ``auth_data``; the algorithm must be the one that it has."""
        backup = await self._find(requester, version)
        if algorithm != backup.algorithm:
            raise invalid_param("Algorithm does not match")
        text = _auth_text(auth_data)
        if not await self._worker.work(set_auth_data, requester.user_nid, backup.version, text):
            raise _no_backup()

    async def delete(self, requester: Requester, version: str) -> None:
        """Delete a version with its keys."""
        number = _number(version)
        if number is None:
            raise _no_backup()
        try:
            await self._worker.work(drop_backup, requester.user_nid, number)
        except NoBackupError:
            raise _no_backup() from None

    async def _find(self, requester: Requester, version: str) -> Backup:
        number = _number(version)
        backup = (
            None if number is None else await self._database.read(load_backup, requester.user_nid, number)
        )
        if backup is None:
            raise _no_backup()
        return backup

    # --- keys ----------------------------------------------------------------------------------------------------

    async def put_keys(
        self, requester: Requester, version: str, rooms: Mapping[str, Mapping[str, KeyData]]
    ) -> dict[str, Any]:
        """Add keys by room and session to the newest backup: all of them, or none."""
        keys = _read_keys(rooms)
        number = _number(version)
        if number is None:
            raise _no_backup()
        try:
            backup = await self._worker.work(put_backed_up_keys, requester.user_nid, number, keys)
        except NoBackupError:
            raise _no_backup() from None
        except OldBackupError as old:
            raise MatrixError(
                403,
                "M_WRONG_ROOM_KEYS_VERSION",
                "Wrong backup version.",
                current_version=str(old.args[0]),
            ) from None
        except BackupFullError:
            raise UserLimitReachedError("The backups of this account are full") from None
        return _told(backup)

    async def get_keys(self, requester: Requester, version: str, room_id: str | None) -> Body:
        """All keys of a backup, or those of one room in it, as JSON."""
        backup = await self._find(requester, version)
        keys = await self._database.read(load_backed_up_keys, backup.keys_nid, room_id, ("", ""), PAGE)
        pages = self._pages(requester, backup, room_id, keys)
        if len(keys) < PAGE:
            return b"".join([piece async for piece in pages])
        return pages

    async def _pages(
        self, requester: Requester, backup: Backup, room_id: str | None, keys: Sequence[BackedUpKey]
    ) -> AsyncIterator[bytes]:
        yield b'{"sessions":{' if room_id is not None else b'{"rooms":{'
        room: str | None = None
        while keys:
            yield _render(keys, room, by_room=room_id is None)
            room = keys[-1].room_id
            if len(keys) < PAGE:
                break
            after = (room, keys[-1].session_id)
            keys = await self._database.read(_next_page, requester.user_nid, backup, room_id, after)
        # A room that is open is closed too.
        yield b"}}}}" if room is not None and room_id is None else b"}}"

    async def get_key(self, requester: Requester, version: str, room_id: str, session_id: str) -> bytes:
        """One session's key as JSON."""
        backup = await self._find(requester, version)
        key = await self._database.read(load_backed_up_key, backup.keys_nid, room_id, session_id)
        if key is None:
            raise not_found("Key not found.")
        return _key_json(key)

    async def delete_keys(
        self, requester: Requester, version: str, room_id: str | None = None, session_id: str | None = None
    ) -> dict[str, Any]:
        """Delete all keys of a backup, those of a room, or that of a session; they need not be there."""
        number = _number(version)
        if number is None:
            raise _no_backup()
        fresh_nid = self._interner.take_nid()
        try:
            backup = await self._worker.work(
                drop_backed_up_keys, requester.user_nid, number, room_id, session_id, fresh_nid
            )
        except NoBackupError:
            raise _no_backup() from None
        return _told(backup)


def _no_backup() -> MatrixError:
    return not_found("Unknown backup version")


def _told(backup: Backup) -> dict[str, Any]:
    return {"count": backup.key_count, "etag": str(backup.etag)}


def _number(version: str) -> int | None:
    """The number that a version's name is; None where it is no name that this server gives."""
    if len(version) > 15 or not version.isascii() or not version.isdigit() or version[0] == "0":
        return None
    return int(version)


def _auth_text(auth_data: Mapping[str, Any]) -> str:
    text = _encode(auth_data)
    if len(text) > MAX_AUTH_DATA_BYTES:
        raise too_large(f"auth_data takes more than {MAX_AUTH_DATA_BYTES} bytes")
    return text.decode()


def _read_keys(rooms: Mapping[str, Mapping[str, KeyData]]) -> list[BackedUpKey]:
    """Keys as they are stored. Raises MatrixError and Malformed."""
    found: list[BackedUpKey] = []
    for room_id, sessions in rooms.items():
        parse_room_id(room_id)
        for session_id, one in sessions.items():
            if not is_name(session_id):
                raise invalid_param("A session ID is empty or too long")
            data = _encode(one.session_data)
            if len(data) > MAX_SESSION_BYTES:
                raise too_large(f"session_data takes more than {MAX_SESSION_BYTES} bytes")
            found.append(
                BackedUpKey(
                    room_id,
                    session_id,
                    one.first_message_index,
                    one.forwarded_count,
                    int(one.is_verified),
                    data.decode(),
                )
            )
    return found


def _next_page(
    tx: Tx, user_nid: int, backup: Backup, room_id: str | None, after: tuple[str, str]
) -> list[BackedUpKey]:
    now = load_backup(tx, user_nid, backup.version)
    if now is None or now.keys_nid != backup.keys_nid:
        # What is left of it is being swept; half of a backup is not to look like the whole.
        raise ClientGone
    return load_backed_up_keys(tx, backup.keys_nid, room_id, after, PAGE)


def _render(keys: Sequence[BackedUpKey], room: str | None, *, by_room: bool) -> bytes:
    """Keys as the members of a JSON object; ``room`` is the one that is open, of the keys before them."""
    parts: list[bytes] = []
    for key in keys:
        if by_room and key.room_id != room:
            lead = b"" if room is None else b"}},"
            parts.append(lead + _encode(key.room_id) + b':{"sessions":{')
        elif parts or room is not None:
            parts.append(b",")
        room = key.room_id
        parts.append(_encode(key.session_id) + b":" + _key_json(key))
    return b"".join(parts)


def _key_json(key: BackedUpKey) -> bytes:
    return b'{"first_message_index":%d,"forwarded_count":%d,"is_verified":%b,"session_data":%b}' % (
        key.first_index,
        key.forwarded,
        b"true" if key.verified else b"false",
        key.session_data.encode(),
    )
