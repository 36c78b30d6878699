"""Messages to devices. spec: client-server-api#send-to-device-messaging"""

from __future__ import annotations

from typing import Any

import msgspec

from homeserver.e2ee.to_device import MAX_MESSAGES, ToDeviceMessages
from homeserver.http.errors import too_large
from homeserver.http.request import Request
from homeserver.http.response import EMPTY_JSON
from homeserver.http.route import Auth, Route

# The key of a room, for all devices in it: some clients send that in one request.
_MAX_BODY = 16 * 1024 * 1024
# LIMIT(empty objects by the million take long to read, and much memory; a message has some ten)
_MAX_OBJECTS = 50 * MAX_MESSAGES


class SendBody(msgspec.Struct):
    messages: dict[str, dict[str, dict[str, Any]]]


class SendToDeviceApi:
    def __init__(self, messages: ToDeviceMessages) -> None:
        self._messages = messages

    def routes(self) -> list[Route]:
        return [
            Route(
                method="PUT",
                template="/_matrix/client/v3/sendToDevice/{event_type}/{txn_id:txn_id}",
                handler=self.send,
                auth=Auth.GUEST_OK,
                limit="write",
                max_body=_MAX_BODY,
                spec="client-server-api#put_matrixclientv3sendtodeviceeventtypetxnid",
                suspended_may=True,
            )
        ]

    async def send(self, request: Request, event_type: str, txn_id: str) -> bytes:
        if request.body.count(b"{") > _MAX_OBJECTS:
            raise too_large("There are too many objects in the request")
        messages = request.json(SendBody).messages
        await self._messages.send(request.requester, event_type, txn_id, messages)
        return EMPTY_JSON
