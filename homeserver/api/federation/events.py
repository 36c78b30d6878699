"""Single events for other servers.

# spec: server-server-api#retrieving-events
"""

from __future__ import annotations

from typing import Any

from federation.ids import EventId, RoomId
from homeserver.http.errors import invalid_param
from homeserver.http.request import Request
from homeserver.http.route import Auth, Route
from homeserver.rooms.federated.peer_history import PeerHistory


class PeerEventsApi:
    """``/event`` and ``/timestamp_to_event``."""

    def __init__(self, history: PeerHistory) -> None:
        self._history = history

    def routes(self) -> list[Route]:
        return [
            Route(
                method="GET",
                template="/_matrix/federation/v1/event/{event_id:event_id}",
                handler=self.event,
                auth=Auth.FEDERATION,
                serve="federation",
                spec="server-server-api#get_matrixfederationv1eventeventid",
            ),
            Route(
                method="GET",
                template="/_matrix/federation/v1/timestamp_to_event/{room_id:room_id}",
                handler=self.nearest,
                auth=Auth.FEDERATION,
                serve="federation",
                spec="server-server-api#get_matrixfederationv1timestamp_to_eventroomid",
            ),
        ]

    async def event(self, request: Request, event_id: EventId) -> bytes:
        return await self._history.event(request.requester.origin, event_id)

    async def nearest(self, request: Request, room_id: RoomId) -> Any:
        request.required_arg("ts")
        ts_ms = request.int_arg("ts", 0)
        direction = request.required_arg("dir")
        if direction not in ("b", "f"):
            raise invalid_param("dir must be b or f")
        event_id, found_ts_ms = await self._history.nearest(
            request.requester.origin, room_id, ts_ms, backwards=direction == "b"
        )
        return {"event_id": event_id, "origin_server_ts": found_ts_ms}
