"""Aliases and the published room directory.

spec: client-server-api#room-aliases, client-server-api#published-room-directory
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol

import msgspec

from federation.ids import RoomAlias, RoomId, ServerName, parse_room_id, parse_server_name
from homeserver.appservices.registry import Registry, check_alias
from homeserver.config.schema import PublicRooms
from homeserver.http.errors import invalid_param, missing_token
from homeserver.http.request import Request
from homeserver.http.response import EMPTY_JSON
from homeserver.http.route import Auth, Route
from homeserver.http.router import default_rate_key
from homeserver.rooms.aliases import Aliases
from homeserver.rooms.directory import PAGE_DEFAULT, TERM_LONGEST, Directory, Query

_ALIAS = "/_matrix/client/v3/directory/room/{room_alias:room_alias}"
_LISTED = "/_matrix/client/v3/directory/list/room/{room_id:room_id}"
_PUBLIC = "/_matrix/client/v3/publicRooms"
MAX_ROOM_TYPES = 100
_INTEGER_MOST = 2**53 - 1
MAX_INSTANCE_ID = 1_000


class _AliasBody(msgspec.Struct):
    room_id: str


class _Visibility(msgspec.Struct):
    visibility: Literal["public", "private"] | None = "public"


class RoomFilter(msgspec.Struct):
    generic_search_term: str | None = None
    room_types: list[str | None] | None = None


class PublicRoomsBody(msgspec.Struct):
    """spec: client-server-api#post_matrixclientv3publicrooms, server-server-api#post_matrixfederationv1publicrooms"""

    limit: int | None = None
    since: str | None = None
    filter: RoomFilter | None = None
    include_all_networks: bool | None = None
    third_party_instance_id: str | None = None


class AskRooms(Protocol):
    """Asks another server for a page of its directory."""

    def __call__(
        self, server_name: ServerName, options: dict[str, Any], /, *, filtered: bool, asker: str | None
    ) -> Awaitable[dict[str, Any]]: ...


