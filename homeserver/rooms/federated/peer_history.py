"""A room's history for other servers: backfill, missing events, single events, jumping to a date.

Each answer is one unit of work and made of stored bytes. What the asking server may not see it gets redacted, so that
the graph stays whole on its side; what was rejected it does not get at all.

# spec: server-server-api#backfilling-and-retrieving-missing-events
# spec: server-server-api#retrieving-events
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import msgspec

from federation.ids import EventId, RoomId, ServerName
from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.http.errors import not_found
from homeserver.rooms.federated.peer_gate import PeerGate, Visit, not_in_room
from homeserver.rooms.reads.reading import SCANNED_MOST
from homeserver.runtime.clock import Clock
from homeserver.store.client_events import join
from homeserver.store.history import TimedRow, load_nearest
from homeserver.store.ids import Interner, StateKey
from homeserver.store.peer_reads import as_redacted, find_room_of
from homeserver.store.peer_sight import Onlooker, find_erased, visible_to
from homeserver.store.visibility_reads import StateFacts
from homeserver.store.walks import Link, load_links, walk_by_breadth, walk_by_depth
from homeserver.stream.log import ChangeLog

BACKFILL_MOST = 100
MISSING_MOST = 50
_VISIBILITY: StateKey = ("m.room.history_visibility", "")
_BATCH = 50
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class MissingAsked:
    """Which events a server misses."""

    latest: Collection[str]
    earliest: Collection[str]
    limit: int
    min_depth: int


class PeerHistory:
    """Answers other servers; raises ``MatrixError`` for those that a room is closed to."""

    def __init__(
        self,
        server_name: str,
        database: Database,
        interner: Interner,
        log: ChangeLog,
        gate: PeerGate,
        facts: StateFacts,
        clock: Clock,
    ) -> None:
        self._server_name = server_name
        self._database = database
        self._interner = interner
        self._log = log
        self._gate = gate
        self._facts = facts
        self._clock = clock

    async def backfill(
        self, server: ServerName, room_id: RoomId, starts: Sequence[EventId], limit: int
    ) -> bytes:
        """Some events and what precedes them, the newest first, as a transaction."""
        key, is_resident = await self._visibility_key(), await self._gate.is_resident(server, room_id)

        def unit(tx: Tx) -> list[bytes]:
            visit = self._gate.enter(tx, server, room_id, is_resident=is_resident)
            links = walk_by_depth(tx, visit.room.nid, starts, min(limit, BACKFILL_MOST))
            return self._write(tx, visit, key, links)

        return self._transaction(await self._database.read(unit))

    async def missing(self, server: ServerName, room_id: RoomId, asked: MissingAsked) -> bytes:
        """What lies between events that the other server has, the oldest first."""
        key, is_resident = await self._visibility_key(), await self._gate.is_resident(server, room_id)

        def unit(tx: Tx) -> list[bytes]:
            visit = self._gate.enter(tx, server, room_id, is_resident=is_resident)
            most = min(asked.limit, MISSING_MOST)
            links = walk_by_breadth(tx, visit.room.nid, asked.latest, asked.earliest, most, asked.min_depth)
            return self._write(tx, visit, key, links[::-1])

        return b'{"events":%b}' % join(await self._database.read(unit))

    async def event(self, server: ServerName, event_id: EventId) -> bytes:
        """One event as a transaction; 404 M_NOT_FOUND where there is none, 403 M_FORBIDDEN where it is not theirs."""
        room_id = await self._database.read(find_room_of, event_id)
        if room_id is None:
            raise not_found(f"Could not find event {event_id}")
        key, is_resident = await self._visibility_key(), await self._gate.is_resident(server, room_id)

        def unit(tx: Tx) -> bytes:
            visit = self._gate.visit(tx, server, room_id, is_resident=is_resident)
            link = load_links(tx, visit.room.nid, [event_id])[event_id]
            if link.rejected:
                raise not_found(f"Could not find event {event_id}")
            if link.state_before is None:
                # An outlier authorises others: whoever takes part may have it.
                if not visit.resident:
                    raise not_in_room()
                is_visible = True
            else:
                is_visible = visible_to(tx, _onlooker(visit, key), [link.row()], self._facts)[0]
                if not is_visible and not visit.resident:
                    raise not_in_room()
            return self._as_seen(tx, visit, [link], [is_visible])[0]

        return self._transaction([await self._database.read(unit)])

    async def nearest(
        self, server: ServerName, room_id: RoomId, ts_ms: int, *, backwards: bool
    ) -> tuple[str, int]:
        """The id and time of the event nearest to a moment, on one side; 404 M_NOT_FOUND where there is none."""
        key, is_resident = await self._visibility_key(), await self._gate.is_resident(server, room_id)
        upto = self._log.position

        def unit(tx: Tx) -> TimedRow | None:
            visit = self._gate.enter(tx, server, room_id, is_resident=is_resident)
            onlooker = _onlooker(visit, key)
            # LIMIT(events that the server may not see lie between: so many of them are looked at)
            for skip in range(0, SCANNED_MOST, _BATCH):
                timed = load_nearest(tx, visit.room.nid, ts_ms, upto, _BATCH, skip, backwards=backwards)
                seen = visible_to(tx, onlooker, [one.row for one in timed], self._facts)
                for one, may_see in zip(timed, seen, strict=True):
                    if may_see:
                        return one
                if len(timed) < _BATCH:
                    break
            return None

        found = await self._database.read(unit)
        if found is None:
            side = "backward" if backwards else "forward"
            raise not_found(f"Unable to find event from {ts_ms} in {side} direction")
        return found.event_id, found.ts_ms

    async def _visibility_key(self) -> int:
        return self._interner.known_key(_VISIBILITY) or await self._interner.find_key(_VISIBILITY) or 0

    def _write(self, tx: Tx, visit: Visit, key: int, links: Sequence[Link]) -> list[bytes]:
        seen = visible_to(tx, _onlooker(visit, key), [link.row() for link in links], self._facts)
        return self._as_seen(tx, visit, links, seen)

    def _as_seen(self, tx: Tx, visit: Visit, links: Sequence[Link], seen: Sequence[bool]) -> list[bytes]:
        whole = {
            link.nid: link.json
            for link, is_visible in zip(links, seen, strict=True)
            if is_visible and not link.redacted_by
        }
        erased = find_erased(tx, visit.room.nid, visit.server, whole, self._facts)
        return [
            link.json.encode()
            if link.nid in whole and link.nid not in erased
            else as_redacted(link.json, visit.room.rules)
            for link in links
        ]

    def _transaction(self, pdus: Sequence[bytes]) -> bytes:
        return b'{"origin":%b,"origin_server_ts":%d,"pdus":%b}' % (
            _encode(self._server_name),
            self._clock.now_ms(),
            join(pdus),
        )


def _onlooker(visit: Visit, key: int) -> Onlooker:
    return Onlooker(visit.server, visit.room.nid, visit.resident, key)
