"""Whether a room's access control list lets a server in, for what comes in transactions.

# spec: server-server-api#server-access-control-lists-acls
"""

from __future__ import annotations

from federation.acl import ServerAcl
from federation.event import Event
from federation.ids import EventId, ServerName
from homeserver.rooms.registry import RoomRegistry
from homeserver.store.cache import ByteLru

ACL = ("m.room.server_acl", "")
_CACHE_BYTES = 4 * 1024 * 1024


class ServerAcls:
    """Asks the room's current state; what a list says never changes, so it is compiled once."""

    def __init__(self, rooms: RoomRegistry) -> None:
        self._rooms = rooms
        self._compiled: ByteLru[EventId, ServerAcl] = ByteLru(_CACHE_BYTES, lambda acl: acl.size)

    async def allows(self, room_id: str, server_name: ServerName) -> bool:
        """Whether the server may take part. Raises 404 M_NOT_FOUND for an unknown room."""
        actor = await self._rooms.find(room_id)
        known, event = actor.glance(ACL)
        if not known:
            event = await actor.run(lambda turn: turn.state(*ACL))
        return event is None or self.of_event(event).allows(server_name)

    def of_event(self, event: Event) -> ServerAcl:
        """What an event says."""
        found = self._compiled.get(event.event_id)
        if found is None:
            found = ServerAcl.parse(event.content)
            self._compiled.put(event.event_id, found)
        return found
