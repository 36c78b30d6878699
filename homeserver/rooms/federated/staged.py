"""What is staged, in memory: which events, of whom, and whether there is room for more.

The rows are in ``store/staging.py``; this knows of each from before its commit until after its removal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from homeserver.store.staging import Waiting


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may wait: of one server, of one room, and in all."""

    origin: int = 500
    room: int = 2_000
    all: int = 10_000


class Staged:
    """Bounded by construction: what has no room is not taken."""

    def __init__(self, bounds: Bounds | None = None) -> None:
        self._bounds = bounds or Bounds()
        self._origins: dict[tuple[int, str], str] = {}  # (room, event id): who sent it
        self._by_room: Counter[int] = Counter()
        self._by_origin: Counter[str] = Counter()
        self._groups: dict[int, Counter[str]] = {}  # room: how many of each origin

    def __len__(self) -> int:
        return len(self._origins)

    def fill(self, rows: Iterable[Waiting]) -> None:
        """What an earlier process left."""
        for row in rows:
            if (row.room_nid, row.event_id) not in self._origins:
                self._put(row.room_nid, row.event_id, row.origin)

    def add(self, room_nid: int, event_id: str, origin: str) -> bool:
        """Take an event, if there is room for it; True too where it is here already."""
        if (room_nid, event_id) in self._origins:
            return True
        bounds = self._bounds
        if (
            self._by_origin[origin] >= bounds.origin
            or self._by_room[room_nid] >= bounds.room
            or len(self._origins) >= bounds.all
        ):
            return False
        self._put(room_nid, event_id, origin)
        return True

    def _put(self, room_nid: int, event_id: str, origin: str) -> None:
        self._origins[(room_nid, event_id)] = origin
        self._by_room[room_nid] += 1
        self._by_origin[origin] += 1
        self._groups.setdefault(room_nid, Counter())[origin] += 1

    def origin_of(self, room_nid: int, event_id: str) -> str | None:
        """Who sent a staged event."""
        return self._origins.get((room_nid, event_id))

    def discard(self, room_nid: int, event_ids: Iterable[str]) -> None:
        """These wait no longer."""
        for event_id in event_ids:
            origin = self._origins.pop((room_nid, event_id), None)
            if origin is not None:
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
