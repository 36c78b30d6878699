"""History for other servers.

# spec: server-server-api#backfilling-and-retrieving-missing-events
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from federation.ids import RoomId, parse_event_id
from homeserver.http.errors import missing_param
from homeserver.http.request import Request
from homeserver.http.route import Auth, Route
from homeserver.rooms.federated.peer_history import BACKFILL_MOST, MISSING_MOST, MissingAsked, PeerHistory

# LIMIT(no server has so many ends of one room; each of them is a look-up)
_IDS_MOST = 1_000
_Ids = Annotated[list[str], msgspec.Meta(max_length=_IDS_MOST)]


class _Missing(msgspec.Struct):
    latest_events: _Ids
    earliest_events: _Ids
    limit: int = 10
    min_depth: int = 0


class BackfillApi:
    """``/backfill`` and ``/get_missing_events``."""

    def __init__(self, history: PeerHistory) -> None:
        self._history = history

    def routes(self) -> list[Route]:
        return [
            Route(
                method="GET",
                template="/_matrix/federation/v1/backfill/{room_id:room_id}",
                handler=self.backfill,
                auth=Auth.FEDERATION,
                serve="federation",
                spec="server-server-api#get_matrixfederationv1backfillroomid",
            ),
            Route(
                method="POST",
                template="/_matrix/federation/v1/get_missing_events/{room_id:room_id}",
                handler=self.missing,
                auth=Auth.FEDERATION,
                serve="federation",
                spec="server-server-api#post_matrixfederationv1get_missing_eventsroomid",
            ),
        ]

    async def backfill(self, request: Request, room_id: RoomId) -> bytes:
        request.required_arg("limit")
        limit = request.int_arg("limit", 0, 1, BACKFILL_MOST, clamp=True)
        starts = [parse_event_id(one) for one in request.query.get("v", [])]
        if not starts:
            raise missing_param("Missing query parameter v")
        return await self._history.backfill(request.requester.origin, room_id, starts, limit)

    async def missing(self, request: Request, room_id: RoomId) -> bytes:
        asked = request.json(_Missing)
        limit = max(0, min(asked.limit, MISSING_MOST))
        return await self._history.missing(
            request.requester.origin,
            room_id,
            MissingAsked(asked.latest_events, asked.earliest_events, limit, asked.min_depth),
        )
