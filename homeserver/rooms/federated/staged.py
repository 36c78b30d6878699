"""What is staged, in memory: which events, of whom, how good the copies are, and whether there is room for more.

The rows are in ``store/staging.py``; this knows of each from before its commit until after its removal.

There are as many names of servers as somebody likes, and what waits does so for hours. So servers that are not in a room
have little room of their own, and take none from those that are; and the last quarter is for those who have little
waiting, so that a few that make much wait leave something to everybody else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, TypeVar

from federation.event import Event
from federation.hashes import check_content_hash
from homeserver.store.staging import Waiting

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may wait: of one server, of one room, and in all. Who has less than ``few`` finds room in the last quarter."""

    origin: int = 500
    room: int = 2_000
    all: int = 10_000
    few: int = 10


# LIMIT(what a server says before we hear that it came into a room; more is found by what follows when we have)
STRANGERS = Bounds(origin=50, room=100, all=1_000, few=5)


class Copy(IntEnum):
    """How good what is kept of an event is: anybody may send something of its id. A higher one takes a lower one's place."""

    UNVERIFIED = 0  # its signatures may be made up
    REDACTED = 1  # by check 3: who sent it may have altered it
    UNKNOWN = 2  # an earlier process kept it, and it may be whole
    WHOLE = 3


class Kept(NamedTuple):
    """One event that waits: who sent it first (a server that was not in the room?), and how good the copy is."""

    origin: str
    copy: Copy
    stranger: bool = False


def copy_of(verified: Event) -> Copy:
    """How good a copy is whose signatures were verified."""
    return Copy.WHOLE if check_content_hash(verified.json, verified.rules) else Copy.REDACTED


class _Pool:
    """What is counted for some of the servers."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._size = 0
        self._by_room: Counter[int] = Counter()
        self._by_origin: Counter[str] = Counter()
        self._groups: Counter[tuple[int, str]] = Counter()

    def has_place(self, room_nid: int, origin: str) -> bool:
        bounds = self.bounds
        own, own_here = self._by_origin[origin], self._groups[(room_nid, origin)]
        return (
            own < bounds.origin
            and self._by_room[room_nid] < _most(bounds.room, own_here, bounds.few)
            and self._size < _most(bounds.all, own, bounds.few)
        )

    def count(self, room_nid: int, origin: str, more: int) -> None:
        self._size += more
        _count(self._by_room, room_nid, more)
        _count(self._by_origin, origin, more)
        _count(self._groups, (room_nid, origin), more)


def _most(bound: int, own: int, few: int) -> int:
    return bound if own < few else bound - bound // 4


def _count(counter: Counter[Key], key: Key, more: int) -> None:
    """What is zero is forgotten."""
    counter[key] += more
    if not counter[key]:
        del counter[key]


class Staged:
    """Bounded by construction: what has no room is not taken."""

    def __init__(self, bounds: Bounds | None = None, strangers: Bounds = STRANGERS) -> None:
        self._pools = {False: _Pool(bounds or Bounds()), True: _Pool(strangers)}
        self._kept: dict[tuple[int, str], Kept] = {}  # by room and event id
        self._groups: dict[int, Counter[str]] = {}  # room: how many of each origin

    def __len__(self) -> int:
        return len(self._kept)

    def fill(self, rows: Iterable[Waiting]) -> None:
        """What an earlier process left; who was not in the room then is not known any more."""
        for row in rows:
            if (row.room_nid, row.event_id) not in self._kept:
                self._put(row.room_nid, row.event_id, Kept(row.origin, Copy.UNKNOWN))

    def add(self, room_nid: int, event_id: str, origin: str, copy: Copy, *, stranger: bool = False) -> bool:
        """Take an event, if there is room for it; True too where it is here already."""
        if (room_nid, event_id) in self._kept:
            return True
        if not self._pools[stranger].has_place(room_nid, origin):
            return False
        self._put(room_nid, event_id, Kept(origin, copy, stranger))
        return True

    def _put(self, room_nid: int, event_id: str, kept: Kept) -> None:
        self._kept[(room_nid, event_id)] = kept
        self._pools[kept.stranger].count(room_nid, kept.origin, 1)
        self._groups.setdefault(room_nid, Counter())[kept.origin] += 1

    def find(self, room_nid: int, event_id: str) -> Kept | None:
        """What is kept of an event."""
        return self._kept.get((room_nid, event_id))

    def origin_of(self, room_nid: int, event_id: str) -> str | None:
        """Who sent a staged event."""
        kept = self._kept.get((room_nid, event_id))
        return None if kept is None else kept.origin

    def has_better(self, room_nid: int, verified: Event) -> bool:
        """Whether a better copy of an event waits than this one: then that one is to get the place."""
        kept = self._kept.get((room_nid, verified.event_id))
        return kept is not None and kept.copy > copy_of(verified)

    def note(self, room_nid: int, event_id: str, copy: Copy) -> None:
        """Of an event that waits, such a copy is kept now."""
        kept = self._kept.get((room_nid, event_id))
        if kept is not None:
            self._kept[(room_nid, event_id)] = kept._replace(copy=copy)

    def learn(self, room_nid: int, verified: Event) -> None:
        """The copy that is kept was verified only now."""
        kept = self._kept.get((room_nid, verified.event_id))
        if kept is not None and kept.copy in (Copy.UNVERIFIED, Copy.UNKNOWN):
            self.note(room_nid, verified.event_id, copy_of(verified))

    def discard(self, room_nid: int, event_ids: Iterable[str]) -> None:
        """These wait no longer."""
        for event_id in event_ids:
            kept = self._kept.pop((room_nid, event_id), None)
            if kept is not None:
                self._pools[kept.stranger].count(room_nid, kept.origin, -1)
                group = self._groups[room_nid]
                _count(group, kept.origin, -1)
                if not group:
                    del self._groups[room_nid]

    def origins_in(self, room_nid: int) -> Mapping[str, int]:
        """How many events of whom wait in a room."""
        return self._groups.get(room_nid, {})
