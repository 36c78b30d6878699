"""Third-party invites: offers to an address that become invites of a user. spec: server-server-api#third-party-invites"""

from __future__ import annotations

from typing import Any

import msgspec

from federation.ids import RoomId, parse_user_id
from homeserver.api.federation.joins import federation_route
from homeserver.http.request import Request
from homeserver.http.response import EMPTY_JSON
from homeserver.http.route import Auth, Route
from homeserver.rooms.federated.exchange import Exchange

_EXCHANGE = "/_matrix/federation/v1/exchange_third_party_invite/{room_id:room_id}"
_ON_BIND = "/_matrix/federation/v1/3pid/onbind"


class _Bound(msgspec.Struct):
    mxid: str
    invites: list[Any]
    medium: str
    address: str


class ThirdPartyApi:
    """``exchange_third_party_invite`` for servers, ``3pid/onbind`` for identity servers."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def routes(self) -> list[Route]:
        return [
            federation_route(
                "PUT",
                _EXCHANGE,
                self.exchange,
                "put_matrixfederationv1exchange_third_party_inviteroomid",
            ),
            # Identity servers have no key that we could ask for: what they tell is proved by the room's own offers.
            Route(
                method="PUT",
                template=_ON_BIND,
                handler=self.bound,
                auth=Auth.NONE,
                limit="federation",
                serve="federation",
                spec="server-server-api#put_matrixfederationv13pidonbind",
            ),
        ]

    async def exchange(self, request: Request, room_id: RoomId) -> bytes:
        await self._exchange.exchange(request.requester.origin, room_id, request.json())
        return EMPTY_JSON

    async def bound(self, request: Request) -> bytes:
        body = request.json(_Bound)
        await self._exchange.bound(parse_user_id(body.mxid), body.invites)
        return EMPTY_JSON
