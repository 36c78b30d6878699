"""Leaving rooms of ours: how users of other servers reject invites and take knocks back.

spec: server-server-api#leaving-rooms-rejecting-invites
"""

from __future__ import annotations

from typing import Any

from federation.ids import EventId, RoomId, UserId
from homeserver.api.federation.joins import federation_route
from homeserver.http.request import Request
from homeserver.http.response import EMPTY_JSON
from homeserver.http.route import Route
from homeserver.rooms.federated.admission import Admission

_MAKE = "/_matrix/federation/v1/make_leave/{room_id:room_id}/{user_id:member_id}"
_SEND = "/_matrix/federation/v2/send_leave/{room_id:room_id}/{event_id:event_id}"


class LeavesApi:
    """``make_leave`` and ``send_leave``."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def routes(self) -> list[Route]:
        return [
            federation_route("GET", _MAKE, self.make, "get_matrixfederationv1make_leaveroomiduserid"),
            federation_route("PUT", _SEND, self.send, "put_matrixfederationv2send_leaveroomideventid"),
        ]

    async def make(self, request: Request, room_id: RoomId, user_id: UserId) -> dict[str, Any]:
        return await self._admission.make(request.requester.origin, "leave", room_id, user_id)

    async def send(self, request: Request, room_id: RoomId, event_id: EventId) -> bytes:
        await self._admission.send(request.requester.origin, "leave", room_id, event_id, request.json())
        return EMPTY_JSON
