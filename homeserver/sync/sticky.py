"""Sticky events as clients get them: all that came since, however short the timeline is.

History visibility does not count, whom the reader ignores does. What the timeline of the same answer holds is not told
again.

spec: https://github.com/matrix-org/matrix-spec-proposals/pull/4354
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.store.client_events import ClientEvent, ClientEventCache, load_client_events
from homeserver.store.sticky import Sticky
from homeserver.store.unsigned import unsigned_members
from homeserver.stream.sticky import StickyIndex


class StickySections:
    """For classic sync and for sliding sync."""

    def __init__(self, index: StickyIndex, database: Database, cache: ClientEventCache) -> None:
        self._index = index
        self._database = database
        self._cache = cache

    def find(
        self, after: Mapping[int, int], upto: int, now_ms: int, ignored: Collection[str]
    ) -> dict[int, list[Sticky]]:
        """By room, what came after a position of each; from memory. Rooms without any are left out."""
        if self._index.is_empty:
            return {}
        found: dict[int, list[Sticky]] = {}
        for room_nid, pos in after.items():
            shown = self._index.shown(room_nid, pos, upto, now_ms)
            told = [one for one in shown if one.sender_id not in ignored]
            if told:
                found[room_nid] = told
        return found

    async def write(self, found: Mapping[int, list[Sticky]], now_ms: int) -> dict[int, list[bytes]]:
        """The events of what was found; those that were redacted meanwhile are sticky no more."""
        nids = [one.event_nid for sticky in found.values() for one in sticky]
        if not nids:
            return {}
        events = await self._database.read(_load, nids, self._cache)
        written: dict[int, list[bytes]] = {}
        for room_nid, sticky in found.items():
            # It may have been read as the state of a room before it came to stick.
            seen = [
                replace(events[one.event_nid], sticky_until_ms=one.until_ts_ms)
                for one in sticky
                if one.event_nid in events
            ]
            told = [one.render(unsigned_members(one, now_ms)) for one in seen if one.sticky_ms]
            if told:
                written[room_nid] = told
        return written


def _load(tx: Tx, nids: list[int], cache: ClientEventCache) -> dict[int, ClientEvent]:
    return load_client_events(tx, nids, cache)
