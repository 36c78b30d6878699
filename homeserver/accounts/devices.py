"""Devices as their user manages them. spec: client-server-api#device-management"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from homeserver.accounts.text import check_device_name
from homeserver.accounts.types import Requester
from homeserver.db.threads import Database
from homeserver.http.errors import not_found
from homeserver.store import devices
from homeserver.store.devices import Device, Seen
from homeserver.store.work import Worker


class Devices:
    """The devices of requesters."""

    def __init__(self, database: Database, worker: Worker, last_seen: Callable[[int], Seen | None]) -> None:
        self._database = database
        self._worker = worker
        self._last_seen = last_seen  # a device's last use, where it waits to be written down

    async def get_all(self, requester: Requester) -> list[dict[str, Any]]:
        """Every device, oldest first."""
        found = await self._database.read(devices.load_devices, requester.user_nid)
        return [self._shown(device) for device in found]

    async def get(self, requester: Requester, device_id: str) -> dict[str, Any]:
        """One device."""
        found = await self._database.read(devices.load_device, requester.user_nid, device_id)
        if found is None:
            raise _no_device()
        return self._shown(found)

    async def rename(self, requester: Requester, device_id: str, display_name: str | None) -> None:
        """Give a device another name, or none."""
        name = check_device_name(display_name)
        if not await self._worker.work(devices.rename_device, requester.user_nid, device_id, name):
            raise _no_device()

    async def delete(self, requester: Requester, device_ids: Sequence[str]) -> None:
        """End the logins of devices; those that are not there are passed over."""
        # A NUL names no device, and PostgreSQL refuses it.
        wanted = sorted({device_id for device_id in device_ids if "\0" not in device_id})
        await self._worker.work(devices.drop_devices, requester.user_nid, wanted)

    def _shown(self, device: Device) -> dict[str, Any]:
        return to_json(device.used(self._last_seen(device.nid)))


def to_json(device: Device) -> dict[str, Any]:
    """A device as its user sees it; what is not known is left out."""
    found = {
        "device_id": device.device_id,
        "display_name": device.display_name,
        "last_seen_ip": device.last_seen_ip,
        "last_seen_ts": device.last_seen_ts_ms,
    }
    return {name: value for name, value in found.items() if value is not None}


def _no_device() -> Exception:
    return not_found("There is no such device")
