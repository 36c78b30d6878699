"""Subscriptions of threads. proposals: MSC4306, MSC4308"""

from __future__ import annotations

import msgspec

from federation.ids import EventId, RoomId, parse_event_id
from homeserver.http.errors import invalid_param
from homeserver.http.request import Request
from homeserver.http.response import EMPTY_JSON
from homeserver.http.route import Route
from homeserver.rooms.thread_subscriptions import ThreadSubscriptions

_THREAD = "/_matrix/client/unstable/io.element.msc4306/rooms/{room_id:room_id}/thread/{root_id:event_id}/subscription"
_CHANGES = "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions"


class _PutJson(msgspec.Struct):
    automatic: str | None = None


class ThreadSubscriptionsApi:
    """See the module."""

    def __init__(self, subscriptions: ThreadSubscriptions) -> None:
        self._subscriptions = subscriptions

    def routes(self) -> list[Route]:
        spec = "proposals/4306#new-endpoints"
        return [
            Route(method="GET", template=_THREAD, handler=self.get, limit="read", spec=spec),
            Route(
                method="PUT", template=_THREAD, handler=self.put, limit="write", max_body=16_384, spec=spec
            ),
            Route(method="DELETE", template=_THREAD, handler=self.drop, limit="write", spec=spec),
            Route(
                method="GET",
                template=_CHANGES,
                handler=self.changes,
                limit="read",
                spec="proposals/4308#companion-endpoint-for-backpaginating-thread-subscription-changes",
            ),
        ]

    async def get(self, request: Request, room_id: RoomId, root_id: EventId) -> dict[str, bool]:
        return {"automatic": await self._subscriptions.get(request.requester, room_id, root_id)}

    async def put(self, request: Request, room_id: RoomId, root_id: EventId) -> bytes:
        body = request.json(_PutJson, allow_empty=True)
        cause = None if body.automatic is None else parse_event_id(body.automatic)
        await self._subscriptions.put(request.requester, room_id, root_id, cause)
        return EMPTY_JSON

    async def drop(self, request: Request, room_id: RoomId, root_id: EventId) -> bytes:
        await self._subscriptions.drop(request.requester, room_id, root_id)
        return EMPTY_JSON

    async def changes(self, request: Request) -> dict[str, object]:
        if request.arg("dir", "b") != "b":
            raise invalid_param("dir must be b")
        limit = request.int_arg("limit", 100, 1)
        return await self._subscriptions.page(
            request.requester, request.arg("from") or None, request.arg("to") or None, limit
        )
