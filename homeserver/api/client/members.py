"""Who is, was or may be in a room.

# spec: client-server-api#get_matrixclientv3roomsroomidmembers
"""

from __future__ import annotations

from typing import Any

from federation.ids import RoomId
from homeserver.appservices.registry import Registry
from homeserver.http.errors import invalid_param
from homeserver.http.request import Request
from homeserver.http.route import Auth, Route
from homeserver.rooms.reads.state_reads import StateReads
from homeserver.store.placement import MEMBERSHIPS, Membership

_ROOM = "/_matrix/client/v3/rooms/{room_id:room_id}"


class MembersApi:
    """``/members`` and ``/joined_members``."""

    def __init__(self, state: StateReads, appservices: Registry) -> None:
        self._state = state
        self._appservices = appservices

    def routes(self) -> list[Route]:
        return [
            Route(
                method="GET",
                template=_ROOM + "/members",
                handler=self.members,
                auth=Auth.GUEST_OK,
                limit="read",
                spec="client-server-api#get_matrixclientv3roomsroomidmembers",
            ),
            Route(
                method="GET",
                template=_ROOM + "/joined_members",
                handler=self.joined_members,
                limit="read",
                spec="client-server-api#get_matrixclientv3roomsroomidjoined_members",
            ),
        ]

    async def members(self, request: Request, room_id: RoomId) -> bytes:
        return await self._state.members(
            request.requester,
            room_id,
            request.arg("at") or None,
            _membership(request, "membership"),
            _membership(request, "not_membership"),
        )

    async def joined_members(self, request: Request, room_id: RoomId) -> Any:
        requester = request.requester
        service = self._appservices.by_id(requester.appservice_id)
        is_own = None if service is None else service.owns_user
        return {"joined": await self._state.joined_members(requester, room_id, is_own)}


def _membership(request: Request, name: str) -> Membership | None:
    word = request.arg(name)
    if word is None:
        return None
    if word not in MEMBERSHIPS:
        raise invalid_param(f"{name} must be a membership")
    return MEMBERSHIPS[word]
