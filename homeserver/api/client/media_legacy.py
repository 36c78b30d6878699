"""Media by the paths of before v1.11, where nobody asks who is there.

Media uploaded after the configured moment of the freeze is not found here.
spec: client-server-api#content-repo-client-behaviour
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from homeserver.api.client.media import MediaApi, wanted_media, wanted_size
from homeserver.http.request import Request
from homeserver.http.response import Response
from homeserver.http.route import Auth, Route
from homeserver.media.downloads import Downloads, Wanted

_OLD_VERSIONS = ("r0", "v1")


class LegacyMediaApi:
    """The same answers, for clients and servers that do not know the newer paths."""

    def __init__(self, downloads: Downloads, newer: MediaApi) -> None:
        self._downloads = downloads
        self._newer = newer

    def routes(self) -> list[Route]:
        routes = [
            Route(
                method="GET",
                template="/_matrix/media/v3/config",
                handler=self._newer.config,
                auth=Auth.GUEST_OK,
                limit="read",
                spec="client-server-api#get_matrixmediav3config",
            ),
            Route(
                method="GET",
                template="/_matrix/media/v3/download/{origin:server_name}/{media_id}",
                handler=self.download,
                auth=Auth.NONE,
                limit="media",
                cancel_on_disconnect=True,
                spec="client-server-api#get_matrixmediav3downloadservernamemediaid",
            ),
            Route(
                method="GET",
                template="/_matrix/media/v3/download/{origin:server_name}/{media_id}/{file_name:text}",
                handler=self.download,
                auth=Auth.NONE,
                limit="media",
                cancel_on_disconnect=True,
                spec="client-server-api#get_matrixmediav3downloadservernamemediaidfilename",
            ),
            Route(
                method="GET",
                template="/_matrix/media/v3/thumbnail/{origin:server_name}/{media_id}",
                handler=self.thumbnail,
                auth=Auth.NONE,
                limit="media",
                cancel_on_disconnect=True,
                spec="client-server-api#get_matrixmediav3thumbnailservernamemediaid",
            ),
        ]
        old_upload = next(one for one in self._newer.routes() if one.template == "/_matrix/media/v3/upload")
        return [*routes, *_older(*routes, old_upload)]

    async def download(
        self, request: Request, origin: str, media_id: str, file_name: str | None = None
    ) -> Response:
        wanted = self._wanted(request, origin, media_id)
        return await self._downloads.download(request, wanted, file_name)

    async def thumbnail(self, request: Request, origin: str, media_id: str) -> Response:
        wanted = self._wanted(request, origin, media_id)
        return await self._downloads.thumbnail(request, wanted, wanted_size(request))

    def _wanted(self, request: Request, origin: str, media_id: str) -> Wanted:
        """Their parameters; a redirect is never needed."""
        request.bool_arg("allow_redirect")
        wanted = wanted_media(request, origin, media_id, is_authenticated=False)
        return replace(wanted, may_fetch=request.bool_arg("allow_remote", True))


def _older(*routes: Route) -> Iterator[Route]:
    # COMPAT(clients and bots of before v1.1, until they are gone)
    for route in routes:
        for version in _OLD_VERSIONS:
            yield replace(route, template=route.template.replace("/media/v3/", f"/media/{version}/"))
