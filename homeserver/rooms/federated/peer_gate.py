"""Which servers may look into which room: those that take part in it and that its access control lists let in.

A room that we do not know and a room that the asking server is not in are one answer: nobody learns from us what
rooms there are.

# spec: server-server-api#server-access-control-lists-acls
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import msgspec

from federation.acl import ServerAcl
from federation.ids import ServerName
from homeserver.db.tx import Tx
from homeserver.http.errors import MatrixError, forbidden
from homeserver.store.cache import ByteLru
from homeserver.store.events import load_json
from homeserver.store.ids import Interner
from homeserver.store.peer_reads import RoomRow, find_shared_room

_CACHE_BYTES = 4 * 1024 * 1024


class _AclEvent(msgspec.Struct):
    content: dict[str, object]


_decode = msgspec.json.Decoder(_AclEvent).decode


@dataclass(frozen=True, slots=True)
class Visit:
    """A server in a room."""

    server: ServerName
    room: RoomRow
    resident: bool  # one of its users is in the room now


class Residents(Protocol):
    """Which servers are in which rooms (``homeserver.stream.servers.ServerIndex`` knows)."""

    async def shares(self, server: str, room_nid: int) -> bool:
        """Whether a server is in a room."""


class PeerGate:
    """Decides within the unit of work that answers. What an access control list says never changes: it is compiled once."""

    def __init__(self, interner: Interner, residents: Residents) -> None:
        self._interner = interner
        self._residents = residents
        self._acls: ByteLru[int, ServerAcl] = ByteLru(_CACHE_BYTES, lambda acl: acl.size)

    async def is_resident(self, server: ServerName, room_id: str) -> bool:
        """Whether one of the server's users is in the room now: to be asked before the unit of work."""
        interner = self._interner
        room_nid = interner.known_room(room_id) or await interner.find_room(room_id)
        return room_nid is not None and await self._residents.shares(server, room_nid)

    def visit(self, tx: Tx, server: ServerName, room_id: str, *, is_resident: bool) -> Visit:
        """Let a server in, whether or not it takes part; 403 M_FORBIDDEN where it is kept out."""
        room = find_shared_room(tx, room_id)
        if room is None:
            raise not_in_room()
        if room.acl_nid and not self._acl(tx, room.acl_nid).allows(server):
            raise forbidden("Server is banned from room")
        return Visit(server, room, is_resident)

    def enter(self, tx: Tx, server: ServerName, room_id: str, *, is_resident: bool) -> Visit:
        """Let a server in that takes part; 403 M_FORBIDDEN for all others."""
        visit = self.visit(tx, server, room_id, is_resident=is_resident)
        if not visit.resident:
            raise not_in_room()
        return visit

    def _acl(self, tx: Tx, nid: int) -> ServerAcl:
        acl = self._acls.get(nid)
        if acl is None:
            acl = ServerAcl.parse(_decode(load_json(tx, [nid])[0].json).content)
            self._acls.put(nid, acl)
        return acl


def not_in_room() -> MatrixError:
    """The server is not in the room, or there is no such room."""
    return forbidden("Host not in room.")
