"""Media for whoever asks: which file, whether it may be shown to strangers, and the answer.

spec: client-server-api#content-repo-client-behaviour
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from homeserver.config.schema import Media
from homeserver.http.errors import MatrixError, not_found
from homeserver.http.request import Request
from homeserver.http.response import Response
from homeserver.media.coming import Following
from homeserver.media.repo import MediaRepository, check_file_name
from homeserver.media.serving import PRIVATE_CACHE, PUBLIC_CACHE, Served, disposition, serve, serve_parts
from homeserver.media.storage import MediaStore
from homeserver.media.thumbnails import Thumbnail, Thumbnails, ThumbnailSize
from homeserver.media.types import Holding, MediaFile, RunInThread
from homeserver.runtime.clock import Clock
from homeserver.runtime.entropy import Entropy
from homeserver.runtime.log import Log


@dataclass(frozen=True, slots=True)
class Wanted:
    """An address as it was asked for."""

    origin: str
    media_id: str
    timeout_ms: int
    is_authenticated: bool
    may_fetch: bool = True
    """Whether a file of another server may be fetched for this."""


class Downloads:
    """Files and thumbnails as HTTP answers."""

    def __init__(
        self,
        repository: MediaRepository,
        thumbnails: Thumbnails,
        storage: MediaStore,
        run_in_thread: RunInThread,
        clock: Clock,
        entropy: Entropy,
        log: Log,
        settings: Callable[[], Media],
    ) -> None:
        self._repository = repository
        self._thumbnails = thumbnails
        self._storage = storage
        self._run = run_in_thread
        self._clock = clock
        self._entropy = entropy
        self._log = log
        self._settings = settings

    async def download(self, request: Request, wanted: Wanted, file_name: str | None = None) -> Response:
        """A file, under the name that it was uploaded with or another one."""
        check_file_name(file_name)
        found = await self._find(wanted)
        served = Served(
            self._hold(found),
            found.size,
            found.content_type,
            disposition(found.content_type, file_name or found.file_name),
            f'"{found.sha256}"'.encode("ascii"),
            _cache_of(wanted),
            follow=self._follow(found),
            lost=partial(self._broke_off, wanted),
        )
        return await self._serve(request, wanted, served)

    async def thumbnail(self, request: Request, wanted: Wanted, size: ThumbnailSize) -> Response:
        """A small picture of a file."""
        found = await self._find(wanted)
        made = await self._make(wanted, found, size)
        variant = f"-{made.variant}" if made.variant else ""
        return await self._serve(
            request,
            wanted,
            Served(
                self._file_of(found, made),
                found.size if made.is_original else None,
                made.content_type,
                disposition(made.content_type, f"thumbnail.{made.content_type.removeprefix('image/')}"),
                f'"{found.sha256}{variant}"'.encode("ascii"),
                _cache_of(wanted),
                made.data,
            ),
        )

    async def download_for_server(self, media_id: str, timeout_ms: int) -> Response:
        """A file of this server, for another one."""
        # spec: server-server-api#get_matrixfederationv1mediadownloadmediaid
        wanted = Wanted(self._repository.server_name, media_id, timeout_ms, is_authenticated=True)
        found = await self._find(wanted)
        served = Served(
            self._hold(found),
            found.size,
            found.content_type,
            disposition(found.content_type, found.file_name),
            b"",
            b"",
            follow=self._follow(found),
            lost=partial(self._broke_off, wanted),
        )
        return await self._serve_parts(wanted, served)

    async def thumbnail_for_server(self, media_id: str, timeout_ms: int, size: ThumbnailSize) -> Response:
        """A small picture of a file of this server, for another one."""
        # spec: server-server-api#get_matrixfederationv1mediathumbnailmediaid
        wanted = Wanted(self._repository.server_name, media_id, timeout_ms, is_authenticated=True)
        found = await self._find(wanted)
        made = await self._make(wanted, found, size)
        length = found.size if made.is_original else None
        name = disposition(made.content_type, None)
        return await self._serve_parts(
            wanted, Served(self._file_of(found, made), length, made.content_type, name, b"", b"", made.data)
        )

    def _hold(self, found: MediaFile) -> Holding:
        return partial(self._storage.hold, found.sha256, found.size)

    def _follow(self, found: MediaFile) -> Following:
        return partial(self._storage.follow, found.sha256, found.size)

    def _file_of(self, found: MediaFile, made: Thumbnail) -> Holding | None:
        if made.path is not None:
            return partial(self._hold_thumbnail, found, made.path)
        return self._hold(found) if made.is_original else None

    @asynccontextmanager
    async def _hold_thumbnail(self, found: MediaFile, path: Path) -> AsyncIterator[Path]:
        """See MediaStore; where the thumbnail has gone meanwhile, the file is not lost by that."""
        async with self._storage.hold_thumbnail(found.sha256, path) as held:
            try:
                yield held
            except FileNotFoundError as error:
                raise OSError(str(error)) from None

    async def _make(self, wanted: Wanted, found: MediaFile, size: ThumbnailSize) -> Thumbnail:
        try:
            return await self._thumbnails.get(found, size)
        except MatrixError as error:
            if error.errcode == "M_TOO_LARGE" and wanted.origin != self._repository.server_name:
                # spec: client-server-api#content-repo-security-considerations ("from remote homeservers": 502)
                raise MatrixError(502, error.errcode, error.error) from None
            raise
        except OSError as error:
            raise self._unreadable(wanted, error) from None

    async def _find(self, wanted: Wanted) -> MediaFile:
        # spec: client-server-api#content-repo-client-behaviour ("freeze")
        frozen_ts_ms = self._settings().freeze_unauthenticated_ts_ms
        # What would only be fetched now is newer than a freeze that has come.
        is_frozen = not wanted.is_authenticated and frozen_ts_ms is not None
        may_fetch = wanted.may_fetch and not (is_frozen and self._clock.now_ms() >= (frozen_ts_ms or 0))
        found = await self._repository.find(
            wanted.origin, wanted.media_id, wanted.timeout_ms, may_fetch=may_fetch
        )
        if not wanted.is_authenticated and frozen_ts_ms is not None and found.created_ts_ms >= frozen_ts_ms:
            raise not_found("Media is only shown to those who are logged in")
        return found

    async def _serve(self, request: Request, wanted: Wanted, served: Served) -> Response:
        try:
            return await serve(request, served, self._run)
        except OSError as error:
            raise self._unreadable(wanted, error) from None

    async def _serve_parts(self, wanted: Wanted, served: Served) -> Response:
        try:
            return await serve_parts(served, self._run, self._entropy.id(40))
        except OSError as error:
            raise self._unreadable(wanted, error) from None

    def _unreadable(self, wanted: Wanted, error: OSError) -> MatrixError:
        self._log.error("a file cannot be read", media_id=wanted.media_id, problem=str(error))
        if isinstance(error, FileNotFoundError):
            self._repository.forget_lost(wanted.origin, wanted.media_id)
            return not_found("The file is lost")
        return MatrixError(503, "M_UNKNOWN", "The file cannot be read at the moment")

    def _broke_off(self, wanted: Wanted, error: OSError) -> None:
        """Whoever was reading has lost the connection; the next one is told what is wrong."""
        self._log.error("a file cannot be read to its end", media_id=wanted.media_id, problem=str(error))


def _cache_of(wanted: Wanted) -> bytes:
    return PRIVATE_CACHE if wanted.is_authenticated else PUBLIC_CACHE
