"""Rooms as those in charge read them: all of each, whoever may see what."""

from __future__ import annotations

from typing import Any

import msgspec

from federation.ids import EventId, RoomId
from homeserver.api.client.event_filter import event_filter, page_limit
from homeserver.composition.services import RoomOversight
from homeserver.http.request import Request
from homeserver.http.route import Route
from homeserver.rooms.reads.pagination import PageAsked
from synapse_compat.gate import admin_route, is_backwards

_ROOM = "/v1/rooms/{room_id:room_id}"
_CONTEXT_MOST = 200
_PAGE_MOST = 1_000


class _StateEvent(msgspec.Struct):
    type: str


class RoomReadsApi:
    """Context of an event, pages of history, state, and the event nearest to a moment."""

    def __init__(self, oversight: RoomOversight) -> None:
        self._pagination = oversight.pagination
        self._state = oversight.state
        self._timestamps = oversight.timestamps

    def routes(self) -> list[Route]:
        return [
            admin_route("GET", _ROOM + "/context/{event_id:event_id}", self.context, "rooms"),
            admin_route("GET", _ROOM + "/messages", self.messages, "rooms"),
            admin_route("GET", _ROOM + "/state", self.state, "rooms"),
            admin_route("GET", _ROOM + "/timestamp_to_event", self.timestamp, "rooms"),
        ]

    async def context(self, request: Request, room_id: RoomId, event_id: EventId) -> bytes:
        """What happened just before and after an event."""
        wanted = event_filter(request)
        limit = page_limit(request, wanted, _CONTEXT_MOST)
        return await self._pagination.context(request.requester, room_id, event_id, limit, wanted)

    async def messages(self, request: Request, room_id: RoomId) -> bytes:
        """A page of history; without ``from`` it begins where history does, or ends."""
        wanted = event_filter(request)
        asked = PageAsked(
            is_backwards(request, default=False),
            page_limit(request, wanted, _PAGE_MOST),
            request.arg("from") or None,
            request.arg("to") or None,
            wanted,
        )
        return await self._pagination.page(request.requester, room_id, asked)

    async def state(self, request: Request, room_id: RoomId) -> bytes:
        """The state events: all, or those of one type."""
        event_type = request.arg("type")
        events = await self._state.all(request.requester, room_id)
        if event_type is not None:
            events = _of_type(events, event_type)
        return b'{"state":%b}' % events

    async def timestamp(self, request: Request, room_id: RoomId) -> dict[str, Any]:
        """The event nearest to a moment."""
        request.required_arg("ts")
        backwards = is_backwards(request, default=False)
        event_id, ts_ms = await self._timestamps.nearest(
            request.requester, room_id, request.int_arg("ts", 0), backwards=backwards
        )
        return {"event_id": event_id, "origin_server_ts": ts_ms}


def _of_type(events: bytes, event_type: str) -> bytes:
    texts = msgspec.json.decode(events, type=list[msgspec.Raw])
    wanted = [text for text in texts if msgspec.json.decode(text, type=_StateEvent).type == event_type]
    return msgspec.json.encode(wanted)
