"""What is of the moment, for other servers: who is typing, and how far users have read.

Both go to the servers that are in the room. Nothing of it is kept for a server that is away.

# spec: server-server-api#typing-notifications
# spec: server-server-api#receipts
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any

import msgspec

from federation.ids import ServerName
from federation.queue import OutgoingEdu
from homeserver.peers.sender import Sender
from homeserver.runtime.clock import Clock, DelayedCall
from homeserver.runtime.tasks import TaskGroup
from homeserver.store.changes import Change, Kind
from homeserver.store.ids import Interner
from homeserver.store.receipts import READ, UNTHREADED, ReceiptChange
from homeserver.store.stays import server_of
from homeserver.stream.servers import ServerIndex

# Others let a user stop typing by themselves when they hear nothing for a minute or so.
RENEW_S = 20.0
# Receipts come in swarms, when a message comes into a room that many look at.
RECEIPTS_WAIT_S = 1.0
USERS_AN_EDU = 100

_encode = msgspec.json.Encoder(order="deterministic").encode


class RoomEdus:
    """Sends an EDU to the servers that are in a room."""

    def __init__(
        self,
        server_name: ServerName,
        servers: ServerIndex,
        interner: Interner,
        sender: Sender,
        tasks: TaskGroup,
    ) -> None:
        self.server_name = server_name
        self.closed = False
        self._tasks = tasks
        self._servers = servers
        self._interner = interner
        self._sender = sender

    def spawn(self, name: str, work: Coroutine[Any, Any, object]) -> None:
        """Do something that may have to wait for the database; nothing more once the server stops."""
        if self.closed:
            work.close()
        else:
            self._tasks.spawn(name, work)

    def is_ours(self, user_id: str) -> bool:
        """Whether a user is one of this server."""
        return server_of(user_id) == self.server_name

    async def room_id(self, room_nid: int) -> str | None:
        """A room's id."""
        known = self._interner.room_name(room_nid)
        return known or (await self._interner.room_names([room_nid])).get(room_nid)

    async def send(self, room_nid: int, edu: OutgoingEdu) -> None:
        """To every other server in the room."""
        for server in await self._servers.servers_in(room_nid):
            if server != self.server_name:
                self._sender.enqueue_edu(server, edu)


class TypingOut:
    """Who of our users begins and ends to type. ``tell`` is called by ``Typing``."""

    def __init__(self, edus: RoomEdus, clock: Clock) -> None:
        self._edus = edus
        self._clock = clock
        # When it was told last; bounded by what ``Typing`` holds: each entry there comes to its end.
        self._told: dict[tuple[int, str], float] = {}

    def tell(self, room_nid: int, user_id: str, typing: bool) -> None:
        """A user types or has stopped; what others know already is told again only now and then."""
        if not self._edus.is_ours(user_id):
            return
        key, now = (room_nid, user_id), self._clock.monotonic()
        told = self._told.get(key)
        if typing:
            if told is not None and now - told < RENEW_S:
                return
            self._told[key] = now
        elif self._told.pop(key, None) is None:
            return
        self._edus.spawn("tell who is typing", self._send(room_nid, user_id, typing))

    async def _send(self, room_nid: int, user_id: str, typing: bool) -> None:
        room_id = await self._edus.room_id(room_nid)
        content = {"room_id": room_id, "typing": typing, "user_id": user_id}
        body = _encode({"content": content, "edu_type": "m.typing"})
        await self._edus.send(room_nid, OutgoingEdu(body, f"typing {room_nid} {user_id}"))


class ReceiptsOut:
    """How far our users have read: public receipts, some together. ``note`` hears of every change."""

    def __init__(self, edus: RoomEdus, clock: Clock) -> None:
        self._edus = edus
        self._clock = clock
        # room nid -> (user id, thread) -> the newest receipt that was not told yet
        self._waiting: dict[int, dict[tuple[str, str], ReceiptChange]] = {}
        self._timer: DelayedCall | None = None

    def note(self, change: Change) -> None:
        """Follow the log."""
        if change.kind != Kind.RECEIPT or change.payload is None:
            return
        receipt: ReceiptChange = change.payload
        if receipt.kind != READ or not self._edus.is_ours(receipt.user_id):
            return
        self._waiting.setdefault(receipt.room_nid, {})[receipt.user_id, receipt.thread] = receipt
        if self._timer is None:
            self._timer = self._clock.callLater(RECEIPTS_WAIT_S, self._flush)

    def close(self) -> None:
        """The server stops."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _flush(self) -> None:
        self._timer = None
        waiting, self._waiting = self._waiting, {}
        self._edus.spawn("tell how far users have read", self._send(waiting))

    async def _send(self, waiting: dict[int, dict[tuple[str, str], ReceiptChange]]) -> None:
        for room_nid, receipts in waiting.items():
            room_id = await self._edus.room_id(room_nid)
            if room_id is not None:
                for edu in _receipt_edus(room_id, list(receipts.values())):
                    await self._edus.send(room_nid, edu)


def _receipt_edus(room_id: str, receipts: Sequence[ReceiptChange]) -> list[OutgoingEdu]:
    """One EDU has one receipt of a user: those of other threads go into the next."""
    layers: list[dict[str, object]] = []
    for receipt in receipts:
        data: dict[str, object] = {"ts": receipt.ts_ms}
        if receipt.thread != UNTHREADED:
            data["thread_id"] = receipt.thread
        for layer in layers:
            if receipt.user_id not in layer and len(layer) < USERS_AN_EDU:
                break
        else:
            layer = {}
            layers.append(layer)
        layer[receipt.user_id] = {"data": data, "event_ids": [receipt.event_id]}
    return [
        OutgoingEdu(_encode({"content": {room_id: {"m.read": layer}}, "edu_type": "m.receipt"}))
        for layer in layers
    ]
