"""The state of rooms, and what authorises events, for other servers.

# spec: server-server-api#retrieving-events
# spec: server-server-api#retrieving-event-authorisation-information
"""

from __future__ import annotations

from federation.ids import EventId, RoomId, parse_event_id
from homeserver.http.request import Request
from homeserver.http.response import Response
from homeserver.http.route import Auth, Route
from homeserver.rooms.federated.peer_state import PeerState


class PeerStateApi:
    """``/state``, ``/state_ids`` and ``/event_auth``."""

    def __init__(self, state: PeerState) -> None:
        self._state = state

    def routes(self) -> list[Route]:
        return [
            Route(
                method="GET",
                template="/_matrix/federation/v1/state/{room_id:room_id}",
                handler=self.state,
                auth=Auth.FEDERATION,
                serve="federation",
                spec="server-server-api#get_matrixfederationv1stateroomid",
            ),
            Route(
                method="GET",
                template="/_matrix/federation/v1/state_ids/{room_id:room_id}",
                handler=self.state_ids,
                auth=Auth.FEDERATION,
                serve="federation",
                spec="server-server-api#get_matrixfederationv1state_idsroomid",
            ),
            Route(
                method="GET",
                template="/_matrix/federation/v1/event_auth/{room_id:room_id}/{event_id:event_id}",
                handler=self.event_auth,
                auth=Auth.FEDERATION,
                serve="federation",
                spec="server-server-api#get_matrixfederationv1event_authroomideventid",
            ),
        ]

    async def state(self, request: Request, room_id: RoomId) -> Response:
        event_id = parse_event_id(request.required_arg("event_id"))
        return Response(body=await self._state.state(request.requester.origin, room_id, event_id))

    async def state_ids(self, request: Request, room_id: RoomId) -> Response:
        event_id = parse_event_id(request.required_arg("event_id"))
        return Response(body=await self._state.state_ids(request.requester.origin, room_id, event_id))

    async def event_auth(self, request: Request, room_id: RoomId, event_id: EventId) -> Response:
        return Response(body=await self._state.auth_chain(request.requester.origin, room_id, event_id))
