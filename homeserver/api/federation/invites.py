"""Invites of users of ours by other servers. spec: server-server-api#inviting-to-a-room"""

from __future__ import annotations

from typing import Any

import msgspec

from federation.event import Event, stored_bytes
from federation.ids import EventId, RoomId
from homeserver.api.federation.joins import federation_route
from homeserver.http.request import Request
from homeserver.http.route import Route
from homeserver.rooms.federated.outsiders import Outsiders

_V1 = "/_matrix/federation/v1/invite/{room_id:room_id}/{event_id:event_id}"
_V2 = "/_matrix/federation/v2/invite/{room_id:room_id}/{event_id:event_id}"
# A version 1 room is what the first version of the endpoint speaks of, and version 2 has the same events.
_FIRST_VERSION = "1"


class _Invite(msgspec.Struct):
    room_version: str
    event: dict[str, Any]
    invite_room_state: Any = None


class InvitesApi:
    """Both versions of ``invite``."""

    def __init__(self, outsiders: Outsiders) -> None:
        self._outsiders = outsiders

    def routes(self) -> list[Route]:
        return [
            federation_route("PUT", _V2, self.invite, "put_matrixfederationv2inviteroomideventid"),
            federation_route("PUT", _V1, self.invite_v1, "put_matrixfederationv1inviteroomideventid"),
        ]

    async def invite(self, request: Request, room_id: RoomId, event_id: EventId) -> bytes:
        body = request.json(_Invite)
        event = await self._outsiders.invited(
            request.requester.origin, room_id, event_id, body.room_version, body.event, body.invite_room_state
        )
        return _event(event)

    async def invite_v1(self, request: Request, room_id: RoomId, event_id: EventId) -> bytes:
        pdu = request.json()
        unsigned = pdu.get("unsigned")
        state = unsigned.get("invite_room_state") if isinstance(unsigned, dict) else None
        event = await self._outsiders.invited(
            request.requester.origin, room_id, event_id, _FIRST_VERSION, pdu, state
        )
        return b"[200,%b]" % _event(event)


def _event(event: Event) -> bytes:
    return b'{"event":%b}' % stored_bytes(event)
