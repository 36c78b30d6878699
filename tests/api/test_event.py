"""GET /event: one event, or not found for every reason."""

from __future__ import annotations

from tests.api.talk import TalkCase
from tests.support.databases import on_each_database


@on_each_database
class OneEvent(TalkCase):
    """See the module."""

    def test_event(self) -> None:
        room_id = self.make_room(joined=("bob",))
        event_id = self.say("alice", room_id, "hello")
        for name in ("alice", "bob"):
            event = self.ok(name, self.path(room_id, "event", event_id))
            self.assertEqual((event_id, room_id), (event["event_id"], event["room_id"]))
            self.assertEqual("hello", event["content"]["body"])
            self.assertEqual(name == "alice", "transaction_id" in event["unsigned"])

    def test_not_found(self) -> None:
        room_id, other = self.make_room(visibility="joined"), self.make_room()
        event_id, elsewhere = self.say("alice", room_id, "a"), self.say("alice", other, "b")
        for name, where, which in (
            ("alice", room_id, "$none"),
            ("alice", room_id, elsewhere),
            ("bob", room_id, event_id),
            ("bob", "!none:test.example", event_id),
        ):
            answer = self.get(name, self.path(where, "event", which))
            self.assert_refused(answer, 404, "M_NOT_FOUND")
        self.join("bob", room_id)
        self.assert_refused(self.get("bob", self.path(room_id, "event", event_id)), 404, "M_NOT_FOUND")
        self.assert_refused(self.get("bob", self.path(room_id, "event", "none")), 400, "M_INVALID_PARAM")

    def test_after_leaving(self) -> None:
        room_id = self.make_room(joined=("bob",))
        seen = self.say("alice", room_id, "a")
        self.leave("bob", room_id)
        unseen = self.say("alice", room_id, "b")
        self.assertEqual("a", self.ok("bob", self.path(room_id, "event", seen))["content"]["body"])
        self.assert_refused(self.get("bob", self.path(room_id, "event", unseen)), 404, "M_NOT_FOUND")

    def test_queries(self) -> None:
        room_id = self.make_room(visibility="shared")
        event_id = self.say("alice", room_id, "hello")
        self.ok("alice", self.path(room_id, "event", event_id))
        with self.statements() as asked:
            self.ok("alice", self.path(room_id, "event", event_id))
        # The event, and what relates to it.
        self.assertEqual(2, len(asked), asked)
