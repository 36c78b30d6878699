"""Receipts. spec: client-server-api#receipts"""

from __future__ import annotations

from federation.ids import EventId, RoomId, parse_event_id
from homeserver.http.errors import invalid_param
from homeserver.http.request import Request
from homeserver.http.response import EMPTY_JSON
from homeserver.http.route import Route
from homeserver.rooms.receipts import Receipts
from homeserver.store.account_data import FULLY_READ
from homeserver.store.receipts import KINDS, MAIN, UNTHREADED


class ReceiptsApi:
    def __init__(self, receipts: Receipts) -> None:
        self._receipts = receipts

    def routes(self) -> list[Route]:
        return [
            Route(
                method="POST",
                template="/_matrix/client/v3/rooms/{room_id:room_id}/receipt/{kind}/{event_id:event_id}",
                handler=self.post,
                limit="write",
                max_body=16_384,
                spec="client-server-api#post_matrixclientv3roomsroomidreceiptreceipttypeeventid",
                suspended_may=True,
            )
        ]

    async def post(self, request: Request, room_id: RoomId, kind: str, event_id: EventId) -> bytes:
        if kind not in KINDS and kind != FULLY_READ:
            raise invalid_param("The receipt type must be m.read, m.read.private or m.fully_read")
        body = request.json(allow_empty=True)
        thread = UNTHREADED
        if "thread_id" in body:
            thread = body["thread_id"]
            if not isinstance(thread, str) or not thread:
                raise invalid_param("thread_id must be a non-empty string")
            if kind == FULLY_READ:
                raise invalid_param("thread_id does not go with m.fully_read")
            if thread != MAIN:
                parse_event_id(thread)
        await self._receipts.put(request.requester, room_id, {kind: event_id}, thread)
        return EMPTY_JSON
