"""GET /timestamp_to_event: the event nearest to a moment."""

from __future__ import annotations

from typing import Any

from tests.api.talk import TalkCase
from tests.support.app import START_S
from tests.support.databases import on_each_database

START_MS = int(START_S * 1000)


@on_each_database
class Timestamp(TalkCase):
    """See the module."""

    def find(self, name: str, room_id: str, ts: Any, direction: Any) -> tuple[int, Any]:
        path = self.path(room_id, "timestamp_to_event").replace("/v3/", "/v1/")
        return self.get(name, path, ts=ts, dir=direction)

    def test_both_directions(self) -> None:
        room_id = self.make_room()
        self.app.advance(10)
        ids = [self.say("alice", room_id, str(number)) for number in range(5)]
        first = START_MS + 10_000
        for ts, direction, expected in (
            (first + 1_500, "f", 2),
            (first + 1_500, "b", 1),
            (first + 1_000, "f", 1),
            (first + 1_000, "b", 1),
            (first + 99_000, "b", 4),
            (START_MS + 1, "f", 0),
        ):
            status, json = self.find("alice", room_id, ts, direction)
            answer = {"event_id": ids[expected], "origin_server_ts": first + 1_000 * expected}
            self.assertEqual((200, answer), (status, json), (ts, direction))

    def test_of_one_moment(self) -> None:
        room_id = self.make_room()
        create = self.ok("alice", self.path(room_id, "state", "m.room.create"), format="event")
        rules = self.ok("alice", self.path(room_id, "state", "m.room.join_rules"), format="event")
        self.assertEqual(create["event_id"], self.find("alice", room_id, 0, "f")[1]["event_id"])
        self.assertEqual(rules["event_id"], self.find("alice", room_id, START_MS, "b")[1]["event_id"])

    def test_not_found(self) -> None:
        room_id = self.make_room()
        self.assert_refused(self.find("alice", room_id, START_MS + 1, "f"), 404, "M_NOT_FOUND")
        self.assert_refused(self.find("alice", room_id, START_MS - 1, "b"), 404, "M_NOT_FOUND")

    def test_what_may_not_be_seen_is_passed_over(self) -> None:
        room_id = self.make_room(visibility="joined")
        for number in range(60):
            self.say("alice", room_id, str(number))
        joined = self.join("bob", room_id)
        found = self.find("bob", room_id, START_MS + 500, "f")
        self.assertEqual(joined, found[1]["event_id"])

    def test_refusals(self) -> None:
        room_id = self.make_room()
        self.assert_refused(self.find("bob", room_id, 0, "f"), 403, "M_FORBIDDEN")
        self.assert_refused(self.find("alice", room_id, 0, "x"), 400, "M_INVALID_PARAM")
        self.assert_refused(self.find("alice", room_id, "soon", "f"), 400, "M_INVALID_PARAM")
        self.assert_refused(self.find("alice", room_id, 2**63, "f"), 400, "M_INVALID_PARAM")
        path = self.path(room_id, "timestamp_to_event").replace("/v3/", "/v1/")
        self.assert_refused(self.get("alice", path, dir="f"), 400, "M_MISSING_PARAM")
        self.assert_refused(self.get("alice", path, ts=1), 400, "M_MISSING_PARAM")
