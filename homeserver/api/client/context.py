"""What happened just before and after an event.

# spec: client-server-api#get_matrixclientv3roomsroomidcontexteventid
"""

from __future__ import annotations

from federation.ids import EventId, RoomId
from homeserver.api.client.event_filter import event_filter, page_limit
from homeserver.http.request import Request
from homeserver.http.route import Auth, Route
from homeserver.rooms.reads.pagination import Pagination

_LIMIT_MOST = 200


class ContextApi:
    """``/context``."""

    def __init__(self, pagination: Pagination) -> None:
        self._pagination = pagination

    def routes(self) -> list[Route]:
        return [
            Route(
                method="GET",
                template="/_matrix/client/v3/rooms/{room_id:room_id}/context/{event_id:event_id}",
                handler=self.context,
                auth=Auth.GUEST_OK,
                limit="read",
                spec="client-server-api#get_matrixclientv3roomsroomidcontexteventid",
            )
        ]

    async def context(self, request: Request, room_id: RoomId, event_id: EventId) -> bytes:
        wanted = event_filter(request)
        limit = page_limit(request, wanted, _LIMIT_MOST)
        return await self._pagination.context(request.requester, room_id, event_id, limit, wanted)
