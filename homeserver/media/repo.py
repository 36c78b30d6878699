"""The content repository: addresses (``mxc://server/id``) and what they lead to.

1. An address is given out, or said to be filled, only when its file is durable: file first, row second.
2. What a client sends is counted while it comes; the memory for it is bounded by a few pieces.
3. A file once uploaded never changes. An address made beforehand is filled once.
4. Files of other servers are like our own once they are here (``homeserver.media.remote`` fetches them).
5. An upload may take hours, and counts when it has ended: who may not upload any more by then is refused.
spec: client-server-api#content-repository
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from homeserver.accounts.types import Requester, check_still
from homeserver.config.schema import Media
from homeserver.db.threads import Database
from homeserver.db.tx import WriteTx
from homeserver.http.errors import (
    MatrixError,
    UserLimitReachedError,
    forbidden,
    invalid_param,
    limit_exceeded,
    not_found,
    too_large,
)
from homeserver.http.request import BodyStream
from homeserver.media.files import Spool
from homeserver.media.remote import RemoteMedia
from homeserver.media.storage import MediaStore
from homeserver.media.types import MAX_NAME_BYTES, OCTET_STREAM, MediaFile, RunInThread, clean_content_type
from homeserver.media.waiters import Waiters
from homeserver.runtime.clock import Clock
from homeserver.runtime.entropy import Entropy
from homeserver.runtime.log import Log
from homeserver.store import media as store
from homeserver.store.media import Filled, MediaRow, Quota, Upload
from homeserver.store.work import Worker

T = TypeVar("T")
P = ParamSpec("P")

PIECE_BYTES = 262_144
"""Bytes that are gathered before a thread writes them."""
MEDIA_ID_LENGTH = 24
_ADDRESSES_WAIT_MS = 60_000
"""When to ask again for an address where too many wait: one is free once its file is there, or it is given up."""
TOUCH_INTERVAL_MS = 86_400_000

_MEDIA_ID = re.compile(r"[A-Za-z0-9_-]{1,255}")


class MediaRepository:
    """Uploads, and look-ups of what was uploaded."""

    def __init__(
        self,
        server_name: str,
        database: Database,
        worker: Worker,
        storage: MediaStore,
        run_in_thread: RunInThread,
        clock: Clock,
        entropy: Entropy,
        log: Log,
        settings: Callable[[], Media],
        remote: RemoteMedia,
    ) -> None:
        self.server_name = server_name
        self._database = database
        self._worker = worker
        self._storage = storage
        self._run = run_in_thread
        self._clock = clock
        self._entropy = entropy
        self._log = log
        self._settings = settings
        self._remote = remote
        self._waiters = Waiters(clock)

    # --- uploads ---

    @property
    def max_upload_bytes(self) -> int:
        """The limit in force."""
        return self._settings().max_upload_bytes

    async def upload(
        self, requester: Requester, stream: BodyStream, content_type: str, file_name: str | None
    ) -> str:
        """Store a file under a new address; the address."""
        room = await self._check_quota(requester)
        upload = await self._receive(stream, content_type, file_name, room)
        media_id = self._entropy.id(MEDIA_ID_LENGTH)
        now_ms, quota = self._clock.now_ms(), self._quota()
        kept = await self._write(
            requester,
            store.insert_media,
            self.server_name,
            media_id,
            requester.user_nid,
            upload,
            now_ms,
            quota,
        )
        if not kept:
            # The file goes as an orphan.
            raise self._over_quota()
        return f"mxc://{self.server_name}/{media_id}"

    async def create(self, requester: Requester) -> tuple[str, int]:
        """A new address without a file, and until when the file must have begun to come."""
        # spec: client-server-api#post_matrixmediav1create
        await self._check_quota(requester)
        settings, now_ms = self._settings(), self._clock.now_ms()
        media_id = self._entropy.id(MEDIA_ID_LENGTH)
        expires_ts_ms = now_ms + settings.pending_upload_lifetime_s * 1000
        made = await self._write(
            requester,
            store.insert_pending,
            self.server_name,
            media_id,
            requester.user_nid,
            now_ms,
            expires_ts_ms,
            settings.max_pending_uploads,
        )
        if not made:
            raise limit_exceeded(_ADDRESSES_WAIT_MS, "Too many addresses are waiting for their files")
        return f"mxc://{self.server_name}/{media_id}", expires_ts_ms

    async def fill(
        self,
        requester: Requester,
        origin: str,
        media_id: str,
        stream: BodyStream,
        content_type: str,
        file_name: str | None,
    ) -> None:
        """Store the file of an address made beforehand."""
        # spec: client-server-api#put_matrixmediav3uploadservernamemediaid
        row = await self._row(origin, media_id) if origin == self.server_name else None
        if row is None or self._has_expired(row):
            raise _unknown()
        if row.user_nid != requester.user_nid:
            raise forbidden("Somebody else has created this address")
        if row.sha256 is not None:
            raise _taken()
        room = await self._check_quota(requester)
        upload = await self._receive(stream, content_type, file_name, room)
        now_ms, quota = self._clock.now_ms(), self._quota()
        filled = await self._write(requester, store.fill_pending, origin, media_id, upload, now_ms, quota)
        if filled is Filled.OVER_QUOTA:
            raise self._over_quota()
        if filled is Filled.TAKEN:
            raise _taken()
        if filled is Filled.GONE:
            raise _unknown()
        self._waiters.release((origin, media_id))

    def _write(
        self,
        requester: Requester,
        unit: Callable[Concatenate[WriteTx, P], T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Deferred[T]:
        """A unit of work for somebody who may still upload when it begins (rule 5)."""

        def write(tx: WriteTx) -> T:
            check_still(tx, requester)
            return unit(tx, *args, **kwargs)

        return self._worker.work(write)

    def _quota(self) -> Quota:
        settings = self._settings()
        return Quota(settings.user_quota_files, settings.user_quota_bytes)

    async def _check_quota(self, requester: Requester) -> int | None:
        """Before anything comes: how many bytes there is room for, None where that is not bounded.

        What comes is counted when it is here, and then it is counted for good.
        """
        quota = self._quota()
        if quota == Quota(None, None):
            return None
        files, size = await self._database.read(store.load_usage, requester.user_nid)
        # An empty file needs a place and no room.
        if not quota.holds(files + 1, size):
            raise self._over_quota()
        return None if quota.size is None else quota.size - size

    def _over_quota(self) -> UserLimitReachedError:
        # spec: client-server-api#content-repo-security-considerations ("total size of media")
        return UserLimitReachedError("You have uploaded as much as you may", self._settings().quota_info_uri)

    async def _receive(
        self, stream: BodyStream, content_type: str, file_name: str | None, room: int | None
    ) -> Upload:
        """The body, as a file that stays; nothing where it has more bytes than there is ``room`` for.

        A file that fits one piece takes one trip to a thread.
        """
        checked_name = check_file_name(file_name)
        limit = self._settings().max_upload_bytes
        most = limit if room is None else min(limit, room)
        pieces: list[bytes] = []
        size = held = 0
        spool: Spool | None = None
        try:
            while (chunk := await stream.read_chunk()) is not None:
                size += len(chunk)
                if size > most:
                    raise self._over_quota() if most < limit else too_large(f"Files may have {limit} bytes")
                pieces.append(chunk)
                held += len(chunk)
                if held >= PIECE_BYTES:
                    if spool is None:
                        spool = await self._storage.begin()
                    await self._run(spool.write, pieces)
                    pieces, held = [], 0
            if spool is None:
                name = await self._storage.store(pieces)
            else:
                await self._run(spool.write, pieces)
                name = await self._storage.finish(spool)
        except OSError as error:
            self._discard(spool)
            self._log.error("a file could not be stored", problem=str(error))
            raise MatrixError(503, "M_UNKNOWN", "The server cannot store files at the moment") from None
        except BaseException:
            # Also when nobody waits any more, so there is nothing to wait for here either.
            self._discard(spool)
            raise
        return Upload(name, size, clean_content_type(content_type), checked_name)

    def _discard(self, spool: Spool | None) -> None:
        if spool is not None:
            self._in_background(self._run(spool.discard), "an unfinished file could not be removed")

    # --- downloads ---

    async def find(self, origin: str, media_id: str, timeout_ms: int, *, may_fetch: bool = True) -> MediaFile:
        """What an address leads to; where the file is still to come, it may take ``timeout_ms``.

        A file of another server is fetched unless it is here already; where that is not wanted it is not found.
        """
        check_media_id(media_id)
        row = await self._row(origin, media_id)
        if origin == self.server_name:
            if row is not None and row.sha256 is None:
                row = await self._when_filled(origin, media_id, timeout_ms)
        elif row is None and may_fetch:
            await self._remote.fetch(origin, media_id, timeout_ms)
            row = await self._row(origin, media_id)
        if row is None or row.quarantined or row.sha256 is None or row.size is None:
            raise _unknown()
        now_ms = self._clock.now_ms()
        if now_ms - (row.last_access_ts_ms or 0) >= TOUCH_INTERVAL_MS:
            self._in_background(
                self._worker.work(store.touch_media, origin, media_id, now_ms), "an access could not be noted"
            )
        return MediaFile(
            row.sha256, row.size, row.content_type or OCTET_STREAM, row.file_name, row.created_ts_ms
        )

    def forget_lost(self, origin: str, media_id: str) -> None:
        """A file of another server is no longer where it was: the next one to ask has it fetched again."""
        if origin != self.server_name:
            self._in_background(
                self._worker.work(store.drop_remote, origin, media_id), "a lost file could not be forgotten"
            )

    async def _when_filled(self, origin: str, media_id: str, timeout_ms: int) -> MediaRow | None:
        # spec: client-server-api#get_matrixclientv1mediadownloadservernamemediaid (timeout_ms)
        with self._waiters.wait((origin, media_id), timeout_ms / 1000) as waiting:
            # Again, now that a file that comes cannot be missed.
            row = await self._row(origin, media_id)
            if row is not None and row.sha256 is None and not self._has_expired(row):
                await waiting
                row = await self._row(origin, media_id)
        if row is None or (row.sha256 is None and self._has_expired(row)):
            return None
        if row.sha256 is None:
            raise MatrixError(504, "M_NOT_YET_UPLOADED", "The file has not been uploaded yet")
        return row

    def _row(self, origin: str, media_id: str) -> Deferred[MediaRow | None]:
        return self._database.read(store.load_media, origin, media_id)

    def _has_expired(self, row: MediaRow) -> bool:
        return row.unused_expires_ts_ms is not None and row.unused_expires_ts_ms <= self._clock.now_ms()

    def _in_background(self, work: Deferred[Any], problem: str) -> None:
        def note(failure: Failure) -> None:
            self._log.warning(problem, problem=str(failure.value))

        work.addErrback(note)


def check_media_id(media_id: str) -> None:
    """Only the characters that an address may have: none of them leads anywhere in a file system."""
    # spec: client-server-api#content-repo-security-considerations
    if _MEDIA_ID.fullmatch(media_id) is None:
        raise invalid_param("Not a valid media ID")


def check_file_name(file_name: str | None) -> str | None:
    """A name that somebody gave to a file; an empty one is none."""
    if file_name and len(file_name.encode("utf-8")) > MAX_NAME_BYTES:
        raise invalid_param("The file name is too long")
    return file_name or None


def _unknown() -> MatrixError:
    return not_found("There is no such media")


def _taken() -> MatrixError:
    return MatrixError(409, "M_CANNOT_OVERWRITE_MEDIA", "The media was uploaded already")
