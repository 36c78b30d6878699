"""Looking into a room without joining it.

# spec: client-server-api#get_matrixclientv3roomsroomidinitialsync
"""

from __future__ import annotations

from federation.ids import RoomId
from homeserver.http.request import Request
from homeserver.http.route import Auth, Route
from homeserver.rooms.reads.initial import RoomGlances

_LIMIT_MOST = 100


class InitialSyncApi:
    """``/rooms/{roomId}/initialSync``."""

    def __init__(self, glances: RoomGlances) -> None:
        self._glances = glances

    def routes(self) -> list[Route]:
        return [
            Route(
                method="GET",
                template="/_matrix/client/v3/rooms/{room_id:room_id}/initialSync",
                handler=self.initial_sync,
                auth=Auth.GUEST_OK,
                limit="read",
                spec="client-server-api#get_matrixclientv3roomsroomidinitialsync",
            )
        ]

    async def initial_sync(self, request: Request, room_id: RoomId) -> bytes:
        limit = request.int_arg("limit", 10, maximum=_LIMIT_MOST, clamp=True)
        return await self._glances.look(request.requester, room_id, limit)
