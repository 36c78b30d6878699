"""Jumping to a date that lies in history which only other servers have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from twisted.internet.defer import Deferred

from federation.event import Event
from homeserver.http.transport import PeerRequest, PeerResponse
from homeserver.rooms.federated.moments import WAIT_S
from tests.api.rooms import V3
from tests.api.test_backfill import BACKFILL, HistoryCase
from tests.support.databases import on_each_database
from tests.support.peer import FEDERATION, random_id
from tests.support.peer_rooms import PeerRoom

MOMENT = ("GET", f"{FEDERATION}/timestamp_to_event/")


@on_each_database
class Moments(HistoryCase):
    """``/timestamp_to_event`` of a room that the peer knows better than we."""

    def setUp(self) -> None:
        super().setUp()
        self.there = self.room(300)
        self.room_id = self.adopt(self.there)
        self.said = [one for one in self.there.events.values() if one.type == "m.room.message"]
        self.peer.answers[MOMENT] = self.honest(self.there)

    def honest(self, room: PeerRoom) -> Callable[[PeerRequest], Any]:
        """What the peer knows of its room."""

        def answer(request: PeerRequest) -> Any:
            query = parse_qs(urlsplit(request.uri).query)
            ts_ms, backwards = int(query["ts"][0]), query["dir"] == ["b"]
            events = sorted(room.events.values(), key=lambda one: one.origin_server_ts, reverse=backwards)
            for event in events:
                if (event.origin_server_ts <= ts_ms) if backwards else (event.origin_server_ts >= ts_ms):
                    return {"event_id": event.event_id, "origin_server_ts": event.origin_server_ts}
            return PeerResponse(404, b'{"errcode":"M_NOT_FOUND","error":"none"}')

        return answer

    def find(self, ts_ms: int, direction: str) -> tuple[int, Any]:
        path = f"/_matrix/client/v1/rooms/{quote(self.room_id)}/timestamp_to_event"
        return self.app.call("GET", path, None, self.alice, {"ts": ts_ms, "dir": direction})

    def assert_found(self, event: Event, ts_ms: int, direction: str) -> None:
        wanted = {"event_id": event.event_id, "origin_server_ts": event.origin_server_ts}
        self.assertEqual((200, wanted), self.find(ts_ms, direction))

    @property
    def newest(self) -> Event:
        return self.there.events[self.there.head[0]]

    def test_found_and_fetched_with_what_lies_between(self) -> None:
        wanted = self.said[120]
        self.assert_found(wanted, wanted.origin_server_ts - 500, "f")
        self.assert_found(wanted, wanted.origin_server_ts + 500, "b")
        context = self.app.ok(
            "GET",
            f"{V3}/rooms/{quote(self.room_id)}/context/{quote(wanted.event_id)}",
            None,
            self.alice,
            {"limit": 6},
        )
        self.assertEqual([one.event_id for one in self.said[119:116:-1]], self.ids(context["events_before"]))
        self.assertEqual([one.event_id for one in self.said[121:124]], self.ids(context["events_after"]))

    def test_what_is_near_enough_here_is_not_asked_for(self) -> None:
        self.page(self.room_id, 250)
        asked = len(self.peer.asked)
        self.assert_found(self.newest, self.newest.origin_server_ts, "b")
        self.assert_found(self.said[290], self.said[290].origin_server_ts - 1, "f")
        self.assertEqual(404, self.find(2**50, "f")[0])
        self.assertEqual(asked, len(self.peer.asked))

    def test_before_everything(self) -> None:
        first = next(iter(self.there.events.values()))
        self.assert_found(first, 0, "f")
        self.assertEqual(404, self.find(0, "b")[0])

    def test_lies(self) -> None:
        wanted = self.said[120]
        ts_ms = wanted.origin_server_ts - 500
        elsewhere = self.further_peer("elsewhere.example").create().head[0]
        lies: list[Any] = [
            {},
            {"event_id": 1, "origin_server_ts": ts_ms},
            {"event_id": "no id", "origin_server_ts": ts_ms},
            {"event_id": "$\0", "origin_server_ts": ts_ms},
            {"event_id": random_id("none"), "origin_server_ts": ts_ms},
            {"event_id": elsewhere, "origin_server_ts": ts_ms},
            # On the wrong side, whatever it says.
            {"event_id": self.said[100].event_id, "origin_server_ts": ts_ms + 1},
            PeerResponse(200, b"[]"),
            PeerResponse(500, b""),
            PeerResponse(404, b'{"errcode":"M_NOT_FOUND","error":"none"}'),
        ]
        for lie in lies:
            self.peer.answers[MOMENT] = lie
            self.assert_found(self.newest, ts_ms, "f")
        self.assertEqual(0, self.backfills(), "nobody has us fetch history for a lie")

    def test_who_waits_too_long_gets_what_is_here(self) -> None:
        gate: Deferred[Any] = Deferred()
        self.peer.answers[BACKFILL] = gate
        path = f"/_matrix/client/v1/rooms/{quote(self.room_id)}/timestamp_to_event"
        query: dict[str, str | int] = {"ts": self.said[0].origin_server_ts, "dir": "f"}
        waiting = self.app.start("GET", path, None, self.alice, query)
        self.app.advance(0)
        self.app.advance(WAIT_S)
        self.assertEqual(self.newest.event_id, self.app.wait(waiting).json["event_id"])
        gate.callback({"pdus": []})

    def test_a_peer_that_is_away(self) -> None:
        self.peer.reachable = False
        self.assert_found(self.newest, self.said[0].origin_server_ts, "f")
        self.assertEqual(404, self.find(self.said[0].origin_server_ts, "b")[0])
