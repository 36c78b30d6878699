"""What only application services may ask: a ping, and rooms in the directory of their networks.

# spec: application-service-api#client-server-api-extensions
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from federation.ids import RoomId
from homeserver.appservices.courier import Courier
from homeserver.appservices.registry import Appservice, Registry
from homeserver.http.errors import forbidden, invalid_param
from homeserver.http.request import Request
from homeserver.http.response import EMPTY_JSON
from homeserver.http.route import Auth, Route
from homeserver.rooms.directory import Directory

MAX_TRANSACTION_ID = 255
MAX_NETWORK_ID = 255


class PingBody(msgspec.Struct):
    transaction_id: str | None = None


class VisibilityBody(msgspec.Struct):
    visibility: Literal["public", "private"]


class AppservicesApi:
    def __init__(self, registry: Registry, courier: Courier, directory: Directory) -> None:
        self._registry = registry
        self._courier = courier
        self._directory = directory

    def routes(self) -> list[Route]:
        return [
            Route(
                method="POST",
                template=f"/_matrix/client/{version}/appservice/{{service_id}}/ping",
                handler=self.ping,
                auth=Auth.APPSERVICE,
                limit="write",
                max_body=16_384,
                spec="application-service-api#post_matrixclientv1appserviceappserviceidping",
            )
            # COMPAT(bridges of before v1.7, always): MSC2659's name of the endpoint
            for version in ("v1", "unstable/fi.mau.msc2659")
        ] + [
            Route(
                method="PUT",
                template="/_matrix/client/v3/directory/list/appservice/{network_id}/{room_id:room_id}",
                handler=self.put_visibility,
                auth=Auth.APPSERVICE,
                limit="write",
                max_body=16_384,
                spec="application-service-api#put_matrixclientv3directorylistappservicenetworkidroomid",
            )
        ]

    async def ping(self, request: Request, service_id: str) -> dict[str, Any]:
        """Ask the application service, with its own token, whether it hears us."""
        service = self._service(request)
        if service.id != service_id:
            raise forbidden("The access token is not this application service's")
        transaction_id = request.json(PingBody, allow_empty=True).transaction_id
        if transaction_id is not None and len(transaction_id) > MAX_TRANSACTION_ID:
            raise invalid_param("transaction_id is too long")
        return {"duration_ms": await self._courier.ping(service, transaction_id)}

    async def put_visibility(self, request: Request, network_id: str, room_id: RoomId) -> bytes:
        """List a room in a network of the application service's, or no longer."""
        if len(network_id) > MAX_NETWORK_ID:
            raise invalid_param("The network's id is too long")
        listed = request.json(VisibilityBody).visibility == "public"
        await self._directory.list_in_network(self._service(request).id, network_id, room_id, listed)
        return EMPTY_JSON

    def _service(self, request: Request) -> Appservice:
        service = self._registry.by_id(request.requester.appservice_id)
        assert service is not None  # or the gate would have refused
        return service
