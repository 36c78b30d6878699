"""Jumping to a date.

# spec: client-server-api#get_matrixclientv1roomsroomidtimestamp_to_event
"""

from __future__ import annotations

from typing import Any

from federation.ids import RoomId
from homeserver.api.client.messages import backwards_arg
from homeserver.http.request import Request
from homeserver.http.route import Route
from homeserver.rooms.reads.timestamps import Timestamps


class TimestampApi:
    """``/timestamp_to_event``."""

    def __init__(self, timestamps: Timestamps) -> None:
        self._timestamps = timestamps

    def routes(self) -> list[Route]:
        return [
            Route(
                method="GET",
                template="/_matrix/client/v1/rooms/{room_id:room_id}/timestamp_to_event",
                handler=self.nearest,
                limit="read",
                spec="client-server-api#get_matrixclientv1roomsroomidtimestamp_to_event",
            )
        ]

    async def nearest(self, request: Request, room_id: RoomId) -> Any:
        request.required_arg("ts")
        ts_ms = request.int_arg("ts", 0)
        event_id, found_ts_ms = await self._timestamps.nearest(
            request.requester, room_id, ts_ms, backwards=backwards_arg(request)
        )
        return {"event_id": event_id, "origin_server_ts": found_ts_ms}
