"""Joins of rooms of ours by users of other servers. spec: server-server-api#joining-rooms"""

from __future__ import annotations

from typing import Any

from federation.ids import EventId, RoomId, UserId
from homeserver.http.request import Request
from homeserver.http.response import Response
from homeserver.http.route import Auth, Route
from homeserver.rooms.federated.admission import Admission
from homeserver.rooms.federated.join_answers import JoinAnswers

_MAKE = "/_matrix/federation/v1/make_join/{room_id:room_id}/{user_id:member_id}"
_SEND = "/_matrix/federation/v2/send_join/{room_id:room_id}/{event_id:event_id}"
# LIMIT(versions looked at; there are a dozen)
MAX_VERSIONS = 100


class JoinsApi:
    """``make_join`` and ``send_join``."""

    def __init__(self, admission: Admission, answers: JoinAnswers) -> None:
        self._admission = admission
        self._answers = answers

    def routes(self) -> list[Route]:
        return [
            federation_route("GET", _MAKE, self.make, "get_matrixfederationv1make_joinroomiduserid"),
            federation_route("PUT", _SEND, self.send, "put_matrixfederationv2send_joinroomideventid"),
        ]

    async def make(self, request: Request, room_id: RoomId, user_id: UserId) -> dict[str, Any]:
        return await self._admission.make(
            request.requester.origin, "join", room_id, user_id, versions_of(request)
        )

    async def send(self, request: Request, room_id: RoomId, event_id: EventId) -> Response:
        omit = request.bool_arg("omit_members")
        admitted = await self._admission.send(
            request.requester.origin, "join", room_id, event_id, request.json()
        )
        answer = await self._answers.load(admitted, omit_members=omit)
        return Response(200, self._answers.write(answer))


def versions_of(request: Request) -> list[str]:
    """The room versions that the other server supports."""
    return request.query.get("ver", ["1"])[:MAX_VERSIONS]


def federation_route(method: str, template: str, handler: Any, anchor: str) -> Route:
    """A route for servers, which sign their requests."""
    spec = f"server-server-api#{anchor}"
    return Route(
        method=method, template=template, handler=handler, auth=Auth.FEDERATION, spec=spec, serve="federation"
    )
