"""Media for whoever asks: which file, whether it may be shown to strangers, and the answer.

spec: client-server-api#content-repo-client-behaviour
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from homeserver.config.schema import Media
from homeserver.http.errors import MatrixError, not_found
from homeserver.http.request import Request
from homeserver.http.response import Response
from homeserver.media.files import MediaFiles
from homeserver.media.repo import MediaRepository, check_file_name
from homeserver.media.serving import PRIVATE_CACHE, PUBLIC_CACHE, Served, disposition, serve
from homeserver.media.thumbnails import Thumbnails, ThumbnailSize
from homeserver.media.types import MediaFile, RunInThread
from homeserver.runtime.log import Log


@dataclass(frozen=True, slots=True)
class Wanted:
    """An address as it was asked for."""

    origin: str
    media_id: str
    timeout_ms: int
    is_authenticated: bool


class Downloads:
    """Files and thumbnails as HTTP answers."""

    def __init__(
        self,
        repository: MediaRepository,
        thumbnails: Thumbnails,
        files: MediaFiles,
        run_in_thread: RunInThread,
        log: Log,
        settings: Callable[[], Media],
    ) -> None:
        self._repository = repository
        self._thumbnails = thumbnails
        self._files = files
        self._run = run_in_thread
        self._log = log
        self._settings = settings

    async def download(self, request: Request, wanted: Wanted, file_name: str | None = None) -> Response:
        """A file, under the name that it was uploaded with or another one."""
        check_file_name(file_name)
        found = await self._find(wanted)
        served = Served(
            self._files.path_of(found.sha256),
            found.size,
            found.content_type,
            disposition(found.content_type, file_name or found.file_name),
            f'"{found.sha256}"'.encode("ascii"),
            _cache_of(wanted),
        )
        return await self._serve(request, wanted, served)

    async def thumbnail(self, request: Request, wanted: Wanted, size: ThumbnailSize) -> Response:
        """A small picture of a file."""
        found = await self._find(wanted)
        made = await self._thumbnails.get(found, size)
        variant = f"-{made.variant}" if made.variant else ""
        return await self._serve(
            request,
            wanted,
            Served(
                made.path,
                len(made.data) if made.path is None else None,
                made.content_type,
                disposition(made.content_type, f"thumbnail.{made.content_type.removeprefix('image/')}"),
                f'"{found.sha256}{variant}"'.encode("ascii"),
                _cache_of(wanted),
                made.data,
            ),
        )

    async def _find(self, wanted: Wanted) -> MediaFile:
        found = await self._repository.find(wanted.origin, wanted.media_id, wanted.timeout_ms)
        # spec: client-server-api#content-repo-client-behaviour ("freeze")
        frozen_ts_ms = self._settings().freeze_unauthenticated_ts_ms
        if not wanted.is_authenticated and frozen_ts_ms is not None and found.created_ts_ms >= frozen_ts_ms:
            raise not_found("Media is only shown to those who are logged in")
        return found

    async def _serve(self, request: Request, wanted: Wanted, served: Served) -> Response:
        try:
            return await serve(request, served, self._files, self._run)
        except OSError as error:
            self._log.error("a file cannot be read", media_id=wanted.media_id, problem=str(error))
            if isinstance(error, FileNotFoundError):
                raise not_found("The file is lost") from None
            raise MatrixError(503, "M_UNKNOWN", "The file cannot be read at the moment") from None


def _cache_of(wanted: Wanted) -> bytes:
    return PRIVATE_CACHE if wanted.is_authenticated else PUBLIC_CACHE
