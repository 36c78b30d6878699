"""The event nearest to a moment.

# spec: client-server-api#get_matrixclientv1roomsroomidtimestamp_to_event
"""

from __future__ import annotations

from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.http.errors import not_found
from homeserver.rooms.reading import SCANNED_MOST
from homeserver.rooms.types import Requester
from homeserver.rooms.visibility import Sight, Sights
from homeserver.store.history import TimedRow, load_nearest
from homeserver.store.visibility_reads import StateFacts, visible

_BATCH = 50


class Timestamps:
    """Finds events by time."""

    def __init__(self, database: Database, sights: Sights, facts: StateFacts) -> None:
        self._database = database
        self._sights = sights
        self._facts = facts

    async def nearest(
        self, requester: Requester, room_id: str, ts_ms: int, *, backwards: bool
    ) -> tuple[str, int]:
        """The id and time of the event nearest to a moment, on one side; 404 M_NOT_FOUND where there is none."""
        sight = await self._sights.find(requester, room_id)
        found = await self._database.read(_find_nearest, sight, ts_ms, backwards, self._facts)
        if found is None:
            side = "backward" if backwards else "forward"
            raise not_found(f"Unable to find event from {ts_ms} in {side} direction")
        return found.event_id, found.ts_ms


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
