"""What relates to an event, and the threads of a room.

# spec: client-server-api#get_matrixclientv1roomsroomidrelationseventid
# spec: client-server-api#get_matrixclientv1roomsroomidthreads
"""

from __future__ import annotations

from federation.ids import EventId, RoomId
from homeserver.http.errors import invalid_param
from homeserver.http.request import Request
from homeserver.http.route import Route
from homeserver.rooms.reads.relations import ChildrenAsked, Relationships, ThreadsAsked
from homeserver.store.relations import Kind

_LIMIT, _LIMIT_MOST = 20, 200
_ROOM = "/_matrix/client/v1/rooms/{room_id:room_id}"
_CHILDREN = _ROOM + "/relations/{event_id:event_id}"
_SPEC = "client-server-api#get_matrixclientv1roomsroomid"


class RelationsApi:
    """``/relations`` and ``/threads``."""

    def __init__(self, relationships: Relationships) -> None:
        self._relationships = relationships

    def routes(self) -> list[Route]:
        by_kind, by_type = _CHILDREN + "/{rel_type:text}", _CHILDREN + "/{rel_type:text}/{event_type:text}"
        routes = (
            (_CHILDREN, self.children, "relationseventid"),
            (by_kind, self.children_of_kind, "relationseventidreltype"),
            (by_type, self.children_of_type, "relationseventidreltypeeventtype"),
            (_ROOM + "/threads", self.threads, "threads"),
        )
        return [
            Route(method="GET", template=template, handler=handler, limit="read", spec=_SPEC + spec)
            for template, handler, spec in routes
        ]

    async def children(self, request: Request, room_id: RoomId, event_id: EventId) -> bytes:
        return await self._children(request, room_id, event_id, Kind())

    async def children_of_kind(
        self, request: Request, room_id: RoomId, event_id: EventId, rel_type: str
    ) -> bytes:
        return await self._children(request, room_id, event_id, Kind(rel_type))

    async def children_of_type(
        self, request: Request, room_id: RoomId, event_id: EventId, rel_type: str, event_type: str
    ) -> bytes:
        return await self._children(request, room_id, event_id, Kind(rel_type, event_type))

    async def _children(self, request: Request, room_id: RoomId, event_id: EventId, kind: Kind) -> bytes:
        asked = ChildrenAsked(
            event_id,
            kind,
            _is_backwards(request),
            request.int_arg("limit", _LIMIT, minimum=1, maximum=_LIMIT_MOST, clamp=True),
            request.arg("from") or None,
            request.arg("to") or None,
            request.bool_arg("recurse") if request.arg("recurse") is not None else None,
        )
        return await self._relationships.children(request.requester, room_id, asked)

    async def threads(self, request: Request, room_id: RoomId) -> bytes:
        include = request.arg("include", "all")
        if include not in ("all", "participated"):
            raise invalid_param("include must be all or participated")
        asked = ThreadsAsked(
            include == "participated",
            request.int_arg("limit", _LIMIT, minimum=1, maximum=_LIMIT_MOST, clamp=True),
            request.arg("from") or None,
        )
        return await self._relationships.threads(request.requester, room_id, asked)


def _is_backwards(request: Request) -> bool:
    direction = request.arg("dir", "b")
    if direction not in ("b", "f"):
        raise invalid_param("dir must be b or f")
    return direction == "b"
