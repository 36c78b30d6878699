"""Queries of other servers: aliases and profiles of ours.

spec: server-server-api#querying-for-information
"""

from __future__ import annotations

from typing import Any

from federation.ids import domain_of, parse_room_alias, parse_user_id
from homeserver.accounts.profiles import Profiles
from homeserver.appservices.existence import AwayError
from homeserver.http.errors import not_found, unrecognized
from homeserver.http.request import Request
from homeserver.http.route import Auth, Route
from homeserver.rooms.aliases import Aliases

_QUERY = "/_matrix/federation/v1/query"


class QueryApi:
    def __init__(self, server_name: str, aliases: Aliases, profiles: Profiles) -> None:
        self._server_name = server_name
        self._aliases = aliases
        self._profiles = profiles

    def routes(self) -> list[Route]:
        return [
            _route(f"{_QUERY}/directory", self.directory, "get_matrixfederationv1querydirectory"),
            _route(f"{_QUERY}/profile", self.profile, "get_matrixfederationv1queryprofile"),
            _route(f"{_QUERY}/{{query_type}}", self.other, "get_matrixfederationv1queryquerytype"),
        ]

    async def directory(self, request: Request) -> dict[str, Any]:
        alias = parse_room_alias(request.required_arg("room_alias"))
        if domain_of(alias) != self._server_name:
            raise not_found("Room aliases of other servers are not known here")
        try:
            located = await self._aliases.locate_own(alias)
        except AwayError:
            raise not_found("Nobody can tell at the moment whether there is such an alias") from None
        return {"room_id": located.room_id, "servers": list(located.servers)}

    async def profile(self, request: Request) -> dict[str, Any]:
        user_id = parse_user_id(request.required_arg("user_id"))
        if domain_of(user_id) != self._server_name:
            raise not_found("Users of other servers are not known here")
        try:
            return await self._profiles.load(user_id, request.arg("field"))
        except AwayError:
            raise not_found("Nobody can tell at the moment whether there is such a user") from None

    async def other(self, request: Request, query_type: str) -> dict[str, Any]:  # noqa: ARG002
        """Every kind of query that is specified has an endpoint of its own."""
        # spec: server-server-api#unsupported-endpoints
        raise unrecognized()


def _route(template: str, handler: Any, anchor: str) -> Route:
    return Route(
        method="GET",
        template=template,
        handler=handler,
        auth=Auth.FEDERATION,
        serve="federation",
        spec=f"server-server-api#{anchor}",
    )
