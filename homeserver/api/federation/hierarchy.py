"""Rooms and their children for other servers. spec: server-server-api#spaces"""

from __future__ import annotations

from typing import Any

from federation.ids import RoomId
from homeserver.http.request import Request
from homeserver.http.route import Auth, Route
from homeserver.rooms.reads.summaries import Summaries


class FederatedHierarchyApi:
    def __init__(self, summaries: Summaries) -> None:
        self._summaries = summaries

    def routes(self) -> list[Route]:
        return [
            Route(
                method="GET",
                template="/_matrix/federation/v1/hierarchy/{room_id:room_id}",
                handler=self.hierarchy,
                auth=Auth.FEDERATION,
                serve="federation",
                spec="server-server-api#get_matrixfederationv1hierarchyroomid",
            )
        ]

    async def hierarchy(self, request: Request, room_id: RoomId) -> dict[str, Any]:
        suggested_only = request.bool_arg("suggested_only")
        return await self._summaries.tell(request.requester.origin, room_id, suggested_only=suggested_only)
