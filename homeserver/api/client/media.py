"""Uploads, and downloads by whoever is logged in. spec: client-server-api#content-repository"""

from __future__ import annotations

from typing import Any

from homeserver.config.schema import MIB
from homeserver.http.errors import invalid_param, too_large
from homeserver.http.request import Request
from homeserver.http.response import Response
from homeserver.http.route import Auth, Route
from homeserver.media.downloads import Downloads, Wanted
from homeserver.media.repo import MediaRepository, check_media_id
from homeserver.media.thumbnails import ThumbnailSize, next_size
from homeserver.media.types import OCTET_STREAM

# The most that a configuration may allow; the limit in force is looked at when an upload begins.
MAX_BODY_BYTES = 64 * 1024 * MIB
# spec: client-server-api#get_matrixclientv1mediadownloadservernamemediaid (timeout_ms)
DEFAULT_TIMEOUT_MS = 20_000
MAX_TIMEOUT_MS = 60_000


class MediaApi:
    """The endpoints that ask for an access token."""

    def __init__(self, repository: MediaRepository, downloads: Downloads) -> None:
        self._repository = repository
        self._downloads = downloads

    def routes(self) -> list[Route]:
        return [*self._uploads(), *self._reads()]

    def _uploads(self) -> list[Route]:
        return [
            Route(
                method="POST",
                template="/_matrix/media/v3/upload",
                handler=self.upload,
                limit="media",
                max_body=MAX_BODY_BYTES,
                stream=True,
                spec="client-server-api#post_matrixmediav3upload",
            ),
            Route(
                method="PUT",
                template="/_matrix/media/v3/upload/{origin:server_name}/{media_id}",
                handler=self.fill,
                limit="media",
                max_body=MAX_BODY_BYTES,
                stream=True,
                spec="client-server-api#put_matrixmediav3uploadservernamemediaid",
            ),
            Route(
                method="POST",
                template="/_matrix/media/v1/create",
                handler=self.create,
                limit="media",
                spec="client-server-api#post_matrixmediav1create",
            ),
        ]

    def _reads(self) -> list[Route]:
        return [
            Route(
                method="GET",
                template="/_matrix/client/v1/media/config",
                handler=self.config,
                auth=Auth.GUEST_OK,
                limit="read",
                spec="client-server-api#get_matrixclientv1mediaconfig",
            ),
            Route(
                method="GET",
                template="/_matrix/client/v1/media/download/{origin:server_name}/{media_id}",
                handler=self.download,
                auth=Auth.GUEST_OK,
                limit="media",
                cancel_on_disconnect=True,
                spec="client-server-api#get_matrixclientv1mediadownloadservernamemediaid",
            ),
            Route(
                method="GET",
                template="/_matrix/client/v1/media/download/{origin:server_name}/{media_id}/{file_name:text}",
                handler=self.download,
                auth=Auth.GUEST_OK,
                limit="media",
                cancel_on_disconnect=True,
                spec="client-server-api#get_matrixclientv1mediadownloadservernamemediaidfilename",
            ),
            Route(
                method="GET",
                template="/_matrix/client/v1/media/thumbnail/{origin:server_name}/{media_id}",
                handler=self.thumbnail,
                auth=Auth.GUEST_OK,
                limit="media",
                cancel_on_disconnect=True,
                spec="client-server-api#get_matrixclientv1mediathumbnailservernamemediaid",
            ),
        ]

    async def upload(self, request: Request) -> dict[str, str]:
        content_type, file_name = self._begin_upload(request)
        assert request.body_stream is not None
        address = await self._repository.upload(
            request.requester, request.body_stream, content_type, file_name
        )
        return {"content_uri": address}

    async def create(self, request: Request) -> dict[str, Any]:
        address, expires_ts_ms = await self._repository.create(request.requester)
        return {"content_uri": address, "unused_expires_at": expires_ts_ms}

    async def fill(self, request: Request, origin: str, media_id: str) -> None:
        check_media_id(media_id)
        content_type, file_name = self._begin_upload(request)
        assert request.body_stream is not None
        await self._repository.fill(
            request.requester, origin, media_id, request.body_stream, content_type, file_name
        )

    def _begin_upload(self, request: Request) -> tuple[str, str | None]:
        """Content type and name; refuses at once what says itself that it is too large."""
        length = request.headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > self._repository.max_upload_bytes:
            raise too_large(f"Files may have {self._repository.max_upload_bytes} bytes")
        content_type = request.headers.get(b"content-type", b"").decode("latin-1").strip()
        return content_type or OCTET_STREAM, request.arg("filename")

    async def config(self, request: Request) -> dict[str, int]:  # noqa: ARG002
        return {"m.upload.size": self._repository.max_upload_bytes}

    async def download(
        self, request: Request, origin: str, media_id: str, file_name: str | None = None
    ) -> Response:
        wanted = wanted_media(request, origin, media_id, is_authenticated=True)
        return await self._downloads.download(request, wanted, file_name)

    async def thumbnail(self, request: Request, origin: str, media_id: str) -> Response:
        wanted = wanted_media(request, origin, media_id, is_authenticated=True)
        return await self._downloads.thumbnail(request, wanted, wanted_size(request))


def wanted_size(request: Request) -> ThumbnailSize:
    """The thumbnail that is asked for."""
    request.required_arg("width")
    request.required_arg("height")
    method = request.arg("method", "scale")
    if method not in ("crop", "scale"):
        raise invalid_param("The method of a thumbnail is crop or scale")
    width = request.int_arg("width", 0, minimum=1)
    height = request.int_arg("height", 0, minimum=1)
    return next_size(
        width, height, "crop" if method == "crop" else "scale", animated=request.bool_arg("animated")
    )


def wanted_media(request: Request, origin: str, media_id: str, *, is_authenticated: bool) -> Wanted:
    """The address and how long the client would wait for it."""
    check_media_id(media_id)
    return Wanted(origin, media_id, wanted_timeout_ms(request), is_authenticated)


def wanted_timeout_ms(request: Request) -> int:
    """How long somebody would wait for a file that is still to come."""
    return request.int_arg("timeout_ms", DEFAULT_TIMEOUT_MS, maximum=MAX_TIMEOUT_MS, clamp=True)
