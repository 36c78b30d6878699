"""Dehydrated devices, under their unstable names. spec: msc3814#proposal"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from homeserver.e2ee.dehydration import DehydratedDevices
from homeserver.e2ee.sections import MESSAGES_MOST
from homeserver.http.request import Request
from homeserver.http.route import Auth, Route

_ROOT = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"
_EVENTS = f"{_ROOT}/{{device_id:device_id}}/events"
_MAX_BODY = 1024 * 1024
# Clients of Element use them only where the server's own document asks for it.
WELL_KNOWN: Final = {"org.matrix.msc3814": True}


class DeviceBody(msgspec.Struct):
    device_id: str
    device_data: dict[str, Any]
    initial_device_display_name: str | None = None


class EventsBody(msgspec.Struct):
    next_batch: str | None = None


class DehydratedDeviceApi:
    def __init__(self, devices: DehydratedDevices) -> None:
        self._devices = devices

    def routes(self) -> list[Route]:
        return [
            Route(
                method="PUT",
                template=_ROOT,
                handler=self.put,
                auth=Auth.USER,
                limit="write",
                max_body=_MAX_BODY,
                spec="msc3814#dehydrating-a-device",
                suspended_may=True,
            ),
            Route(
                method="GET",
                template=_ROOT,
                handler=self.get,
                auth=Auth.USER,
                limit="read",
                spec="msc3814#rehydrating-a-device",
            ),
            Route(
                method="DELETE",
                template=_ROOT,
                handler=self.delete,
                auth=Auth.USER,
                limit="write",
                spec="msc3814#deleting-a-dehydrated-device",
                suspended_may=True,
            ),
            Route(
                method="GET",
                template=_EVENTS,
                handler=self.events,
                auth=Auth.USER,
                limit="read",
                spec="msc3814#rehydrating-a-device",
            ),
            # COMPAT(the Rust SDK, and matrix-js-sdk before July 2026)
            Route(
                method="POST",
                template=_EVENTS,
                handler=self.post_events,
                auth=Auth.USER,
                limit="read",
                spec="msc3814#rehydrating-a-device",
                suspended_may=True,
            ),
        ]

    async def put(self, request: Request) -> dict[str, str]:
        body, keys = request.json(DeviceBody), request.json()
        await self._devices.put(
            request.requester, body.device_id, body.initial_device_display_name, body.device_data, keys
        )
        return {"device_id": body.device_id}

    async def get(self, request: Request) -> dict[str, Any]:
        return await self._devices.get(request.requester)

    async def delete(self, request: Request) -> dict[str, str]:
        return {"device_id": await self._devices.delete(request.requester)}

    async def events(self, request: Request, device_id: str) -> dict[str, Any]:
        """A page; without a token where it is the last one."""
        limit = request.int_arg("limit", MESSAGES_MOST, 1)
        events, token, has_more = await self._devices.messages(
            request.requester, device_id, request.arg("from"), limit
        )
        return {"events": events, **({"next_batch": token} if has_more else {})}

    async def post_events(self, request: Request, device_id: str) -> dict[str, Any]:
        """A page, always with a token; an empty one is the last."""
        since = request.json(EventsBody, allow_empty=True).next_batch
        events, token, _ = await self._devices.messages(request.requester, device_id, since)
        return {"events": events, "next_batch": token}
