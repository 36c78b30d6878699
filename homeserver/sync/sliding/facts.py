"""What rooms are, and what they are to users: in memory, read when somebody asks, followed by the log.

A read may see a commit that the log has not told yet, or miss one that it tells while the read is on its way: what
changed meanwhile is used for the one answer, and not kept. What a room was when somebody was told of it is read once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeVar

from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.store.account_data import TAG
from homeserver.store.changes import Change, Kind
from homeserver.store.client_events import ClientEventCache
from homeserver.store.ids import Interner
from homeserver.store.placement import ENDED, moves_of
from homeserver.store.sliding_reads import (
    BUMPS,
    DIRECT,
    RoomFacts,
    UserFacts,
    load_children,
    load_outside_facts,
    load_room_facts,
    load_told_facts,
    load_user_facts,
    parse_direct,
    parse_tags,
)
from homeserver.store.state import BaseCache
from homeserver.stream.index import MembershipIndex

# LIMIT(memory: some 200 bytes a room)
MAX_ROOMS = 200_000
# LIMIT(memory: what a user tagged and put among their direct chats)
MAX_USERS = 20_000
MAX_SPACES = 5_000
_WATCHED = frozenset({"m.room.create", "m.room.encryption", "m.room.name"})
T = TypeVar("T")
K = TypeVar("K")
_MOVED = frozenset({Kind.STATE_MOVED, Kind.TRUNCATED, Kind.JOIN_PROGRESS})


class Facts:
    """See the module."""

    def __init__(
        self,
        database: Database,
        interner: Interner,
        index: MembershipIndex,
        cache: ClientEventCache,
        bases: BaseCache,
    ) -> None:
        self._database = database
        self._interner = interner
        self._index = index
        self._cache = cache
        self._bases = bases
        self._rooms: dict[int, RoomFacts] = {}
        self._children: dict[int, frozenset[str]] = {}
        self._outside: dict[tuple[int, int], RoomFacts] = {}  # of invites: by user and room
        self._told: dict[int, RoomFacts] = {}  # by the membership that came with them: what was told stays so
        self._users: dict[int, UserFacts] = {}
        self._loading: list[set[int]] = []  # of each read on its way: the topics that changed meanwhile

    # --- following the log ---------------------------------------------------------------------------------------

    # What ``apply`` looks at.
    kinds = frozenset(
        {Kind.EVENT, Kind.STATE_MOVED, Kind.TRUNCATED, Kind.JOIN_PROGRESS, Kind.OUTSIDE, Kind.ACCOUNT_DATA}
    )

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow the log."""
        for change in changes:
            kind = change.kind
            if kind == Kind.EVENT:
                self._event(change)
            elif kind in _MOVED:
                self._drop_room(change.topic)
                self._members_moved(change)
            elif kind == Kind.OUTSIDE:
                self._outside.pop((-change.topic, change.ref), None)
                self._spoil(change.topic)
            elif kind == Kind.ACCOUNT_DATA:
                self._account_data(change)

    def _event(self, change: Change) -> None:
        placed, room_nid = change.payload, change.topic
        if placed is None or not placed.linear:
            self._drop_room(room_nid)
        else:
            event = placed.event
            if event.state_key is not None:
                if event.type in _WATCHED:
                    self._drop_room(room_nid)
                elif event.type == "m.space.child":
                    self._children.pop(room_nid, None)
                    self._spoil(room_nid)
            if placed.redacts_target is not None:
                # It may be what named the room, or a child; that is rare, and reading them again costs little.
                self._drop_room(room_nid)
            if event.type in BUMPS:
                self._spoil(room_nid)
                facts = self._rooms.get(room_nid)
                if facts is not None:
                    self._rooms[room_nid] = facts._replace(bump_pos=change.pos)
        self._members_moved(change)

    def _members_moved(self, change: Change) -> None:
        for move in moves_of(change):
            if move.member_nid and (move.membership in ENDED or not move.event_nid):
                self._drop_user(move.member_nid)

    def _account_data(self, change: Change) -> None:
        user_nid, payload = -change.topic, change.payload
        facts = self._users.get(user_nid)
        if payload is None:
            self._drop_user(user_nid)
        elif payload.type == DIRECT and change.ref == 0:
            self._spoil(change.topic)
            if facts is not None:
                self._users[user_nid] = facts._replace(direct=parse_direct(payload.content))
        elif payload.type == TAG and change.ref:
            self._spoil(change.topic)
            if facts is not None:
                tags = {**facts.tags, change.ref: parse_tags(payload.content)}
                self._users[user_nid] = facts._replace(tags=tags)

    def _drop_room(self, room_nid: int) -> None:
        self._rooms.pop(room_nid, None)
        self._children.pop(room_nid, None)
        self._spoil(room_nid)

    def _drop_user(self, user_nid: int) -> None:
        self._users.pop(user_nid, None)
        self._spoil(-user_nid)

    def _spoil(self, topic: int) -> None:
        for changed in self._loading:
            changed.add(topic)

    # --- questions -----------------------------------------------------------------------------------------------

    async def rooms(self, room_nids: Iterable[int]) -> Mapping[int, RoomFacts]:
        """Facts of rooms that this server is in."""
        wanted, known = list(room_nids), self._rooms
        missing = [nid for nid in wanted if nid not in known]
        if not missing:
            return known
        found = {nid: known[nid] for nid in wanted if nid in known}
        found.update(await self._load(load_room_facts, known, missing, MAX_ROOMS))
        return found

    async def outside(self, user_nid: int, room_nids: Iterable[int]) -> Mapping[int, RoomFacts]:
        """Facts of rooms that this server is not in, as a user was told of them."""
        wanted, known = list(room_nids), self._outside
        found = {nid: known[user_nid, nid] for nid in wanted if (user_nid, nid) in known}
        missing = [nid for nid in wanted if nid not in found]
        if missing:
            changed: set[int] = set()
            self._loading.append(changed)
            try:
                fresh = await self._database.read(load_outside_facts, user_nid, missing)
            finally:
                self._loading = [one for one in self._loading if one is not changed]
            found.update(fresh)
            if -user_nid not in changed:
                _put(known, {(user_nid, nid): one for nid, one in fresh.items()}, MAX_ROOMS)
        return found

    async def told(self, event_nids: Collection[int]) -> Mapping[int, RoomFacts]:
        """Facts of rooms as they were before memberships of people who are not in them: by the membership's event."""
        known = self._told
        found = {nid: known[nid] for nid in event_nids if nid in known}
        missing = [nid for nid in event_nids if nid not in found]
        if missing:
            fresh = await self._database.read(load_told_facts, missing, self._cache, self._bases)
            found.update(fresh)
            _put(known, fresh, MAX_ROOMS)
        return found

    async def children(self, room_nids: Iterable[int]) -> frozenset[str]:
        """The ids of the rooms in any of some spaces."""
        wanted, known = list(room_nids), self._children
        found = {nid: known[nid] for nid in wanted if nid in known}
        missing = [nid for nid in wanted if nid not in found]
        if missing:
            found.update(await self._load(load_children, known, missing, MAX_SPACES))
        return frozenset(name for names in found.values() for name in names)

    async def _load(
        self,
        load: Callable[[Tx, Sequence[int], ClientEventCache], dict[int, T]],
        known: dict[int, T],
        missing: Sequence[int],
        most: int,
    ) -> dict[int, T]:
        changed: set[int] = set()
        self._loading.append(changed)
        try:
            fresh = await self._database.read(load, missing, self._cache)
        finally:
            # By identity: two reads that nothing came between hold equal sets.
            self._loading = [one for one in self._loading if one is not changed]
        _put(known, {nid: one for nid, one in fresh.items() if nid not in changed}, most)
        return fresh

    async def user(self, user_nid: int, user_id: str) -> UserFacts:
        """Facts of a local user."""
        known = self._users.get(user_nid)
        if known is not None:
            return known
        own_key = await self._interner.find_key(("m.room.member", user_id)) or 0
        changed: set[int] = set()
        self._loading.append(changed)
        try:
            rooms = self._index.rooms_of(user_nid)
            # What they forgot comes first: it is of interest only to who must still hear that it is over.
            left = [
                (not one.forgotten, one.pos, nid)
                for nid, one in rooms.items()
                if one.membership in ENDED and not one.outside
            ]
            facts = await self._database.read(
                load_user_facts, user_nid, user_id, own_key, [nid for _, _, nid in sorted(left)], self._cache
            )
        finally:
            self._loading = [one for one in self._loading if one is not changed]
        if -user_nid not in changed:
            _put(self._users, {user_nid: facts}, MAX_USERS)
        return facts


def _put(known: dict[K, T], fresh: Mapping[K, T], most: int) -> None:
    known.update(fresh)
    while len(known) > most:
        del known[next(iter(known))]
