"""Which servers are in a room: a read model that follows the log, loaded room by room when somebody asks.

1. A room costs one unit of reads when it is first asked for, and nothing afterwards: memberships are followed.
2. Memory is bounded: the rooms that nobody has asked for the longest are forgotten.
3. The answer may be asked for as it was around an earlier event (``servers_at``): an event goes to the servers that
   were in the room before or after it, however late it is looked at.
4. While a join is not complete, our state does not name every server: ``others`` knows of others. They are sent to, and
   MUST NOT be believed to be in the room otherwise (``shares``), but for what does nobody harm (``may_share``). An event
   of that time goes to them even if it is looked at when the join is complete (``others_upto``).
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Sequence

from homeserver.db.errors import DatabaseUnavailable
from homeserver.db.threads import Database
from homeserver.store.changes import Change, Kind
from homeserver.store.hearsay import load_heard_of
from homeserver.store.placement import MOVING, Membership, Placement, moves_of
from homeserver.store.stays import Occupancy, Turn, load_occupancy, load_stays, server_of
from homeserver.stream.index import MembershipIndex
from homeserver.stream.log import ChangeLog

DEFAULT_BUDGET = 64 * 1024 * 1024
# LIMIT(of one room; an event that is looked at later than so many comings and goings costs a read)
TURNS_MOST = 64
ROOMS_AT_ONCE = 200
_MEMBER_BYTES = 100
_ROOM_BYTES = 1_000


class _Room:
    """One room: who is joined, and how many of each server."""

    __slots__ = ("_names", "at", "counts", "joined", "since", "turns")

    def __init__(self, occupancy: Occupancy) -> None:
        self.at = occupancy.at
        self.since = occupancy.since
        self.joined = set(occupancy.joined)
        self.counts: dict[str, int] = {}
        for server in occupancy.joined.values():
            self.counts[server] = self.counts.get(server, 0) + 1
        self.turns: deque[Turn] = deque(occupancy.turns)
        self._names: tuple[str, ...] | None = None

    @property
    def size(self) -> int:
        return _ROOM_BYTES + _MEMBER_BYTES * (len(self.joined) + len(self.counts))

    @property
    def names(self) -> tuple[str, ...]:
        if self._names is None:
            self._names = tuple(sorted(self.counts))
        return self._names

    def move(self, pos: int, user_nid: int, server: str, joins: bool) -> None:
        """A membership moved; the same one again changes nothing."""
        if joins == (user_nid in self.joined):
            return
        count = self.counts.pop(server, 0) + (1 if joins else -1)
        if joins:
            self.joined.add(user_nid)
        else:
            self.joined.discard(user_nid)
        if count:
            self.counts[server] = count
        if count == (1 if joins else 0):
            self._names = None
            self.turns.append(Turn(pos, server, joins))
            if len(self.turns) > TURNS_MOST:
                self.since = self.turns.popleft().pos + 1

    def saw(self, pos: int) -> bool:
        """Whether all turns of a position are known: of the first that was read, first memberships are left out."""
        return pos > self.since or (pos == self.since and pos > self.at)

    def around(self, pos: int) -> Collection[str]:
        """The servers before or after the event at a position."""
        if not self.turns or self.turns[-1].pos < pos:
            return self.names
        servers = set(self.counts)
        for turn in reversed(self.turns):
            if turn.pos < pos:
                break
            if not turn.came:
                servers.add(turn.server)
            elif turn.pos > pos:
                servers.discard(turn.server)
        return sorted(servers)


class ServerIndex:
    """See the module. ``apply`` is subscribed to the log after the membership index."""

    def __init__(
        self, database: Database, changes: ChangeLog, index: MembershipIndex, budget: int = DEFAULT_BUDGET
    ) -> None:
        self._database = database
        self._changes = changes
        self._index = index
        self._budget = budget
        self._rooms: OrderedDict[int, _Room] = OrderedDict()  # most recently asked for last
        self.bytes = 0
        # Of rooms whose join is not complete: servers that others say are in them.
        self.others: Callable[[int], Collection[str]] = _nobody
        # Of rooms whose join is complete: up to which position they were such rooms.
        self.others_upto: Callable[[int], int] = _never

    def __len__(self) -> int:
        return len(self._rooms)

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow the log."""
        for change in changes:
            room = self._rooms.get(change.topic)
            if room is None:
                if _begins(change):
                    room = _Room(Occupancy(change.pos - 1, change.pos))
                    self._rooms[change.topic] = room
                    self.bytes += room.size
                else:
                    continue
            elif change.pos <= room.at:
                continue
            if change.kind == Kind.TRUNCATED or (change.kind in MOVING and change.payload is None):
                self._drop(change.topic)
            else:
                size = room.size
                _follow(room, change)
                self.bytes += room.size - size
        self._shrink()

    # --- questions -----------------------------------------------------------------------------------

    def known(self, room_nid: int) -> Collection[str] | None:
        """The servers in a room, this one included, if they are in memory."""
        room = self._touch(room_nid)
        return None if room is None else self._with_others(room_nid, room.names)

    async def servers_in(self, room_nid: int) -> Collection[str]:
        """The servers in a room, this one included, sorted."""
        return self._with_others(room_nid, (await self._room(room_nid)).names)

    async def largest_in(self, room_nid: int, most: int) -> list[str]:
        """The servers with the most members in a room, those first, as far as our own state says."""
        counts = (await self._room(room_nid)).counts
        return heapq.nsmallest(most, counts, key=lambda name: (-counts[name], name))

    async def servers_at(self, room_nid: int, pos: int) -> Collection[str]:
        """The servers that were in a room before or after the event at a position."""
        names = (await self._room_at(room_nid, pos)).around(pos)
        if pos <= self.others_upto(room_nid):
            names = sorted({*names, *await self._database.read(load_heard_of, room_nid, pos)})
        return self._with_others(room_nid, names)

    async def came(self, room_nid: int, server: str, pos: int) -> bool:
        """Whether a server came into a room with the membership at a position."""
        room = self._touch(room_nid)
        if room is not None and room.saw(pos):
            return any(turn.came and turn.pos == pos and turn.server == server for turn in room.turns)
        stays = await self._database.read(load_stays, server, [room_nid], pos - 1)
        return room_nid in stays and stays[room_nid].came(pos)

    async def servers_of_user(self, user_nid: int) -> set[str]:
        """The servers with which a local user shares a room, this one included."""
        return await self.servers_of_rooms(self._index.joined_rooms(user_nid))

    async def servers_of_rooms(self, rooms: Collection[int]) -> set[str]:
        """The servers that are in any of these rooms, this one included."""
        missing = [room_nid for room_nid in rooms if room_nid not in self._rooms]
        found = {server for room_nid in rooms for server in self.known(room_nid) or ()}
        for start in range(0, len(missing), ROOMS_AT_ONCE):
            loaded = await self._load(missing[start : start + ROOMS_AT_ONCE], None)
            for room_nid, room in loaded.items():
                found.update(self._with_others(room_nid, room.names))
        return found

    async def shares(self, server: str, room_nid: int) -> bool:
        """Whether a server is in a room, as far as our own state says."""
        return server in (await self._room(room_nid)).counts

    async def may_share(self, server: str, room_nid: int) -> bool:
        """The same, or as far as others say: for what a server that is not in the room has little to gain by."""
        return await self.shares(server, room_nid) or server in self.others(room_nid)

    async def is_joined(self, user_nid: int, room_nid: int) -> bool:
        """Whether a user, of whatever server, is in a room."""
        return user_nid in (await self._room(room_nid)).joined

    # --- memory --------------------------------------------------------------------------------------

    def _with_others(self, room_nid: int, names: Collection[str]) -> Collection[str]:
        extra = self.others(room_nid)
        return sorted({*names, *extra}) if extra else names

    def _touch(self, room_nid: int) -> _Room | None:
        room = self._rooms.get(room_nid)
        if room is not None:
            self._rooms.move_to_end(room_nid)
        return room

    async def _room(self, room_nid: int) -> _Room:
        return self._touch(room_nid) or (await self._load([room_nid], None))[room_nid]

    async def _room_at(self, room_nid: int, pos: int) -> _Room:
        """A room with all its turns from a position on."""
        room = self._touch(room_nid)
        if room is None:
            return (await self._load([room_nid], pos))[room_nid]
        if room.since > pos:
            return _Room((await self._database.read(load_occupancy, [room_nid], pos))[room_nid])
        return room

    async def _load(self, room_nids: Sequence[int], since: int | None) -> dict[int, _Room]:
        for _ in range(3):
            found = await self._database.read(load_occupancy, room_nids, since)
            newer = self._changes.since(min(occupancy.at for occupancy in found.values()))
            if newer is not None:
                break
            # So much happened meanwhile that the log has forgotten what came after the snapshot.
        else:
            raise DatabaseUnavailable("the log is faster than the database")
        rooms = {room_nid: _Room(occupancy) for room_nid, occupancy in found.items()}
        for change in newer:
            room = rooms.get(change.topic)
            if room is not None and change.pos > room.at:
                _follow(room, change)
        for room_nid, room in rooms.items():
            self._drop(room_nid)
            self._rooms[room_nid] = room
            self.bytes += room.size
        self._shrink()
        return rooms

    def _shrink(self) -> None:
        while self.bytes > self._budget and len(self._rooms) > 1:
            self._drop(next(iter(self._rooms)))

    def _drop(self, room_nid: int) -> None:
        room = self._rooms.pop(room_nid, None)
        if room is not None:
            self.bytes -= room.size


def _follow(room: _Room, change: Change) -> None:
    for user_nid, user_id, membership in _moves(change):
        room.move(change.pos, user_nid, server_of(user_id), membership == Membership.JOIN)


def _moves(change: Change) -> Iterable[tuple[int, str, Membership]]:
    for move in moves_of(change):
        if move.member_nid:
            yield move.member_nid, move.user_id, move.membership


def _begins(change: Change) -> bool:
    """Whether a room begins with this event, so that all that is known of it is that nobody is there."""
    if change.kind != Kind.EVENT or change.payload is None:
        return False
    placed: Placement = change.payload
    return placed.event.type == "m.room.create" and placed.prev_nid == 0


def _nobody(_: int) -> Collection[str]:
    return ()


def _never(_: int) -> int:
    return 0
