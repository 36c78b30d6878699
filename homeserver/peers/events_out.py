"""Which events go to which servers: a follower of the log.

An event of a user of ours goes to every server that was in its room before or after it. An event of another server's
user that joined or left by us goes there as well, but to its own server; an invite that we made in such a user's name
(``rooms/third_party.py``) goes to that one too. A join that another server let in is told by that one
(``Placement.told``); one that was made here is told from here, even if nobody of ours was in the room before it. For each
event this costs a look into memory.

After a crash the last seconds are looked at again, and a destination that was away gets what is ours from the timelines:
neither knows of ``told``, so such a join may be sent once more to each server of its room. That is allowed (they have it,
or lack it and are glad of it), and bounded by the joins of those seconds, or by what one destination is owed.

# spec: server-server-api#transactions
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from federation.ids import ServerName
from federation.queue import PduRef
from homeserver.db.threads import Database
from homeserver.peers.delivery import PduBytes
from homeserver.peers.devices_out import DevicesOut
from homeserver.peers.sender import Sender
from homeserver.store.changes import Change, Kind
from homeserver.store.outgoing import Relay, is_sent_on, load_relay
from homeserver.store.placement import Placement
from homeserver.store.stays import server_of
from homeserver.stream.servers import ServerIndex


class EventsOut:
    """See the module. ``handle`` is a follower: it may see its last changes again."""

    def __init__(
        self,
        server_name: ServerName,
        servers: ServerIndex,
        sender: Sender,
        pdus: PduBytes,
        database: Database,
        devices: DevicesOut,
        notes: Sequence[Callable[[Change], None]] = (),
    ) -> None:
        self._server_name = server_name
        self._servers = servers
        self._sender = sender
        self._pdus = pdus
        self._database = database
        self._devices = devices
        self._notes = notes  # who else hears of each change, in order: what is of the moment

    async def handle(self, changes: Sequence[Change]) -> None:
        """Hand these changes to the destinations."""
        for change in changes:
            if change.kind == Kind.EVENT and change.payload is not None:
                placed: Placement = change.payload
                if server_of(placed.event.sender) == self._server_name and not placed.told:
                    await self._event(change, placed)
            elif change.kind == Kind.RELAYED:
                await self._relay(change)
            await self._devices.note(change)
            for note in self._notes:
                note(change)
            self._sender.passed(change.pos)

    async def _event(self, change: Change, placed: Placement) -> None:
        event = placed.event
        servers = await self._servers.servers_at(change.topic, change.pos)
        removed = _removed_server(placed)
        if removed is not None and removed not in servers:
            servers = [*servers, removed]
        if len(servers) > 1:
            self._pdus.put(event.event_id, placed.json)
            self._enqueue(servers, PduRef(change.pos, event.event_id))

    async def _relay(self, change: Change) -> None:
        relay: Relay | None = change.payload
        if relay is None:
            relay = await self._database.read(load_relay, change.pos)
        if relay is not None:
            servers = await self._servers.servers_at(relay.room_nid, change.pos)
            servers = [server for server in servers if is_sent_on(server, relay.sender, relay.only_to)]
            self._pdus.put(relay.event_id, relay.json)
            self._sender.relayed()
            self._enqueue(servers, PduRef(change.pos, relay.event_id))

    def _enqueue(self, servers: Iterable[str], ref: PduRef) -> None:
        for server in servers:
            if server != self._server_name:
                self._sender.enqueue(server, ref)


def _removed_server(placed: Placement) -> str | None:
    """The server of whom this event removes: of somebody who was only invited, it is not in the room."""
    event = placed.event
    if event.type != "m.room.member" or not event.state_key or not placed.prev_nid:
        return None
    return server_of(event.state_key) if event.content.get("membership") in ("leave", "ban") else None
