"""Knocks on rooms of ours by users of other servers. spec: server-server-api#knocking-rooms"""

from __future__ import annotations

from typing import Any

from federation.ids import EventId, RoomId, UserId
from homeserver.api.federation.joins import federation_route, versions_of
from homeserver.http.request import Request
from homeserver.http.route import Route
from homeserver.rooms.federated.admission import Admission

_MAKE = "/_matrix/federation/v1/make_knock/{room_id:room_id}/{user_id:member_id}"
_SEND = "/_matrix/federation/v1/send_knock/{room_id:room_id}/{event_id:event_id}"


class KnocksApi:
    """``make_knock`` and ``send_knock``."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def routes(self) -> list[Route]:
        return [
            federation_route("GET", _MAKE, self.make, "get_matrixfederationv1make_knockroomiduserid"),
            federation_route("PUT", _SEND, self.send, "put_matrixfederationv1send_knockroomideventid"),
        ]

    async def make(self, request: Request, room_id: RoomId, user_id: UserId) -> dict[str, Any]:
        return await self._admission.make(
            request.requester.origin, "knock", room_id, user_id, versions_of(request)
        )

    async def send(self, request: Request, room_id: RoomId, event_id: EventId) -> bytes:
        await self._admission.send(request.requester.origin, "knock", room_id, event_id, request.json())
        state = await self._admission.stripped(room_id)
        return b'{"knock_room_state":[%b]}' % b",".join(state)
