"""One event by its id.

# spec: client-server-api#get_matrixclientv3roomsroomideventeventid
"""

from __future__ import annotations

from federation.ids import EventId, RoomId
from homeserver.http.request import Request
from homeserver.http.route import Auth, Route
from homeserver.rooms.reads.pagination import Pagination


class EventApi:
    """``/event``."""

    def __init__(self, pagination: Pagination) -> None:
        self._pagination = pagination

    def routes(self) -> list[Route]:
        return [
            Route(
                method="GET",
                template="/_matrix/client/v3/rooms/{room_id:room_id}/event/{event_id:event_id}",
                handler=self.event,
                auth=Auth.GUEST_OK,
                limit="read",
                spec="client-server-api#get_matrixclientv3roomsroomideventeventid",
            )
        ]

    async def event(self, request: Request, room_id: RoomId, event_id: EventId) -> bytes:
        return await self._pagination.event(request.requester, room_id, event_id)
