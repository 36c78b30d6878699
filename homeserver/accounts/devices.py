"""Devices as their user manages them. spec: client-server-api#device-management"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from homeserver.accounts.text import check_device_name
from homeserver.accounts.types import Requester
from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.http.errors import not_found
from homeserver.store import devices
from homeserver.store.dehydrated import load_dehydrated
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

    async def get_all_in_full(self, requester: Requester) -> list[dict[str, Any]]:
        """Every device, oldest first, with what is not known as null and by what program each was last used."""
        found, dehydrated_id = await self._database.read(_load_in_full, requester.user_nid)
        used = [device.used(self._last_seen(device.nid)) for device in found]
        return [
            {
                "last_seen_ip": None,
                "last_seen_ts": None,
                **to_json(device),
                "last_seen_user_agent": device.user_agent,
                "dehydrated": device.device_id == dehydrated_id,
            }
            for device in used
        ]

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
        used = device.used(self._last_seen(device.nid))
        # MSC3852: by OAuth 2.0 an app names all its devices alike, and Element tells them apart by this.
        program = {"org.matrix.msc3852.last_seen_user_agent": used.user_agent} if used.user_agent else {}
        return {**to_json(used), **program}


def _load_in_full(tx: Tx, user_nid: int) -> tuple[list[Device], str | None]:
    dehydrated = load_dehydrated(tx, user_nid)
    return devices.load_devices(tx, user_nid), None if dehydrated is None else dehydrated.device_id


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
