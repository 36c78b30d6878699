"""The event nearest to a moment, where another server knows a nearer one than we: found there, and fetched with what
lies between.

The other server's word is a hint. The event itself is fetched and checked first, so that nobody has us fetch history
for a lie; then history is fetched page by page until the event has its place in it.

# spec: server-server-api#get_matrixfederationv1timestamp_to_eventroomid
"""

from __future__ import annotations

from federation.errors import Malformed, RemoteError
from federation.event import Event
from federation.flows.needs import Limits, NeedEvents
from federation.ids import EventId, ServerName, parse_event_id
from homeserver.http.transport import Unreachable, build_uri
from homeserver.peers.types import PeerClient
from homeserver.rooms.federated.backfill import Backfills, Fetcher
from homeserver.rooms.federated.fetching import FetchRoom
from homeserver.runtime.clock import Clock

# How long a reader waits.
WAIT_S = 10.0
_SERVERS_MOST = 3
_ANSWER_BYTES = 64 * 1024
_ANSWER_S = 5.0
_LIMITS = Limits(1024 * 1024, _ANSWER_S, 1)


class Moments:
    """See the module."""

    def __init__(self, client: PeerClient, fetcher: Fetcher, backfills: Backfills, clock: Clock) -> None:
        self._client = client
        self._fetcher = fetcher
        self._backfills = backfills
        self._clock = clock

    async def bring(
        self, room_id: str, room_nid: int, ts_ms: int, best_ms: int | None, *, backwards: bool
    ) -> bool:
        """Bring in an event nearer to a moment than one at ``best_ms``: whether it makes sense to look again."""
        if not self._backfills.may(room_nid):
            return False
        until_s = self._clock.monotonic() + WAIT_S
        room = await self._backfills.room(room_id, room_nid)
        event = await self._find(room, ts_ms, best_ms, backwards=backwards)
        if event is None:
            return False
        await self._backfills.reach(room, event.event_id, until_s)
        return True

    async def _find(
        self, room: FetchRoom, ts_ms: int, best_ms: int | None, *, backwards: bool
    ) -> Event | None:
        """The nearest event of the first server that has one nearer than ours."""
        for server in room.servers[:_SERVERS_MOST]:
            event_id = await self._ask(server, room, ts_ms, backwards=backwards)
            if event_id is None:
                continue
            asked = FetchRoom(room.room_nid, room.room_id, room.rules, (server,))
            found: list[Event] = await self._fetcher.answer(asked, NeedEvents((event_id,), _LIMITS))
            for event in found:
                if _is_nearer(event.origin_server_ts, ts_ms, best_ms, backwards=backwards):
                    return event
        return None

    async def _ask(
        self, server: ServerName, room: FetchRoom, ts_ms: int, *, backwards: bool
    ) -> EventId | None:
        uri = build_uri(
            "/_matrix/federation/v1/timestamp_to_event",
            room.room_id,
            query={"ts": ts_ms, "dir": "b" if backwards else "f"},
        )
        try:
            answer = await self._client.ask(
                server, "GET", uri, timeout_s=_ANSWER_S, max_bytes=_ANSWER_BYTES, insist=False
            )
            return parse_event_id(answer.get("event_id", ""))
        except (RemoteError, Unreachable, Malformed):
            return None


def _is_nearer(found_ms: int, ts_ms: int, best_ms: int | None, *, backwards: bool) -> bool:
    """Whether an event is on the right side of a moment, and nearer to it than the best so far."""
    if backwards:
        return found_ms <= ts_ms and (best_ms is None or found_ms > best_ms)
    return found_ms >= ts_ms and (best_ms is None or found_ms < best_ms)
