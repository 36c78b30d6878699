"""Following rooms as before ``/sync``. spec: client-server-api#get_matrixclientv3events"""

from __future__ import annotations

from federation.ids import EventId, parse_room_id
from homeserver.http.request import Request
from homeserver.http.response import Response
from homeserver.http.route import Auth, Route
from homeserver.rooms.reads.old_sync import OldSync
from homeserver.stream.tokens import parse_timeline_token

TIMEOUT_MOST_MS = 600_000
_LIMIT_MOST = 100
_V3 = "/_matrix/client/v3"


class OldSyncApi:
    def __init__(self, old_sync: OldSync) -> None:
        self._old_sync = old_sync

    def routes(self) -> list[Route]:
        return [
            Route(
                method="GET",
                template=f"{_V3}/events",
                handler=self.events,
                auth=Auth.GUEST_OK,
                limit="read",
                cancel_on_disconnect=True,
                spec="client-server-api#get_matrixclientv3events",
            ),
            Route(
                method="GET",
                template=f"{_V3}/events/{{event_id:event_id}}",
                handler=self.event,
                auth=Auth.USER,
                limit="read",
                spec="client-server-api#get_matrixclientv3eventseventid",
            ),
            Route(
                method="GET",
                template=f"{_V3}/initialSync",
                handler=self.initial_sync,
                auth=Auth.USER,
                limit="search",
                spec="client-server-api#get_matrixclientv3initialsync",
            ),
        ]

    async def events(self, request: Request) -> bytes:
        start, room = request.arg("from"), request.arg("room_id")
        timeout_ms = request.int_arg("timeout", 0, maximum=TIMEOUT_MOST_MS, clamp=True)
        return await self._old_sync.events(
            request.requester,
            None if room is None else parse_room_id(room),
            None if start is None else parse_timeline_token(start),
            timeout_ms / 1000,
        )

    async def event(self, request: Request, event_id: EventId) -> bytes:
        return await self._old_sync.event(request.requester, event_id)

    async def initial_sync(self, request: Request) -> Response:
        limit = request.int_arg("limit", 10, maximum=_LIMIT_MOST, clamp=True)
        archived = request.bool_arg("archived")
        return Response(200, self._old_sync.initial(request.requester, limit, archived=archived))
