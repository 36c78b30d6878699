"""Previews of links, where the administrator has them. spec: client-server-api#content-repository"""

from __future__ import annotations

from typing import Any

from homeserver.http.request import Request
from homeserver.http.route import Route
from homeserver.media.preview import Previews


class PreviewApi:
    """The endpoint, and its deprecated paths."""

    def __init__(self, previews: Previews) -> None:
        self._previews = previews

    def routes(self) -> list[Route]:
        newer = "client-server-api#get_matrixclientv1mediapreview_url"
        older = "client-server-api#get_matrixmediav3preview_url"
        return [
            self._route("/_matrix/client/v1/media/preview_url", newer),
            self._route("/_matrix/media/v3/preview_url", older),
            # COMPAT(clients and bots of before v1.1, until they are gone)
            self._route("/_matrix/media/r0/preview_url", older),
        ]

    def _route(self, template: str, spec: str) -> Route:
        return Route(
            method="GET",
            template=template,
            handler=self.preview,
            limit="preview",
            cancel_on_disconnect=True,
            spec=spec,
        )

    async def preview(self, request: Request) -> dict[str, Any]:
        # What is kept is of the last hours: at the moment asked for (ts) it was as new as that, or it is newer,
        # which the specification allows. Older ones are not there to be asked for.
        request.int_arg("ts", 0)
        return await self._previews.get(request.required_arg("url"))
