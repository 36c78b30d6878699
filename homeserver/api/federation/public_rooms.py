"""Our room directory for other servers, where the configuration shows it to them.

spec: server-server-api#published-room-directory
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from homeserver.api.client.directory import PublicRoomsBody, wanted_rooms
from homeserver.config.schema import PublicRooms
from homeserver.http.errors import forbidden
from homeserver.http.request import Request
from homeserver.http.route import Auth, Route
from homeserver.rooms.directory import Directory

_PATH = "/_matrix/federation/v1/publicRooms"


class FederatedDirectoryApi:
    def __init__(self, directory: Directory, options: Callable[[], PublicRooms]) -> None:
        self._directory = directory
        self._options = options

    def routes(self) -> list[Route]:
        return [
            _route("GET", self.get, "get_matrixfederationv1publicrooms"),
            _route("POST", self.post, "post_matrixfederationv1publicrooms"),
        ]

    async def get(self, request: Request) -> dict[str, Any]:
        body = PublicRoomsBody(
            # 0 asks for no limit, so it is that of the directory.
            limit=request.int_arg("limit", 0),
            since=request.arg("since"),
            include_all_networks=request.bool_arg("include_all_networks"),
            third_party_instance_id=request.arg("third_party_instance_id"),
        )
        return await self._page(body)

    async def post(self, request: Request) -> dict[str, Any]:
        return await self._page(request.json(PublicRoomsBody))

    async def _page(self, body: PublicRoomsBody) -> dict[str, Any]:
        if not self._options().over_federation:
            raise forbidden("The room directory of this server is not shown to other servers")
        return await self._directory.page(replace(wanted_rooms(body), from_afar=True))


def _route(method: str, handler: Any, anchor: str) -> Route:
    return Route(
        method=method,
        template=_PATH,
        handler=handler,
        auth=Auth.FEDERATION,
        serve="federation",
        spec=f"server-server-api#{anchor}",
    )
