"""The devices of a user, as those in charge see and manage them."""

from __future__ import annotations

from typing import Any

import msgspec

from federation.ids import UserId
from homeserver.accounts.devices import Devices
from homeserver.accounts.sessions import Sessions
from homeserver.accounts.text import check_device_id
from homeserver.accounts.types import Requester, stand_in
from homeserver.accounts.users import Accounts
from homeserver.http.errors import bad_json, not_found
from homeserver.http.request import Request
from homeserver.http.response import Response, json_response
from homeserver.http.route import Route
from synapse_compat.gate import admin_route, find_local

_DEVICES = "/v2/users/{user_id:member_id}/devices"
_DEVICE = _DEVICES + "/{device_id:device_id}"
# LIMIT(devices deleted by one call)
_DELETED_MOST = 1_000


class NewDeviceBody(msgspec.Struct):
    device_id: str


class DeviceBody(msgspec.Struct):
    display_name: str | None = None


class DeleteBody(msgspec.Struct):
    devices: list[str]


class UserDevicesApi:
    """See the module."""

    def __init__(self, accounts: Accounts, devices: Devices, sessions: Sessions) -> None:
        self._accounts = accounts
        self._devices = devices
        self._sessions = sessions

    def routes(self) -> list[Route]:
        delete_many = "/v2/users/{user_id:member_id}/delete_devices"
        return [
            admin_route("GET", _DEVICES, self.list_all, "users"),
            admin_route("POST", _DEVICES, self.make, "users"),
            admin_route("GET", _DEVICE, self.get, "users"),
            admin_route("PUT", _DEVICE, self.rename, "users"),
            admin_route("DELETE", _DEVICE, self.delete, "users"),
            admin_route("POST", delete_many, self.delete_many, "users"),
        ]

    async def list_all(self, _: Request, user_id: UserId) -> dict[str, Any]:
        """Every device, the oldest first."""
        found = await self._shown(await self._owner(user_id))
        return {"devices": found, "total": len(found)}

    async def get(self, _: Request, user_id: UserId, device_id: str) -> dict[str, Any]:
        """One device."""
        for one in await self._shown(await self._owner(user_id)):
            if one["device_id"] == device_id:
                return one
        raise not_found("There is no such device")

    async def make(self, request: Request, user_id: UserId) -> Response:
        """A device that nobody is logged in with; one that is there stays as it is."""
        device_id = check_device_id(request.json(NewDeviceBody).device_id)
        if device_id is None:
            raise bad_json("device_id is empty")
        owner = await self._owner(user_id, active=True)
        await self._sessions.put_device(owner.user_nid, device_id, None, keep_name=True)
        return json_response({}, 201)

    async def rename(self, request: Request, user_id: UserId, device_id: str) -> dict[str, Any]:
        """Give a device another name."""
        name = request.json(DeviceBody).display_name
        owner = await self._owner(user_id)
        if name is not None:
            await self._devices.rename(owner, device_id, name)
        return {}

    async def delete(self, _: Request, user_id: UserId, device_id: str) -> dict[str, Any]:
        """End the login of a device; it need not be there."""
        await self._devices.delete(await self._owner(user_id), [device_id])
        return {}

    async def delete_many(self, request: Request, user_id: UserId) -> dict[str, Any]:
        """End the logins of devices; those that are not there are passed over."""
        device_ids = request.json(DeleteBody).devices
        if len(device_ids) > _DELETED_MOST:
            raise bad_json(f"At most {_DELETED_MOST} devices at once")
        await self._devices.delete(await self._owner(user_id), device_ids)
        return {}

    async def _owner(self, user_id: UserId, *, active: bool = False) -> Requester:
        account = await find_local(self._accounts, user_id)
        if active and account.deactivated:
            raise not_found("This account is deactivated")
        return stand_in(account.user_id, account.user_nid)

    async def _shown(self, owner: Requester) -> list[dict[str, Any]]:
        return [{**one, "user_id": owner.user_id} for one in await self._devices.get_all_in_full(owner)]
