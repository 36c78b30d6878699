"""Our files for other servers. spec: server-server-api#content-repository"""

from __future__ import annotations

from typing import Any

from homeserver.api.client.media import wanted_size, wanted_timeout_ms
from homeserver.http.request import Request
from homeserver.http.response import Response
from homeserver.http.route import Auth, Route
from homeserver.media.downloads import Downloads

_MEDIA = "/_matrix/federation/v1/media"


class FederatedMediaApi:
    def __init__(self, downloads: Downloads) -> None:
        self._downloads = downloads

    def routes(self) -> list[Route]:
        return [
            _route("download", self.download),
            _route("thumbnail", self.thumbnail),
        ]

    async def download(self, request: Request, media_id: str) -> Response:
        return await self._downloads.download_for_server(media_id, wanted_timeout_ms(request))

    async def thumbnail(self, request: Request, media_id: str) -> Response:
        size = wanted_size(request)
        return await self._downloads.thumbnail_for_server(media_id, wanted_timeout_ms(request), size)


def _route(name: str, handler: Any) -> Route:
    return Route(
        method="GET",
        template=f"{_MEDIA}/{name}/{{media_id}}",
        handler=handler,
        auth=Auth.FEDERATION,
        serve="federation",
        cancel_on_disconnect=True,
        spec=f"server-server-api#get_matrixfederationv1media{name}mediaid",
    )
