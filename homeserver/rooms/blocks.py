"""Rooms that those in charge have blocked: nobody of this server may join them, knock on them or be invited there.

Whoever is in such a room stays, until they leave or are made to. Which rooms these are is kept in memory, as every join
asks; ``apply`` follows the log.
"""

from __future__ import annotations

from collections.abc import Sequence

from homeserver.accounts.types import Requester
from homeserver.db.threads import Database
from homeserver.http.errors import forbidden
from homeserver.store.blocked_rooms import block_room, find_block, load_blocks, unblock_room
from homeserver.store.changes import Change, Kind
from homeserver.store.ids import Interner
from homeserver.store.work import Worker


class RoomBlocks:
    """See the module."""

    def __init__(self, database: Database, worker: Worker, interner: Interner) -> None:
        self._database = database
        self._worker = worker
        self._interner = interner
        self._blocked: set[int] = set()

    async def load(self) -> None:
        """What was blocked before this process began."""
        self._blocked.update(await self._database.read(load_blocks))

    kinds = frozenset({Kind.BLOCKED})  # what ``apply`` looks at

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow the log."""
        for change in changes:
            if change.kind == Kind.BLOCKED:
                (self._blocked.add if change.ref > 0 else self._blocked.discard)(abs(change.ref))

    def check_nid(self, room_nid: int) -> None:
        """Refuse (403) a room that is blocked."""
        if room_nid in self._blocked:
            raise forbidden("This room has been blocked on this server")

    async def check(self, room_id: str) -> None:
        """The same by the room's id; it may be unknown here."""
        room_nid = await self._interner.find_room(room_id)
        if room_nid is not None:
            self.check_nid(room_nid)

    async def blocked_by(self, room_id: str) -> str | None:
        """Who has blocked a room; None: it is not blocked."""
        room_nid = await self._interner.find_room(room_id)
        return None if room_nid is None else await self._database.read(find_block, room_nid)

    async def block(self, requester: Requester, room_id: str) -> None:
        """Block a room, which may be unknown here."""
        await self._worker.work(block_room, await self._interner.room(room_id), requester.user_nid)

    async def unblock(self, room_id: str) -> None:
        """Block it no longer."""
        room_nid = await self._interner.find_room(room_id)
        if room_nid is not None:
            await self._worker.work(unblock_room, room_nid)
