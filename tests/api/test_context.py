"""GET /context: what happened around an event."""

from __future__ import annotations

import json as stdlib_json
from typing import Any

from tests.api.talk import TalkCase, user
from tests.support.databases import on_each_database


@on_each_database
class Context(TalkCase):
    """See the module."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.make_room(joined=("bob",))
        self.ids = [self.say("alice", self.room_id, str(number)) for number in range(20)]

    def context(self, name: str, event_id: str, **query: Any) -> Any:
        return self.ok(name, self.path(self.room_id, "context", event_id), **query)

    def test_both_sides(self) -> None:
        answer = self.context("bob", self.ids[10], limit=5)
        self.assertEqual(["9", "8"], self.bodies(answer["events_before"]))
        self.assertEqual("10", answer["event"]["content"]["body"])
        self.assertEqual(["11", "12", "13"], self.bodies(answer["events_after"]))
        self.assertEqual(5, len(answer["state"]))
        before = self.page("bob", self.room_id, limit=2, **{"from": answer["start"]})
        self.assertEqual(["7", "6"], self.bodies(before["chunk"]))
        after = self.page("bob", self.room_id, dir="f", limit=2, **{"from": answer["end"]})
        self.assertEqual(["14", "15"], self.bodies(after["chunk"]))

    def test_limits(self) -> None:
        default = self.context("bob", self.ids[10])
        self.assertEqual((5, 5), (len(default["events_before"]), len(default["events_after"])))
        none = self.context("bob", self.ids[10], limit=0)
        self.assertEqual(([], []), (none["events_before"], none["events_after"]))
        self.assertEqual("10", none["event"]["content"]["body"])
        before = self.page("bob", self.room_id, limit=1, **{"from": none["start"]})
        self.assertEqual(["9"], self.bodies(before["chunk"]))
        after = self.page("bob", self.room_id, dir="f", limit=1, **{"from": none["end"]})
        self.assertEqual(["11"], self.bodies(after["chunk"]))

    def test_the_ends_of_a_room(self) -> None:
        last = self.context("bob", self.ids[-1])
        self.assertEqual([], last["events_after"])
        later = self.say("alice", self.room_id, "later")
        after = self.page("bob", self.room_id, dir="f", **{"from": last["end"]})
        self.assertEqual([later], [event["event_id"] for event in after["chunk"]])
        create = self.ok("bob", self.path(self.room_id, "state", "m.room.create"), format="event")
        first = self.context("bob", create["event_id"])
        self.assertEqual([], first["events_before"])
        self.assertEqual([], self.page("bob", self.room_id, **{"from": first["start"]})["chunk"])

    def test_state_is_that_of_the_last_event(self) -> None:
        self.set_state("alice", self.room_id, "m.room.topic", {"topic": "later"})
        types = {event["type"] for event in self.context("bob", self.ids[3])["state"]}
        self.assertNotIn("m.room.topic", types)
        types = {event["type"] for event in self.context("bob", self.ids[-1])["state"]}
        self.assertIn("m.room.topic", types)

    def test_filter(self) -> None:
        self.say("bob", self.room_id, "from bob")
        wanted = stdlib_json.dumps({"senders": [user("bob")]})
        answer = self.context("bob", self.ids[-1], filter=wanted)
        self.assertEqual(["from bob"], self.bodies(answer["events_after"]))
        self.assertEqual([user("bob")], [event["sender"] for event in answer["events_before"]])
        self.assertEqual("19", answer["event"]["content"]["body"])
        lazy = self.context("bob", self.ids[10], filter=stdlib_json.dumps({"lazy_load_members": True}))
        members = [event["state_key"] for event in lazy["state"] if event["type"] == "m.room.member"]
        self.assertEqual([user("alice")], members)

    def test_refusals(self) -> None:
        self.add("carol")
        answer = self.get("carol", self.path(self.room_id, "context", self.ids[0]))
        self.assert_refused(answer, 403, "M_FORBIDDEN")
        self.assert_refused(self.get("bob", self.path(self.room_id, "context", "$no")), 404, "M_NOT_FOUND")
        hidden = self.make_room(visibility="joined")
        event_id = self.say("alice", hidden, "x")
        self.join("bob", hidden)
        self.assert_refused(self.get("bob", self.path(hidden, "context", event_id)), 404, "M_NOT_FOUND")
        bad = self.get("bob", self.path(self.room_id, "context", self.ids[0]), limit="-2")
        self.assert_refused(bad, 400, "M_INVALID_PARAM")
