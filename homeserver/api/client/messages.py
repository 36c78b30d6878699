"""Paging through the history of a room.

# spec: client-server-api#get_matrixclientv3roomsroomidmessages
"""

from __future__ import annotations

from federation.ids import RoomId
from homeserver.api.client.event_filter import event_filter, page_limit
from homeserver.http.errors import invalid_param
from homeserver.http.request import Request
from homeserver.http.route import Auth, Route
from homeserver.rooms.reads.pagination import PageAsked, Pagination

_LIMIT_MOST = 1_000


def backwards_arg(request: Request) -> bool:
    """The direction, which must be given: ``b`` or ``f``."""
    direction = request.required_arg("dir")
    if direction not in ("b", "f"):
        raise invalid_param("dir must be b or f")
    return direction == "b"


class MessagesApi:
    """``/messages``."""

    def __init__(self, pagination: Pagination) -> None:
        self._pagination = pagination

    def routes(self) -> list[Route]:
        return [
            Route(
                method="GET",
                template="/_matrix/client/v3/rooms/{room_id:room_id}/messages",
                handler=self.messages,
                auth=Auth.GUEST_OK,
                limit="read",
                spec="client-server-api#get_matrixclientv3roomsroomidmessages",
            )
        ]

    async def messages(self, request: Request, room_id: RoomId) -> bytes:
        wanted = event_filter(request)
        asked = PageAsked(
            backwards_arg(request),
            page_limit(request, wanted, _LIMIT_MOST),
            # Some clients send an empty token where they have none.
            request.arg("from") or None,
            request.arg("to") or None,
            wanted,
        )
        return await self._pagination.page(request.requester, room_id, asked)
