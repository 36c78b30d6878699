"""Looking up rooms and users of other networks. spec: client-server-api#third-party-lookups"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from homeserver.appservices.networks import Networks
from homeserver.http.request import Request
from homeserver.http.route import Auth, Route

_PREFIX = "/_matrix/client/v3/thirdparty"
# Who asks is nothing that an application service needs to know. From everybody else fields may have the names by which
# one says for whom it asks.
_OURS = frozenset({"access_token"})
_OF_APPSERVICES = _OURS | {"user_id", "device_id", "org.matrix.msc3202.device_id"}


class ThirdPartyNetworksApi:
    def __init__(self, networks: Networks) -> None:
        self._networks = networks

    def routes(self) -> list[Route]:
        anchor = "get_matrixclientv3thirdparty"
        return [
            _route("/protocols", self.protocols, f"{anchor}protocols"),
            _route("/protocol/{protocol}", self.protocol, f"{anchor}protocolprotocol"),
            _route("/location/{protocol}", self.location, f"{anchor}locationprotocol"),
            _route("/user/{protocol}", self.user, f"{anchor}userprotocol"),
            _route("/location", self.location_of, f"{anchor}location"),
            _route("/user", self.user_of, f"{anchor}user"),
        ]

    async def protocols(self, _: Request) -> dict[str, Any]:
        return await self._networks.protocols()

    async def protocol(self, _: Request, protocol: str) -> dict[str, Any]:
        return await self._networks.protocol(protocol)

    async def location(self, request: Request, protocol: str) -> list[Any]:
        return await self._networks.find("location", protocol, _fields(request))

    async def user(self, request: Request, protocol: str) -> list[Any]:
        return await self._networks.find("user", protocol, _fields(request))

    async def location_of(self, request: Request) -> list[Any]:
        return await self._networks.find_by_id("location", request.required_arg("alias"))

    async def user_of(self, request: Request) -> list[Any]:
        return await self._networks.find_by_id("user", request.required_arg("userid"))


def _fields(request: Request) -> Mapping[str, Sequence[str]]:
    ours = _OURS if request.requester.appservice_id is None else _OF_APPSERVICES
    return {name: values for name, values in request.query.items() if name not in ours}


def _route(path: str, handler: Any, anchor: str) -> Route:
    return Route(
        method="GET",
        template=_PREFIX + path,
        handler=handler,
        auth=Auth.USER,
        limit="search",
        spec=f"client-server-api#{anchor}",
    )
