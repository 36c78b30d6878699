"""Typing notifications. spec: client-server-api#typing-notifications"""

from __future__ import annotations

import msgspec

from federation.ids import RoomId, UserId
from homeserver.ephemeral.typing import DEFAULT_TIMEOUT_MS, Typing
from homeserver.http.errors import forbidden, invalid_param
from homeserver.http.request import Request
from homeserver.http.response import EMPTY_JSON
from homeserver.http.route import Route
from homeserver.store.ids import Interner
from homeserver.store.placement import Membership
from homeserver.stream.index import MembershipIndex


class TypingBody(msgspec.Struct):
    typing: bool
    timeout: int | None = None


class TypingApi:
    def __init__(self, typing: Typing, interner: Interner, index: MembershipIndex) -> None:
        self._typing = typing
        self._interner = interner
        self._index = index

    def routes(self) -> list[Route]:
        return [
            Route(
                method="PUT",
                template="/_matrix/client/v3/rooms/{room_id:room_id}/typing/{user_id:user_id}",
                handler=self.put,
                limit="write",
                max_body=16_384,
                spec="client-server-api#put_matrixclientv3roomsroomidtypinguserid",
            )
        ]

    async def put(self, request: Request, room_id: RoomId, user_id: UserId) -> bytes:
        requester = request.requester
        if user_id != requester.user_id:
            raise forbidden("You can only say of yourself that you are typing")
        body = request.json(TypingBody)
        if body.timeout is not None and body.timeout < 0:
            raise invalid_param("timeout must not be negative")
        room_nid = await self._interner.find_room(room_id)
        standing = self._index.standing(requester.user_nid, room_nid) if room_nid is not None else None
        if room_nid is None or standing is None or standing.membership != Membership.JOIN:
            raise forbidden("You are not in this room")
        if body.typing:
            timeout_ms = DEFAULT_TIMEOUT_MS if body.timeout is None else body.timeout
            self._typing.start(room_nid, user_id, timeout_ms)
        else:
            self._typing.stop(room_nid, user_id)
        return EMPTY_JSON
