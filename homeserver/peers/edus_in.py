"""What other servers tell of the moment: typing, receipts, presence. Only of their own users, and only where we share.

Whether the EDU is well-formed, speaks of its origin's users and is let in by the room's access control list has been
seen to before.

# spec: server-server-api#edus
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from federation.edus import Presence, Receipt, Receipts, Typing
from federation.ids import ServerName
from homeserver.db.threads import Database
from homeserver.store.ids import Interner
from homeserver.store.members import load_joined_rooms
from homeserver.stream.index import MembershipIndex
from homeserver.stream.servers import ServerIndex

# Servers repeat within this time that somebody is still typing.
TYPING_MS = 60_000


class TypingSink(Protocol):
    """Who is typing where."""

    def start(self, room_nid: int, user_id: str, timeout_ms: int = ...) -> None: ...
    def stop(self, room_nid: int, user_id: str) -> None: ...


class ReceiptSink(Protocol):
    """Keeps receipts."""

    async def put_remote(self, room_nid: int, receipts: Sequence[tuple[int, Receipt]]) -> None: ...


class PresenceSink(Protocol):
    """Who is online elsewhere."""

    def put(
        self,
        user_nid: int,
        user_id: str,
        rooms: Collection[int],
        state: str,
        status_msg: str | None,
        currently_active: bool,
        last_active_ago_ms: int,
    ) -> None: ...


class EphemeralEdus:
    """See the module. ``presence`` None: it is switched off here."""

    def __init__(
        self,
        database: Database,
        interner: Interner,
        index: MembershipIndex,
        servers: ServerIndex,
        typing: TypingSink,
        receipts: ReceiptSink,
        presence: PresenceSink | None,
    ) -> None:
        self._database = database
        self._interner = interner
        self._index = index
        self._servers = servers
        self._typing = typing
        self._receipts = receipts
        self._presence = presence

    async def typing(self, origin: ServerName, edu: Typing) -> None:  # noqa: ARG002 (checked before)
        """Somebody began or ended; who is not in the room does neither."""
        room_nid = await self._our_room(edu.room_id)
        if room_nid is None or await self._member(edu.user_id, room_nid) is None:
            return
        if edu.typing:
            self._typing.start(room_nid, edu.user_id, TYPING_MS)
        else:
            self._typing.stop(room_nid, edu.user_id)

    async def receipts(self, origin: ServerName, edu: Receipts) -> None:  # noqa: ARG002
        """How far users have read; stored when this returns."""
        rooms: dict[str, list[Receipt]] = {}
        for receipt in edu.receipts:
            # Private receipts have no business on the wire, and other types mean nothing to our clients.
            if receipt.receipt_type == "m.read" and "\0" not in (receipt.thread_id or ""):
                rooms.setdefault(receipt.room_id, []).append(receipt)
        for room_id, of_room in rooms.items():
            room_nid = await self._our_room(room_id)
            if room_nid is None:
                continue
            found = [
                (user_nid, receipt)
                for receipt in of_room
                if (user_nid := await self._member(receipt.user_id, room_nid)) is not None
            ]
            if found:
                await self._receipts.put_remote(room_nid, found)

    async def presence(self, origin: ServerName, edu: Presence) -> None:  # noqa: ARG002
        """Who is online; only of those who share a room with somebody here."""
        if self._presence is None or not edu.updates:
            return
        nids = await self._interner.find_users({update.user_id for update in edu.updates})
        joined = await self._database.read(load_joined_rooms, sorted(nids.values()))
        for update in edu.updates:
            user_nid = nids.get(update.user_id)
            if user_nid is None:
                continue
            rooms = [nid for nid in joined.get(user_nid, ()) if self._index.local_members(nid)]
            if rooms:
                self._presence.put(
                    user_nid,
                    update.user_id,
                    rooms,
                    update.presence,
                    update.status_msg,
                    update.currently_active,
                    update.last_active_ago_ms,
                )

    async def _our_room(self, room_id: str) -> int | None:
        """A room that somebody here is in."""
        room_nid = await self._interner.find_room(room_id)
        return room_nid if room_nid is not None and self._index.local_members(room_nid) else None

    async def _member(self, user_id: str, room_nid: int) -> int | None:
        """The number of a user who is in a room."""
        user_nid = await self._interner.find_user(user_id)
        if user_nid is None or not await self._servers.is_joined(user_nid, room_nid):
            return None
        return user_nid
