"""The event nearest to a moment.

# spec: client-server-api#get_matrixclientv1roomsroomidtimestamp_to_event
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.http.errors import not_found
from homeserver.rooms.reads.reading import SCANNED_MOST
from homeserver.rooms.reads.visibility import Sight, Sights
from homeserver.rooms.types import Requester
from homeserver.store.gaps import has_gaps, load_after_gaps
from homeserver.store.history import TimedRow, load_nearest
from homeserver.store.visibility_reads import StateFacts, visible

_BATCH = 50


class Elsewhere(Protocol):
    """Other servers (``homeserver.rooms.federated.moments.Moments`` asks them)."""

    async def bring(
        self, room_id: str, room_nid: int, ts_ms: int, best_ms: int | None, *, backwards: bool
    ) -> bool:
        """Bring in an event nearer to a moment than one at ``best_ms``: whether it makes sense to look again."""


class _Nearest(NamedTuple):
    """The nearest event here, and whether history is missing between it and the moment."""

    found: TimedRow | None
    is_doubtful: bool


class Timestamps:
    """Finds events by time."""

    def __init__(self, database: Database, sights: Sights, facts: StateFacts, elsewhere: Elsewhere) -> None:
        self._database = database
        self._sights = sights
        self._facts = facts
        self._elsewhere = elsewhere

    async def nearest(
        self, requester: Requester, room_id: str, ts_ms: int, *, backwards: bool
    ) -> tuple[str, int]:
        """The id and time of the event nearest to a moment, on one side; 404 M_NOT_FOUND where there is none."""
        sight = await self._sights.find(requester, room_id)
        nearest = await self._database.read(_find, sight, ts_ms, backwards, self._facts)
        if nearest.is_doubtful:
            best_ms = None if nearest.found is None else nearest.found.ts_ms
            if await self._elsewhere.bring(room_id, sight.room_nid, ts_ms, best_ms, backwards=backwards):
                nearest = await self._database.read(_find, sight, ts_ms, backwards, self._facts)
        found = nearest.found
        if found is None:
            side = "backward" if backwards else "forward"
            raise not_found(f"Unable to find event from {ts_ms} in {side} direction")
        return found.event_id, found.ts_ms


def _find(tx: Tx, sight: Sight, ts_ms: int, backwards: bool, facts: StateFacts) -> _Nearest:
    found = _find_nearest(tx, sight, ts_ms, backwards, facts)
    if not has_gaps(tx, sight.room_nid):
        return _Nearest(found, is_doubtful=False)
    # A hole is before the event that has a parent we have not: that is the next event after the moment.
    after = load_nearest(tx, sight.room_nid, ts_ms, sight.upto, 1, 0, backwards=False)
    is_doubtful = (backwards and found is None) or bool(
        load_after_gaps(tx, sight.room_nid, [one.row.nid for one in after])
    )
    return _Nearest(found, is_doubtful)


def _find_nearest(tx: Tx, sight: Sight, ts_ms: int, backwards: bool, facts: StateFacts) -> TimedRow | None:
    # LIMIT(events that the reader may not see lie between: so many of them are looked at)
    for skip in range(0, SCANNED_MOST, _BATCH):
        timed = load_nearest(tx, sight.room_nid, ts_ms, sight.upto, _BATCH, skip, backwards=backwards)
        seen = visible(tx, sight.reader, [one.row for one in timed], facts)
        for one, may_see in zip(timed, seen, strict=True):
            if may_see:
                return one
        if len(timed) < _BATCH:
            break
    return None
