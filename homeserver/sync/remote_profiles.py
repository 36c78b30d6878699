"""Names and pictures of other servers' users, as sync tells them: by their memberships of the reader's rooms.

A name that somebody has in one room alone cannot be told apart from a new name; of other fields nobody tells us.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence

from homeserver.db.threads import Database
from homeserver.store.changes import Change
from homeserver.store.device_lists import MemberMove, load_sharing
from homeserver.store.placement import MOVING, Membership, moves_of
from homeserver.store.remote_profiles import Shown, load_remote_members, load_renamed, load_shown
from homeserver.stream.index import MembershipIndex

_KEPT = 10_000


class RemoteNews:
    """See the module; follows the log."""

    def __init__(self, database: Database, index: MembershipIndex, position: int) -> None:
        self._database = database
        self._index = index
        # Memberships of those who may have been there before: where only a name or a picture may have changed.
        self._recent: deque[MemberMove] = deque()
        self._floor = position

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow the log, after the index."""
        is_local = self._index.is_local
        for change in changes:
            if change.kind not in MOVING:
                continue
            if change.payload is None:
                self._recent.clear()
                self._floor = change.pos
                continue
            for move in moves_of(change):
                if not (move.member_nid and move.prev_nid and move.membership == Membership.JOIN):
                    continue
                if not is_local(move.member_nid):
                    moved = (change.topic, move.member_nid, move.event_nid, move.prev_nid, change.pos)
                    self._recent.append(MemberMove(*moved))
            while len(self._recent) > _KEPT:
                self._floor = self._recent.popleft().pos

    def changed(self, user_nid: int, since: int) -> bool:
        """Whether there may be news for a user after a position; from memory."""
        return since < self._floor or bool(self._since(user_nid, since, None))

    def _since(self, user_nid: int, since: int, upto: int | None) -> list[MemberMove]:
        """The moves of a user's rooms, oldest first."""
        found: list[MemberMove] = []
        for move in reversed(self._recent):
            if move.pos <= since:
                break
            if upto is None or move.pos <= upto:
                if self._index.is_joined(user_nid, move.room_nid):
                    found.append(move)
        found.reverse()
        return found

    async def updates(self, user_nid: int, since: int, upto: int) -> dict[int, Shown]:
        """What changed in ``(since, upto]`` of those of other servers with whom a user shares a room."""
        moves: list[MemberMove] | None = None
        if since >= self._floor:
            moves = self._since(user_nid, since, upto)
            if not moves:
                return {}
        rooms = self._index.joined_rooms(user_nid)
        found = await self._database.read(load_renamed, moves, rooms, since, upto)
        return {nid: shown for nid, shown in found.items() if not self._index.is_local(nid)}

    async def full(self, user_nid: int, others: Collection[int]) -> dict[int, Shown]:
        """How some users of other servers are shown to a user who shares a room with them."""
        rooms = self._index.joined_rooms(user_nid)
        return await self._database.read(load_shown, others, rooms) if others and rooms else {}

    async def members(self, room_nids: Collection[int], most: int) -> list[int]:
        """Users of other servers who are in some rooms."""
        if not room_nids or most <= 0:
            return []
        return await self._database.read(load_remote_members, room_nids, most)

    async def strangers(self, user_nid: int, others: Collection[int], most: int) -> list[int]:
        """Of some users of other servers those with whom a user shares no room any more."""
        if not others:
            return []
        sharing = await self._database.read(load_sharing, others, self._index.joined_rooms(user_nid))
        return sorted(set(others) - sharing)[:most]
