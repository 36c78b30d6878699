"""Reading the state of a room.

# spec: client-server-api#get_matrixclientv3roomsroomidstate
"""

from __future__ import annotations

from federation.ids import RoomId
from homeserver.http.errors import invalid_param
from homeserver.http.request import Request
from homeserver.http.route import Auth, Route
from homeserver.rooms.reads.state_reads import StateReads

_ALL = "client-server-api#get_matrixclientv3roomsroomidstate"
_ONE = "client-server-api#get_matrixclientv3roomsroomidstateeventtypestatekey"
_STATE = "/_matrix/client/v3/rooms/{room_id:room_id}/state"


class StateApi:
    """``GET /state``; setting it is in ``send.py``."""

    def __init__(self, state: StateReads) -> None:
        self._state = state

    def routes(self) -> list[Route]:
        routes = [
            Route(
                method="GET",
                template=_STATE,
                handler=self.all,
                auth=Auth.GUEST_OK,
                limit="read",
                spec=_ALL,
            )
        ]
        # The trailing slash is optional where the state key is empty.
        for template in (_STATE + "/{event_type}", _STATE + "/{event_type}/{state_key:text}"):
            routes.append(
                Route(
                    method="GET",
                    template=template,
                    handler=self.one,
                    auth=Auth.GUEST_OK,
                    limit="read",
                    spec=_ONE,
                )
            )
        return routes

    async def all(self, request: Request, room_id: RoomId) -> bytes:
        return await self._state.all(request.requester, room_id)

    async def one(self, request: Request, room_id: RoomId, event_type: str, state_key: str = "") -> bytes:
        form = request.arg("format", "content")
        if form not in ("content", "event"):
            raise invalid_param("format must be content or event")
        return await self._state.one(
            request.requester, room_id, event_type, state_key, whole_event=form == "event"
        )
