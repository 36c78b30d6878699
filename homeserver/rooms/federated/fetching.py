"""Events of rooms from other servers: answers the needs of ``federation.flows`` from the database and over the network.

MUSTs: 1. every event that is handed on has passed checks 1 to 3 and is of the room; 2. an answer that is not what was
asked for counts as none, and the next server is asked; 3. those who want the same at the same time share one request.

# spec: server-server-api#retrieving-events
# spec: server-server-api#backfilling-and-retrieving-missing-events
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred, DeferredSemaphore

from federation.errors import Malformed, RemoteError
from federation.event import Event
from federation.flows.needs import (
    Known,
    Limits,
    NeedAuthChain,
    NeedBackfill,
    NeedEvents,
    NeedKnown,
    NeedMissing,
    NeedState,
    NeedStateIds,
    RoomNeed,
    StateIds,
)
from federation.flows.order import prev_parents, reached
from federation.ids import EventId, RoomId, ServerName, parse_event_id
from federation.versions import RoomRules
from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.http.transport import Unreachable, build_uri
from homeserver.peers.types import PeerClient
from homeserver.rooms.federated.checking import EventChecker
from homeserver.runtime.clock import Clock
from homeserver.runtime.shared import Busy, Shared
from homeserver.runtime.tasks import all_of
from homeserver.store.events import find_rows
from homeserver.store.parsed import EventCache, load_events

FEDERATION = "/_matrix/federation/v1"
# Requests for single events that one flow has under way.
PARALLEL = 8
_SHARED_MOST = 512
_EVENT_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class FetchRoom:
    """The room that is asked about, and whom: the best first."""

    room_nid: int
    room_id: RoomId
    rules: RoomRules
    servers: tuple[ServerName, ...]


class RoomFetcher:
    """See the module."""

    def __init__(
        self, client: PeerClient, checker: EventChecker, database: Database, events: EventCache, clock: Clock
    ) -> None:
        self._client = client
        self._checker = checker
        self._database = database
        self._events = events
        self._shared: Shared[tuple[object, ...], Any] = Shared(clock, most_running=_SHARED_MOST)

    def stop(self) -> None:
        """Break off what is being asked."""
        self._shared.stop()

    async def answer(self, room: FetchRoom, need: RoomNeed) -> Any:
        """What the flow is sent."""
        if isinstance(need, NeedKnown):
            return await self._database.read(_load_known, room.room_nid, need.event_ids)
        if isinstance(need, NeedEvents):
            return await self._find_events(room, need)
        # The same question of the same room has the same answer, whoever asks.
        key = (room.room_nid, type(need), *_subject(need))
        try:
            return await self._shared.get(key, lambda: self._ask_each(room, need))
        except Busy:
            return nothing(need)

    async def _ask_each(self, room: FetchRoom, need: RoomNeed) -> Any:
        """The first answer that there is."""
        for server in room.servers[: _limits(need).servers]:
            try:
                answer = await self._ask(server, room, need)
            except (RemoteError, Unreachable, Malformed):
                continue
            if answer:
                return answer
        return nothing(need)

    # --- one server ----------------------------------------------------------------------------------

    async def _ask(self, server: ServerName, room: FetchRoom, need: RoomNeed) -> Any:
        if isinstance(need, NeedMissing):
            return await self._ask_missing(server, room, need)
        if isinstance(need, NeedBackfill):
            return await self._ask_backfill(server, room, need)
        if isinstance(need, NeedStateIds):
            uri = build_uri(f"{FEDERATION}/state_ids", room.room_id, query={"event_id": need.event_id})
            answer = await self._get(server, uri, need.limits)
            return StateIds(_ids(answer, "pdu_ids"), _ids(answer, "auth_chain_ids"))
        if isinstance(need, NeedState):
            uri = build_uri(f"{FEDERATION}/state", room.room_id, query={"event_id": need.event_id})
            answer = await self._get(server, uri, need.limits)
            return await self._check(room, [*_list(answer, "pdus"), *_list(answer, "auth_chain")])
        assert isinstance(need, NeedAuthChain)
        uri = build_uri(f"{FEDERATION}/event_auth", room.room_id, need.event_id)
        answer = await self._get(server, uri, need.limits)
        return await self._check(room, _list(answer, "auth_chain"))

    async def _get(self, server: ServerName, uri: str, limits: Limits) -> dict[str, Any]:
        return await self._client.ask(
            server, "GET", uri, timeout_s=limits.timeout_s, max_bytes=limits.max_bytes, insist=False
        )

    async def _ask_missing(self, server: ServerName, room: FetchRoom, need: NeedMissing) -> list[Event]:
        body = {
            "earliest_events": list(need.earliest),
            "latest_events": list(need.latest),
            "limit": need.count,
            "min_depth": need.min_depth,
        }
        uri = build_uri(f"{FEDERATION}/get_missing_events", room.room_id)
        limits = need.limits
        answer = await self._client.ask(
            server,
            "POST",
            uri,
            body,
            timeout_s=limits.timeout_s,
            max_bytes=limits.max_bytes,
            insist=False,
        )
        # LIMIT(what is beyond was not asked for, and costs a signature check each)
        return await self._check(room, _list(answer, "events")[: need.count])

    async def _ask_backfill(self, server: ServerName, room: FetchRoom, need: NeedBackfill) -> list[Event]:
        query: dict[str, str | int | list[str] | None] = {"v": [*need.event_ids], "limit": need.count}
        uri = build_uri(f"{FEDERATION}/backfill", room.room_id, query=query)
        answer = await self._get(server, uri, need.limits)
        found = await self._check(room, _list(answer, "pdus")[: need.count])
        # An answer about something else is no answer: the next server may have one.
        by_id = {event.event_id: event for event in found}
        return list(reached(need.event_ids, by_id, prev_parents, need.count).values())

    async def _check(self, room: FetchRoom, pdus: list[Any]) -> list[Event]:
        return await self._checker.check(pdus, room.rules, room.room_id)

    # --- single events -------------------------------------------------------------------------------

    async def _find_events(self, room: FetchRoom, need: NeedEvents) -> list[Event]:
        """Stored ones first, the rest side by side."""
        found: list[Event] = await self._database.read(
            _load_stored, room.room_nid, need.event_ids, self._events
        )
        here = {event.event_id for event in found}
        places = DeferredSemaphore(PARALLEL)

        def begin(event_id: EventId) -> Deferred[Event | None]:
            return Deferred.fromCoroutine(self._find_event(room, event_id, need.limits))

        waiting = [places.run(begin, event_id) for event_id in need.event_ids if event_id not in here]
        return [*found, *(event for event in await all_of(waiting) if event is not None)]

    async def _find_event(self, room: FetchRoom, event_id: EventId, limits: Limits) -> Event | None:
        key = (room.room_nid, NeedEvents, event_id)
        try:
            found: Event | None = await self._shared.get(key, lambda: self._ask_event(room, event_id, limits))
        except Busy:
            return None
        return found

    async def _ask_event(self, room: FetchRoom, event_id: EventId, limits: Limits) -> Event | None:
        """From the first server that has it. (One that does not answer is not insisted on, so it is asked once.)"""
        for server in room.servers[: limits.servers]:
            try:
                answer = await self._client.ask(
                    server,
                    "GET",
                    build_uri(f"{FEDERATION}/event", event_id),
                    timeout_s=limits.timeout_s,
                    max_bytes=_EVENT_BYTES,
                    insist=False,
                )
                for event in await self._check(room, _list(answer, "pdus")[:1]):
                    if event.event_id == event_id:
                        return event
            except (RemoteError, Unreachable, Malformed):
                continue
        return None


def nothing(need: RoomNeed) -> Any:
    """The answer that says that there is none."""
    return None if isinstance(need, NeedStateIds) else ()


def _limits(need: RoomNeed) -> Limits:
    assert not isinstance(need, NeedKnown)
    return need.limits


def _subject(need: RoomNeed) -> tuple[object, ...]:
    if isinstance(need, NeedMissing):
        return (need.earliest, need.latest, need.count)
    if isinstance(need, NeedBackfill):
        return (need.event_ids, need.count)
    assert isinstance(need, NeedStateIds | NeedState | NeedAuthChain)
    return (need.event_id,)


def _list(answer: dict[str, Any], name: str) -> list[Any]:
    found = answer.get(name)
    if type(found) is not list:
        raise Malformed(f"{name} is no list")
    return found


def _ids(answer: dict[str, Any], name: str) -> tuple[EventId, ...]:
    return tuple(parse_event_id(one) for one in _list(answer, name))


def _load_known(tx: Tx, room_nid: int, event_ids: Sequence[EventId]) -> Known:
    rows = [row for row in find_rows(tx, event_ids).values() if row.room_nid == room_nid]
    return Known(
        frozenset(EventId(row.event_id) for row in rows),
        frozenset(EventId(row.event_id) for row in rows if row.state_before is not None),
    )


def _load_stored(tx: Tx, room_nid: int, event_ids: Sequence[EventId], cache: EventCache) -> list[Event]:
    rows = find_rows(tx, event_ids).values()
    nids = [row.nid for row in rows if row.room_nid == room_nid]
    return list(load_events(tx, nids, cache).values())
