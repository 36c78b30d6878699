"""Rooms that one shares with somebody. spec: client-server-api#get_matrixclientv1mutual_rooms"""

from __future__ import annotations

from typing import Any

from federation.ids import parse_user_id
from homeserver.http.errors import invalid_param
from homeserver.http.request import Request
from homeserver.http.route import Route
from homeserver.rooms.reads.mutual import MutualPage, MutualRooms

_SPEC = "client-server-api#get_matrixclientv1mutual_rooms"


class MutualRoomsApi:
    """The endpoint, and what clients of before v1.19 ask instead."""

    def __init__(self, mutual: MutualRooms) -> None:
        self._mutual = mutual

    def routes(self) -> list[Route]:
        return [
            Route(
                method="GET",
                template="/_matrix/client/v1/mutual_rooms",
                handler=self.stable,
                limit="search",
                spec=_SPEC,
            ),
            Route(
                method="GET",
                # COMPAT(clients of before v1.19, 2026)
                template="/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms",
                handler=self.unstable,
                limit="search",
                spec=_SPEC,
            ),
        ]

    async def stable(self, request: Request) -> dict[str, Any]:
        page = await self._page(request, request.arg("from") or None)
        answer: dict[str, Any] = {"joined": page.room_ids, "count": page.count}
        return answer if page.next_token is None else {**answer, "next_batch": page.next_token}

    async def unstable(self, request: Request) -> dict[str, Any]:
        page = await self._page(request, request.arg("from") or request.arg("batch_token") or None)
        answer: dict[str, Any] = {"joined": page.room_ids, "count": page.count}
        if page.next_token is None:
            return answer
        return {**answer, "next_batch": page.next_token, "next_batch_token": page.next_token}

    async def _page(self, request: Request, token: str | None) -> MutualPage:
        named = request.query.get("user_id", [])
        if len(named) != 1:
            raise invalid_param("Name one user with user_id")
        return await self._mutual.page(request.requester, parse_user_id(named[0]), token)
