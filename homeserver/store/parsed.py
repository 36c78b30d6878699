"""Parsed events by nid: immutable, cached by bytes, loaded in bulk."""

from __future__ import annotations

from collections.abc import Collection

from federation.event import Event, parse_stored
from federation.ids import EventId
from federation.versions import ROOM_VERSIONS
from homeserver.db.tx import Tx
from homeserver.store.cache import ByteLru
from homeserver.store.events import find_row, load_json


class EventCache(ByteLru[int, Event]):
    """Events by nid."""

    def __init__(self, budget: int = 24 * 1024 * 1024) -> None:
        super().__init__(budget, _size)

    def is_join(self, nid: int) -> bool:
        """Whether it is somebody's membership "join", as far as memory tells (0: there is none)."""
        event = self.get(nid) if nid else None
        return event is not None and event.content.get("membership") == "join"


def _size(event: Event) -> int:
    # A parsed event holds some 40 objects of 60 bytes beside its text; content dominates where it is large.
    return 2_500 + 8 * len(event.content)


def load_events(tx: Tx, nids: Collection[int], cache: EventCache) -> dict[int, Event]:
    """Events by nid, as they were sent (redactions are a view, see ``client_events``)."""
    found: dict[int, Event] = {}
    missing: list[int] = []
    for nid in nids:
        event = cache.get(nid)
        if event is None:
            missing.append(nid)
        else:
            found[nid] = event
    if missing:
        for row in load_json(tx, missing):
            event = parse_stored(EventId(row.event_id), row.json, ROOM_VERSIONS[row.version])
            cache.put(row.nid, event)
            found[row.nid] = event
    return found


def load_event_of_room(tx: Tx, event_id: str, room_nid: int, cache: EventCache) -> Event | None:
    """An event by its id, as it was sent, where it is one of that room."""
    row = find_row(tx, event_id)
    if row is None or row.room_nid != room_nid:
        return None
    return load_events(tx, [row.nid], cache).get(row.nid)
