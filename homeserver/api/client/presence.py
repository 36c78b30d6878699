"""Presence. spec: client-server-api#presence"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from federation.ids import UserId
from homeserver.db.threads import Database
from homeserver.ephemeral.presence import Presence
from homeserver.http.errors import forbidden, invalid_param, not_found
from homeserver.http.request import Request
from homeserver.http.response import EMPTY_JSON
from homeserver.http.route import Route
from homeserver.store.ids import Interner
from homeserver.store.members import load_joined_rooms
from homeserver.stream.index import MembershipIndex

MAX_STATUS_LENGTH = 1_000
_STATUS = "/_matrix/client/v3/presence/{user_id:user_id}/status"


class StatusBody(msgspec.Struct):
    presence: Literal["online", "offline", "unavailable", "org.matrix.msc3026.busy"]
    status_msg: str | None = None


class PresenceApi:
    """``presence`` None: it is switched off; then what is set is taken and forgotten, and nobody's is shown."""

    def __init__(
        self, presence: Presence | None, database: Database, interner: Interner, index: MembershipIndex
    ) -> None:
        self._presence = presence
        self._database = database
        self._interner = interner
        self._index = index

    def routes(self) -> list[Route]:
        return [
            Route(
                method="PUT",
                template=_STATUS,
                handler=self.put,
                limit="write",
                max_body=65_536,
                spec="client-server-api#put_matrixclientv3presenceuseridstatus",
            ),
            Route(
                method="GET",
                template=_STATUS,
                handler=self.get,
                limit="read",
                spec="client-server-api#get_matrixclientv3presenceuseridstatus",
            ),
        ]

    async def put(self, request: Request, user_id: UserId) -> bytes:
        requester = request.requester
        if user_id != requester.user_id:
            raise forbidden("You can only set your own presence")
        body = request.json(StatusBody)
        if body.status_msg is not None and len(body.status_msg) > MAX_STATUS_LENGTH:
            raise invalid_param(f"status_msg is longer than {MAX_STATUS_LENGTH} characters")
        if self._presence is not None:
            self._presence.put(requester.user_nid, user_id, body.presence, body.status_msg)
        return EMPTY_JSON

    async def get(self, request: Request, user_id: UserId) -> dict[str, Any]:
        user_nid = await self._interner.find_user(user_id)
        # Who shares no room learns nothing, not even whether there is such a user.
        if user_nid is None or not await self._share(request.requester.user_nid, user_nid):
            raise forbidden("You are not allowed to see their presence")
        if self._presence is None:
            raise not_found("This server shows nobody's presence")
        return self._presence.describe(user_nid)

    async def _share(self, one_nid: int, other_nid: int) -> bool:
        """Whether a local user and anybody else are in a room together."""
        if self._index.is_local(other_nid):
            return self._index.shares_room(one_nid, other_nid)
        rooms = (await self._database.read(load_joined_rooms, [other_nid])).get(other_nid, ())
        return not set(rooms).isdisjoint(self._index.joined_rooms(one_nid))
