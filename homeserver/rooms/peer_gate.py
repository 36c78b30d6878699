"""Which servers may look into which room: those that take part in it and that its access control lists let in.

A room that we do not know and a room that the asking server is not in are one answer: nobody learns from us what
rooms there are.

# spec: server-server-api#server-access-control-lists-acls
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from federation.acl import ServerAcl
from federation.ids import ServerName
from homeserver.db.tx import Tx
from homeserver.http.errors import MatrixError, forbidden
from homeserver.store.cache import ByteLru
from homeserver.store.events import load_json
from homeserver.store.peer_reads import RoomRow, find_shared_room, is_resident

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


class PeerGate:
    """Decides within one unit of work. What an access control list says never changes, so it is compiled once."""

    def __init__(self) -> None:
        self._acls: ByteLru[int, ServerAcl] = ByteLru(_CACHE_BYTES, _size)

    def visit(self, tx: Tx, server: ServerName, room_id: str) -> Visit:
        """Let a server in, whether or not it takes part; 403 M_FORBIDDEN where it is kept out."""
        room = find_shared_room(tx, room_id)
        if room is None:
            raise not_in_room()
        if room.acl_nid and not self._acl(tx, room.acl_nid).allows(server):
            raise forbidden("Server is banned from room")
        return Visit(server, room, is_resident(tx, room.nid, server))

    def enter(self, tx: Tx, server: ServerName, room_id: str) -> Visit:
        """Let a server in that takes part; 403 M_FORBIDDEN for all others."""
        visit = self.visit(tx, server, room_id)
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


def _size(acl: ServerAcl) -> int:
    names = len(acl.allow.exact) + len(acl.allow.suffixes) + len(acl.deny.exact) + len(acl.deny.suffixes)
    return 1_000 + 300 * names
