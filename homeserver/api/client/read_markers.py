"""Read markers. spec: client-server-api#fully-read-markers"""

from __future__ import annotations

import msgspec

from federation.ids import RoomId, parse_event_id
from homeserver.http.request import Request
from homeserver.http.response import EMPTY_JSON
from homeserver.http.route import Route
from homeserver.rooms.receipts import Receipts
from homeserver.store.account_data import FULLY_READ


class Markers(msgspec.Struct):
    """The body; a null counts as absent, as clients send it."""

    fully_read: str | None = msgspec.field(default=None, name=FULLY_READ)
    read: str | None = msgspec.field(default=None, name="m.read")
    private: str | None = msgspec.field(default=None, name="m.read.private")


class ReadMarkersApi:
    def __init__(self, receipts: Receipts) -> None:
        self._receipts = receipts

    def routes(self) -> list[Route]:
        return [
            Route(
                method="POST",
                template="/_matrix/client/v3/rooms/{room_id:room_id}/read_markers",
                handler=self.post,
                limit="write",
                max_body=16_384,
                spec="client-server-api#post_matrixclientv3roomsroomidread_markers",
                suspended_may=True,
            )
        ]

    async def post(self, request: Request, room_id: RoomId) -> bytes:
        body = request.json(Markers, allow_empty=True)
        named = ((FULLY_READ, body.fully_read), ("m.read", body.read), ("m.read.private", body.private))
        markers = {kind: parse_event_id(event_id) for kind, event_id in named if event_id is not None}
        await self._receipts.put(request.requester, room_id, markers)
        return EMPTY_JSON