class DirectoryApi:
    def __init__(
        self,
        server_name: str,
        directory: Directory,
        aliases: Aliases,
        options: Callable[[], PublicRooms],
        ask: AskRooms,
        names: Registry,
    ) -> None:
        self._server_name = server_name
        self._directory = directory
        self._aliases = aliases
        self._options = options
        self._ask = ask
        self._names = names

    def routes(self) -> list[Route]:
        of_room = "/_matrix/client/v3/rooms/{room_id:room_id}/aliases"
        return [
            _route("GET", _ALIAS, self.get_alias, "get_matrixclientv3directoryroomroomalias", Auth.NONE),
            _route("PUT", _ALIAS, self.put_alias, "put_matrixclientv3directoryroomroomalias"),
            _route("DELETE", _ALIAS, self.delete_alias, "delete_matrixclientv3directoryroomroomalias"),
            _route("GET", of_room, self.get_aliases, "get_matrixclientv3roomsroomidaliases"),
            _route(
                "GET", _LISTED, self.get_visibility, "get_matrixclientv3directorylistroomroomid", Auth.NONE
            ),
            _route("PUT", _LISTED, self.put_visibility, "put_matrixclientv3directorylistroomroomid"),
            _route("GET", _PUBLIC, self.get_public_rooms, "get_matrixclientv3publicrooms", Auth.OPTIONAL),
            _route(
                "POST",
                _PUBLIC,
                self.post_public_rooms,
                "post_matrixclientv3publicrooms",
                Auth.GUEST_OK,
                suspended_may=True,
            ),
        ]

    # --- aliases -------------------------------------------------------------------------------------

    async def get_alias(self, request: Request, room_alias: RoomAlias) -> dict[str, Any]:
        return await self._aliases.resolve(room_alias, default_rate_key(request))

    async def put_alias(self, request: Request, room_alias: RoomAlias) -> bytes:
        room_id = parse_room_id(request.json(_AliasBody).room_id)
        service_id = request.requester.appservice_id
        # Of an application service this refuses whatever is not its own.
        check_alias(self._names, room_alias, service_id)
        await self._aliases.put(request.requester, room_alias, room_id, is_own=service_id is not None)
        return EMPTY_JSON

    async def delete_alias(self, request: Request, room_alias: RoomAlias) -> bytes:
        requester = request.requester
        service = self._names.by_id(requester.appservice_id)
        # spec: application-service-api#server-admin-style-permissions
        if service is None or not service.owns_alias(room_alias):
            check_alias(self._names, room_alias, None)
            await self._aliases.delete(requester, room_alias, is_admin=requester.is_admin)
        else:
            await self._aliases.delete(requester, room_alias, is_admin=True)
        return EMPTY_JSON

    async def get_aliases(self, request: Request, room_id: RoomId) -> dict[str, Any]:
        return {"aliases": await self._aliases.of_room(request.requester, room_id)}

    # --- the directory -------------------------------------------------------------------------------

    async def get_visibility(self, _: Request, room_id: RoomId) -> dict[str, str]:
        return {"visibility": "public" if await self._directory.is_published(room_id) else "private"}

    async def put_visibility(self, request: Request, room_id: RoomId) -> bytes:
        published = request.json(_Visibility, allow_empty=True).visibility != "private"
        requester = request.requester
        await self._directory.publish(requester, room_id, published, is_admin=requester.is_admin)
        return EMPTY_JSON

    async def get_public_rooms(self, request: Request) -> dict[str, Any]:
        if request.requester is None and not self._options().without_auth:
            raise missing_token()
        limit, since = request.int_arg("limit", PAGE_DEFAULT), request.arg("since")
        server_name = self._other_server(request)
        if server_name is not None:
            options: dict[str, Any] = {"limit": limit}
            if since is not None:
                options["since"] = since
            return await self._ask(server_name, options, filtered=False, asker=default_rate_key(request))
        return await self._directory.page(Query(limit, since))

    async def post_public_rooms(self, request: Request) -> dict[str, Any]:
        body = request.json(PublicRoomsBody, allow_empty=True)
        query = wanted_rooms(body)
        server_name = self._other_server(request)
        if server_name is not None:
            asker = default_rate_key(request)
            return await self._ask(server_name, _options(body), filtered=True, asker=asker)
        return await self._directory.page(query)

    def _other_server(self, request: Request) -> ServerName | None:
        """Whose list is asked for; None for our own."""
        server = request.arg("server")
        name = parse_server_name(server) if server is not None else None
        return None if name == self._server_name else name


def wanted_rooms(body: PublicRoomsBody) -> Query:
    """What a filter asks of a directory. Refuses what is malformed."""
    limit = PAGE_DEFAULT if body.limit is None else body.limit
    if not 0 <= limit <= _INTEGER_MOST:
        raise invalid_param("limit must not be negative")
    wanted = body.filter or RoomFilter()
    types = wanted.room_types
    term = wanted.generic_search_term or ""
    if len(term) > TERM_LONGEST or (types is not None and len(types) > MAX_ROOM_TYPES):
        raise invalid_param("The filter is too large")
    network = body.third_party_instance_id
    if network is not None and (body.include_all_networks or len(network) > MAX_INSTANCE_ID):
        raise invalid_param("third_party_instance_id is too long, or contradicts include_all_networks")
    return Query(limit, body.since, term, types, network, bool(body.include_all_networks))


def _options(body: PublicRoomsBody) -> dict[str, Any]:
    """A client's body as another server gets it: what is specified, and nothing that is null."""
    options = {name: value for name, value in msgspec.to_builtins(body).items() if value is not None}
    wanted = options.get("filter")
    if wanted is not None:
        options["filter"] = {name: value for name, value in wanted.items() if value is not None}
    return options


def _route(
    method: str,
    template: str,
    handler: Any,
    anchor: str,
    auth: Auth = Auth.USER,
    *,
    suspended_may: bool = False,
) -> Route:
    return Route(
        method=method,
        template=template,
        handler=handler,
        auth=auth,
        limit="write" if method in ("PUT", "DELETE") else "search",
        spec=f"client-server-api#{anchor}",
        suspended_may=suspended_may,
    )
