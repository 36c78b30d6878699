"""Spaces, and rooms at a glance. spec: client-server-api#spaces"""

from __future__ import annotations

from typing import Any

from federation.ids import RoomAlias, RoomId, ServerName, domain_of, parse_server_name
from homeserver.http.errors import not_found
from homeserver.http.request import Request
from homeserver.http.route import Auth, Route
from homeserver.http.router import default_rate_key
from homeserver.rooms.aliases import Aliases, Located
from homeserver.rooms.reads.spaces import DEPTH_MOST, LIMIT_DEFAULT, LIMIT_MOST, Spaces
from homeserver.rooms.reads.summaries import Summaries

MAX_VIA = 50

# COMPAT(matrix-js-sdk 41 and 42, and with them Cinny; Nheko, which asks for the oldest; 2026): MSC3266's own.
_PREFIX = "im.nheko.summary"
_UNSTABLE = f"/_matrix/client/unstable/{_PREFIX}"
_OLD_SUMMARIES = (
    f"{_UNSTABLE}/rooms/{{where:room_id_or_alias}}/summary",
    f"{_UNSTABLE}/summary/{{where:room_id_or_alias}}",
)


class SpacesApi:
    def __init__(self, server_name: str, spaces: Spaces, summaries: Summaries, aliases: Aliases) -> None:
        self._server_name = server_name
        self._spaces = spaces
        self._summaries = summaries
        self._aliases = aliases

    def routes(self) -> list[Route]:
        return [
            Route(
                method="GET",
                template="/_matrix/client/v1/rooms/{room_id:room_id}/hierarchy",
                handler=self.hierarchy,
                auth=Auth.USER,
                limit="search",
                spec="client-server-api#get_matrixclientv1roomsroomidhierarchy",
            ),
            Route(
                method="GET",
                template="/_matrix/client/v1/room_summary/{where:room_id_or_alias}",
                handler=self.summary,
                auth=Auth.OPTIONAL,
                limit="search",
                spec="client-server-api#get_matrixclientv1room_summaryroomidoralias",
            ),
            *(
                Route(
                    method="GET",
                    template=template,
                    handler=self.old_summary,
                    auth=Auth.OPTIONAL,
                    limit="search",
                    spec="client-server-api#get_matrixclientv1room_summaryroomidoralias",
                )
                for template in _OLD_SUMMARIES
            ),
        ]

    async def hierarchy(self, request: Request, room_id: RoomId) -> dict[str, Any]:
        return await self._spaces.page(
            request.requester,
            room_id,
            limit=request.int_arg("limit", LIMIT_DEFAULT, minimum=1, maximum=LIMIT_MOST, clamp=True),
            suggested_only=request.bool_arg("suggested_only"),
            max_depth=request.int_arg("max_depth", DEPTH_MOST, maximum=DEPTH_MOST, clamp=True),
            token=request.arg("from") or None,
        )

    async def summary(self, request: Request, where: RoomId | RoomAlias) -> dict[str, Any]:
        via = [parse_server_name(name) for name in request.query.get("via", ())[:MAX_VIA]]
        room_id, servers = await self._locate(request, where)
        return await self._summaries.summary(request.requester, room_id, [*via, *servers])

    async def old_summary(self, request: Request, where: RoomId | RoomAlias) -> dict[str, Any]:
        # Two fields had a prefix, and Nheko reads them by no other name.
        told = await self.summary(request, where)
        old = {f"{_PREFIX}.{name}": told[name] for name in ("room_version", "encryption") if name in told}
        return {**told, **old}

    async def _locate(self, request: Request, where: RoomId | RoomAlias) -> Located:
        if where[:1] == "!":
            servers: tuple[ServerName, ...] = ()
            return Located(RoomId(where), servers)
        alias = RoomAlias(where)
        if request.requester is None and domain_of(alias) != self._server_name:
            # No other server is asked on behalf of somebody whom nobody knows.
            raise not_found("Room not found")
        return await self._aliases.locate(alias, default_rate_key(request))
