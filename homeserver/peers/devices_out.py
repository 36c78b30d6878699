"""Which servers are to hear of our users' devices: a part of the federation's follower.

Messages to devices go to one server. A change of somebody's keys goes to every server in their rooms; who comes to share
a room with a user of ours, or a user of ours with them, is told of the keys as they are.

# spec: server-server-api#device-management
"""

from __future__ import annotations

from homeserver.db.threads import Database
from homeserver.peers.sender import Sender
from homeserver.runtime.clock import Clock, sleep
from homeserver.store.changes import Change, Kind
from homeserver.store.device_lists import ListChanged
from homeserver.store.parsed import EventCache
from homeserver.store.placement import Membership, moves_of
from homeserver.store.stays import server_of
from homeserver.store.to_device import load_destinations_at
from homeserver.stream.index import MembershipIndex
from homeserver.stream.servers import ServerIndex

_ROOMS_A_TURN = 100
_LISTS = (Kind.DEVICE_LIST, Kind.SIGNING_KEYS)


class DevicesOut:
    """See the module."""

    def __init__(
        self,
        server_name: str,
        servers: ServerIndex,
        index: MembershipIndex,
        sender: Sender,
        database: Database,
        events: EventCache,
        clock: Clock,
    ) -> None:
        self._server_name = server_name
        self._servers = servers
        self._index = index
        self._sender = sender
        self._database = database
        self._events = events
        self._clock = clock

    async def note(self, change: Change) -> None:
        """One change, in order."""
        if change.kind == Kind.TO_DEVICE:
            if change.topic == 0:
                await self._message(change)
        elif change.kind in _LISTS:
            # With a ``ref`` it is a signature that its signer alone sees.
            if not change.ref and self._index.is_local(-change.topic):
                await self._list(change)
        else:
            joins = [move for move in moves_of(change) if move.membership == Membership.JOIN]
            servers = [server_of(move.user_id) for move in joins]
            # Where one of us comes into a room, the servers of all who are there hear of them.
            ours = self._server_name in servers
            new = [
                server
                for server, move in zip(servers, joins, strict=True)
                if (not ours or server == self._server_name) and not self._events.is_join(move.prev_nid)
            ]
            for server in dict.fromkeys(new):
                await self._join(change, server)

    async def _message(self, change: Change) -> None:
        if change.payload is not None:
            destination: str | None = change.payload.destination
        else:
            destination = (await self._database.read(load_destinations_at, [change.pos])).get(change.pos)
        if destination is not None:
            self._sender.owe_devices(destination, change.pos)

    async def _list(self, change: Change) -> None:
        payload: ListChanged | None = change.payload
        user_nid = -change.topic
        rooms = self._index.joined_rooms(user_nid) if payload is None else payload.room_nids
        for number, room_nid in enumerate(rooms, 1):
            await self._owe(room_nid, change.pos)
            if not number % _ROOMS_A_TURN:
                await sleep(self._clock, 0)  # each may have thousands of servers

    async def _join(self, change: Change, server: str) -> None:
        if server == self._server_name:
            await self._owe(change.topic, change.pos)
        elif self._index.local_members(change.topic):
            if await self._servers.came(change.topic, server, change.pos):
                self._sender.owe_devices(server, change.pos, change.topic, fresh=True)

    async def _owe(self, room_nid: int, pos: int) -> None:
        for server in await self._servers.servers_in(room_nid):
            if server != self._server_name:
                self._sender.owe_devices(server, pos, room_nid)
