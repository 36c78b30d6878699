"""Which memberships need other servers, and which of them are asked: between ``membership.py`` and those who ask.

A room is *here* when somebody of this server is in it: then its actor decides, and other servers hear of it afterwards.

# spec: server-server-api#joining-rooms
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from federation.builder import Draft
from federation.ids import EventId, RoomId, ServerName, UserId, domain_of
from homeserver.rooms.actor import RoomActor
from homeserver.rooms.federated.exchange import Exchange
from homeserver.rooms.federated.guest_joins import GuestJoins
from homeserver.rooms.federated.handshakes import Handshakes
from homeserver.rooms.federated.outsiders import Outsiders
from homeserver.rooms.federated.partial import PartialRooms
from homeserver.rooms.federated.remote_invites import RemoteInvites
from homeserver.rooms.federated.remote_joins import RemoteJoins
from homeserver.rooms.registry import RoomRegistry
from homeserver.rooms.third_party import Proof
from homeserver.rooms.types import Requester
from homeserver.store.placement import Membership
from homeserver.store.servers import load_servers
from homeserver.stream.index import MembershipIndex

# LIMIT(servers of a room that was left, tried when somebody comes back)
_KNOWN_MOST = 10


class RemoteMemberships:
    """See the module."""

    def __init__(
        self,
        rooms: RoomRegistry,
        index: MembershipIndex,
        handshakes: Handshakes,
        joins: RemoteJoins,
        outsiders: Outsiders,
        invites: RemoteInvites,
        exchange: Exchange,
        partial: PartialRooms,
        guests: GuestJoins,
    ) -> None:
        self._tools = rooms.tools
        self._server_name = rooms.tools.signer.server_name
        self._index = index
        self._handshakes = handshakes
        self._joins = joins
        self._outsiders = outsiders
        self._invites = invites
        self._exchange = exchange
        self._partial = partial
        self._guests = guests

    async def is_here(self, room_id: RoomId) -> bool:
        """Whether this server is in the room."""
        nid = await self._tools.interner.find_room(room_id)
        return nid is not None and self.is_in(nid)

    def is_in(self, room_nid: int) -> bool:
        """The same, of a room by number. Of a leave that is on its way to the disk nobody else can tell: it does not count."""
        return bool(self._index.local_members(room_nid))

    async def has_joined(self, user_nid: int, room_id: RoomId) -> bool:
        """Whether a user of ours is in the room."""
        nid = await self._tools.interner.find_room(room_id)
        return nid is not None and self._index.is_joined(user_nid, nid)

    def is_local(self, user_id: UserId) -> bool:
        """Whether the user's home is here."""
        return domain_of(user_id) == self._server_name

    async def servers(
        self, user_nid: int, room_id: RoomId, via: Sequence[ServerName] = ()
    ) -> list[ServerName]:
        """The servers that may be in a room, in the order in which they are asked."""
        found = list(via)
        nid = await self._tools.interner.find_room(room_id)
        if nid is not None:
            found += await self._outsiders.servers(user_nid, nid)
            found += await self._tools.database.read(load_servers, nid, _KNOWN_MOST)
            found += [ServerName(name) for name in self._partial.servers(nid)][:_KNOWN_MOST]
        if ":" in room_id:
            found.append(domain_of(room_id))
        return self._handshakes.able(found)

    async def whole(self, room_id: RoomId) -> None:
        """Wait until all members of the room have come: who may do what to whom is not known before."""
        nid = await self._tools.interner.find_room(room_id)
        if nid is not None:
            await self._partial.whole(nid)

    # --- joining -------------------------------------------------------------------------------------

    async def under_way(self, room_id: RoomId) -> bool:
        """Whether somebody of ours was joining the room; they have or have not when the answer is there."""
        return await self._joins.under_way(room_id)

    async def join(
        self,
        requester: Requester,
        room_id: RoomId,
        content: Mapping[str, Any],
        via: Sequence[ServerName] = (),
        *,
        is_guest: bool = False,
    ) -> bool:
        """Join through another server; of a guest's join see ``guest_joins.py``.

        False where somebody else's join was under way and was waited for: how it ended is to be seen.
        """
        servers = await self.servers(requester.user_nid, room_id, via)
        if is_guest:
            await self._guests.check(requester.user_nid, room_id, servers)
        user_id = UserId(requester.user_id)
        async with self._outsiders.coming(room_id):
            if await self._joins.under_way(room_id):
                return False
            await self._joins.join(user_id, room_id, content, servers, is_guest=is_guest)
        return True

    async def knock(
        self,
        requester: Requester,
        room_id: RoomId,
        content: Mapping[str, Any],
        via: Sequence[ServerName] = (),
    ) -> EventId:
        """Knock through another server; the event id."""
        servers = await self.servers(requester.user_nid, room_id, via)
        user_id = UserId(requester.user_id)
        return await self._outsiders.knock(user_id, requester.user_nid, room_id, content, servers)

    async def accept_offer(self, requester: Requester, room_id: RoomId, proof: Proof) -> None:
        """Have a third-party invite turned into an invite, so that the user may join."""
        await self._exchange.accept(UserId(requester.user_id), room_id, proof)

    # --- leaving -------------------------------------------------------------------------------------

    async def leave(
        self, user_id: UserId, user_nid: int, room_id: RoomId, content: Mapping[str, Any]
    ) -> bool:
        """Reject an invite or take a knock back that other servers told of; False where there is none."""
        nid = await self._tools.interner.find_room(room_id)
        standing = self._outsiders.standing(user_nid, nid)
        if standing is None:
            return False
        if standing.membership in (Membership.INVITE, Membership.KNOCK):
            await self._outsiders.leave(user_id, user_nid, room_id, content)
        return True

    # --- inviting ------------------------------------------------------------------------------------

    async def invite(self, actor: RoomActor, draft: Draft) -> str:
        """Invite a user of another server; the event id."""
        return await self._invites.invite(actor, draft)
