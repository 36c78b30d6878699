"""The requester's devices. spec: client-server-api#device-management"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from homeserver.accounts.devices import Devices
from homeserver.accounts.login import Identity
from homeserver.accounts.sessions import Sessions
from homeserver.accounts.text import check_device_id, check_device_name
from homeserver.accounts.types import Requester
from homeserver.accounts.uia import InteractiveAuth
from homeserver.http.errors import missing_param
from homeserver.http.request import Request
from homeserver.http.response import EMPTY_JSON, Response
from homeserver.http.route import Auth, Route


class RenameBody(msgspec.Struct):
    display_name: str | msgspec.UnsetType | None = msgspec.UNSET


class DeleteBody(msgspec.Struct):
    devices: Annotated[list[str], msgspec.Meta(max_length=10_000)] | None = None


class DevicesApi:
    def __init__(
        self, devices: Devices, identity: Identity, interactive: InteractiveAuth, sessions: Sessions
    ) -> None:
        self._devices = devices
        self._identity = identity
        self._interactive = interactive
        self._sessions = sessions

    def routes(self) -> list[Route]:
        one = "/_matrix/client/v3/devices/{device_id:device_id}"
        return [
            Route(
                method="GET",
                template="/_matrix/client/v3/devices",
                handler=self.get_all,
                auth=Auth.GUEST_OK,
                limit="read",
                spec="client-server-api#get_matrixclientv3devices",
            ),
            Route(
                method="GET",
                template=one,
                handler=self.get,
                auth=Auth.GUEST_OK,
                limit="read",
                spec="client-server-api#get_matrixclientv3devicesdeviceid",
            ),
            Route(
                method="PUT",
                template=one,
                handler=self.rename,
                auth=Auth.GUEST_OK,
                limit="write",
                max_body=16_384,
                spec="client-server-api#put_matrixclientv3devicesdeviceid",
                suspended_may=True,
            ),
            Route(
                method="DELETE",
                template=one,
                handler=self.delete,
                auth=Auth.USER,
                limit="write",
                max_body=65_536,
                spec="client-server-api#delete_matrixclientv3devicesdeviceid",
                suspended_may=True,
            ),
            Route(
                method="POST",
                template="/_matrix/client/v3/delete_devices",
                handler=self.delete_many,
                auth=Auth.USER,
                limit="write",
                spec="client-server-api#post_matrixclientv3delete_devices",
                suspended_may=True,
            ),
        ]

    async def get_all(self, request: Request) -> dict[str, Any]:
        return {"devices": await self._devices.get_all(request.requester)}

    async def get(self, request: Request, device_id: str) -> dict[str, Any]:
        return await self._devices.get(request.requester, device_id)

    async def rename(self, request: Request, device_id: str) -> bytes | Response:
        """Name a device; an application service makes one so, too."""
        name = request.json(RenameBody, allow_empty=True).display_name
        requester: Requester = request.requester
        if requester.appservice_id is not None:
            return await self._put(requester, device_id, name)
        if name is msgspec.UNSET:
            await self._devices.get(
                request.requester, device_id
            )  # nothing to change, but 404 where there is none
        else:
            await self._devices.rename(request.requester, device_id, name)
        return EMPTY_JSON

    async def _put(
        self, requester: Requester, device_id: str, name: str | msgspec.UnsetType | None
    ) -> Response:
        # spec: application-service-api#creating-devices
        keep_name = name is msgspec.UNSET
        new = await self._sessions.put_device(
            requester.user_nid,
            check_device_id(device_id) or device_id,
            check_device_name(None if isinstance(name, msgspec.UnsetType) else name),
            keep_name=keep_name,
        )
        return Response(201 if new else 200, EMPTY_JSON)

    async def delete(self, request: Request, device_id: str) -> bytes:
        await self._confirm(request)
        await self._devices.delete(request.requester, [device_id])
        return EMPTY_JSON

    async def delete_many(self, request: Request) -> bytes:
        devices = request.json(DeleteBody, allow_empty=True).devices
        if devices is None:
            raise missing_param("devices is missing")
        await self._confirm(request)
        await self._devices.delete(request.requester, devices)
        return EMPTY_JSON

    async def _confirm(self, request: Request) -> None:
        requester: Requester = request.requester
        if requester.appservice_id is not None:
            return  # spec: application-service-api#deleting-devices
        offer = self._identity.password_offer(requester)
        whole = request.json(allow_empty=True)
        await self._interactive.confirm(request, whole, offer, user_nid=requester.user_nid)
