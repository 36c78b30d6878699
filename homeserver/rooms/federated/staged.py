"""What is staged, in memory: which events, of whom, how good the copies are, and whether there is room for more.

The rows are in ``store/staging.py``; this knows of each from before its commit until after its removal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from federation.event import Event
from federation.hashes import check_content_hash
from homeserver.store.staging import Waiting


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may wait: of one server, of one room, and in all."""

    origin: int = 500
    room: int = 2_000
    all: int = 10_000


class Copy(IntEnum):
    """How good what is kept of an event is: anybody may send something of its id. A higher one takes a lower one's place."""

    UNVERIFIED = 0  # its signatures may be made up
    REDACTED = 1  # by check 3: who sent it may have altered it
    UNKNOWN = 2  # an earlier process kept it, and it may be whole
    WHOLE = 3


class Kept(NamedTuple):
    """One event that waits: who sent it first, and how good the copy is."""

    origin: str
    copy: Copy


def copy_of(verified: Event) -> Copy:
    """How good a copy is whose signatures were verified."""
    return Copy.WHOLE if check_content_hash(verified.json, verified.rules) else Copy.REDACTED


class Staged:
    """Bounded by construction: what has no room is not taken."""

    def __init__(self, bounds: Bounds | None = None) -> None:
        self._bounds = bounds or Bounds()
        self._kept: dict[tuple[int, str], Kept] = {}  # by room and event id
        self._by_room: Counter[int] = Counter()
        self._by_origin: Counter[str] = Counter()
        self._groups: dict[int, Counter[str]] = {}  # room: how many of each origin

    def __len__(self) -> int:
        return len(self._kept)

    def fill(self, rows: Iterable[Waiting]) -> None:
        """What an earlier process left."""
        for row in rows:
            if (row.room_nid, row.event_id) not in self._kept:
                self._put(row.room_nid, row.event_id, Kept(row.origin, Copy.UNKNOWN))

    def add(self, room_nid: int, event_id: str, origin: str, copy: Copy) -> bool:
        """Take an event, if there is room for it; True too where it is here already."""
        if (room_nid, event_id) in self._kept:
            return True
        bounds = self._bounds
        if (
            self._by_origin[origin] >= bounds.origin
            or self._by_room[room_nid] >= bounds.room
            or len(self._kept) >= bounds.all
        ):
            return False
        self._put(room_nid, event_id, Kept(origin, copy))
        return True

    def _put(self, room_nid: int, event_id: str, kept: Kept) -> None:
        self._kept[(room_nid, event_id)] = kept
        self._by_room[room_nid] += 1
        self._by_origin[kept.origin] += 1
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
                origin = kept.origin
                group = self._groups[room_nid]
                for counter, key in ((self._by_origin, origin), (group, origin)):
                    counter[key] -= 1
                    if not counter[key]:
                        del counter[key]
                self._by_room[room_nid] -= 1
                if not group:
                    del self._groups[room_nid], self._by_room[room_nid]

    def origins_in(self, room_nid: int) -> Mapping[str, int]:
        """How many events of whom wait in a room."""
        return self._groups.get(room_nid, {})
