"""What other servers read of our history: backfill, missing events, single events, moments."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from federation.event import Event, parse_untrusted
from federation.hashes import check_content_hash
from federation.ids import EventId
from federation.versions import ROOM_VERSIONS
from homeserver.db.tx import Tx
from homeserver.store.walks import walk_by_breadth, walk_by_depth
from tests.api.peers import PeerCase
from tests.api.rooms import ALICE, V3
from tests.support.databases import on_each_database
from tests.support.peer import random_id


def path_of(kind: str, *segments: str) -> str:
    """``kind/segment/segment``, percent-encoded."""
    return "/".join([kind, *(quote(one, safe="") for one in segments)])


@on_each_database
class Backfill(PeerCase):
    """``GET /backfill``."""

    def backfill(self, room_id: str, *starts: str, limit: int = 10, **more: Any) -> list[Event]:
        answer = self.answer_of(path_of("backfill", room_id), v=list(starts), limit=limit, **more)
        self.assertEqual({"origin", "origin_server_ts", "pdus"}, set(answer))
        self.assertEqual("test.example", answer["origin"])
        return [parse_untrusted(one, self.rules(room_id)) for one in answer["pdus"]]

    def rules(self, room_id: str) -> Any:
        version = self.state(room_id, "m.room.create").get("room_version", "1")
        return ROOM_VERSIONS[version]

    def test_newest_first_with_the_starts(self) -> None:
        for version in ("1", "3", "6", "10", "11", "12"):
            room_id = self.shared_room(room_version=version)
            said = [self.say(room_id, str(number)) for number in range(5)]
            found = self.backfill(room_id, said[-1], limit=3)
            self.assertEqual(said[:1:-1], [one.event_id for one in found], version)
            everything = self.backfill(room_id, said[-1], limit=100)
            self.assertEqual(
                [one.event_id for one in self.events(room_id)][::-1], [one.event_id for one in everything]
            )
            for event in everything:
                self.assertTrue(check_content_hash(event.json, event.rules))
                self.assertNotIn("unsigned", event.json)

    def test_bounds(self) -> None:
        room_id = self.shared_room()
        last = [self.say(room_id, str(number)) for number in range(120)][-1]
        self.assertEqual(100, len(self.backfill(room_id, last, limit=10_000)))
        path = path_of("backfill", room_id)
        self.assert_refused(self.ask(path, limit=5), 400, "M_MISSING_PARAM")
        self.assert_refused(self.ask(path, v=last), 400, "M_MISSING_PARAM")
        self.assert_refused(self.ask(path, v=last, limit=0), 400, "M_INVALID_PARAM")
        self.assert_refused(self.ask(path, v=last, limit="many"), 400, "M_INVALID_PARAM")
        self.assert_refused(self.ask(path, v="no id", limit=5), 400, "M_INVALID_PARAM")

    def test_unknown_events_and_those_of_other_rooms_are_no_starts(self) -> None:
        room_id, other = self.shared_room(), self.shared_room()
        elsewhere = self.say(other, "secret")
        self.assertEqual([], self.backfill(room_id, elsewhere, random_id("nothing")))

    def test_who_may_not(self) -> None:
        room_id = self.shared_room()
        event_id = self.say(room_id, "hi")
        path = path_of("backfill", room_id)
        self.assert_refused(self.ask(path, self.stranger, v=event_id, limit=5), 403, "M_FORBIDDEN")
        unknown = path_of("backfill", "!unknown:test.example")
        self.assert_refused(self.ask(unknown, v=event_id, limit=5), 403, "M_FORBIDDEN")
        self.place(room_id, ALICE, "m.room.server_acl", {"allow": ["*"], "deny": ["peer.*"]}, "")
        self.assert_refused(self.ask(path, v=event_id, limit=5), 403, "M_FORBIDDEN")
        self.place(room_id, ALICE, "m.room.server_acl", {"allow": ["*"]}, "")
        self.assertEqual(1, len(self.backfill(room_id, event_id, limit=1)))
        self.come(room_id, self.mallory, "leave")
        self.assert_refused(self.ask(path, v=event_id, limit=5), 403, "M_FORBIDDEN")

    def test_a_server_whose_name_ends_another_is_another(self) -> None:
        room_id = self.create(preset="public_chat")
        self.come(room_id, "@mallory:evil.peer.example")
        self.come(room_id, "@mallory:peer.example:8448")
        event_id = self.say(room_id, "hi")
        self.assert_refused(self.ask(path_of("backfill", room_id), v=event_id, limit=5), 403, "M_FORBIDDEN")

    def test_what_the_server_may_not_see_is_redacted(self) -> None:
        room_id = self.create(
            preset="public_chat",
            initial_state=[
                {
                    "type": "m.room.history_visibility",
                    "state_key": "",
                    "content": {"history_visibility": "joined"},
                }
            ],
        )
        before = self.say(room_id, "before")
        invite = self.place(room_id, ALICE, "m.room.member", {"membership": "invite"}, self.mallory)
        invited = self.say(room_id, "invited")
        joined = self.come(room_id, self.mallory)
        during = self.say(room_id, "during")
        found = {one.event_id: one for one in self.backfill(room_id, during, limit=50)}
        bodies = [found[EventId(one)].content.get("body") for one in (before, invited, during)]
        self.assertEqual([None, None, "during"], bodies)
        self.assertEqual("invite", found[EventId(invite)].content["membership"])
        self.assertEqual("join", found[EventId(joined)].content["membership"])
        self.assertEqual(len(self.events(room_id)), len(found), "the graph stays whole")

    def test_invited_visibility(self) -> None:
        room_id = self.create(
            preset="public_chat",
            initial_state=[
                {
                    "type": "m.room.history_visibility",
                    "state_key": "",
                    "content": {"history_visibility": "invited"},
                }
            ],
        )
        before = self.say(room_id, "before")
        self.place(room_id, ALICE, "m.room.member", {"membership": "invite"}, self.mallory)
        invited = self.say(room_id, "invited")
        self.come(room_id, self.mallory)
        changed = self.place(
            room_id, ALICE, "m.room.history_visibility", {"history_visibility": "shared"}, ""
        )
        found = {one.event_id: one for one in self.backfill(room_id, changed, limit=50)}
        bodies = [found[EventId(one)].content.get("body") for one in (before, invited)]
        self.assertEqual([None, "invited"], bodies)

    def test_redacted_events_travel_redacted(self) -> None:
        room_id = self.shared_room()
        event_id = self.say(room_id, "a slip")
        path = f"{V3}/rooms/{quote(room_id)}/redact/{quote(event_id)}/1"
        redaction = self.app.ok("PUT", path, {}, self.alice)["event_id"]
        found = self.backfill(room_id, redaction, limit=2)
        self.assertEqual([redaction, event_id], [one.event_id for one in found])
        self.assertEqual({}, found[1].content)

    def test_rejected_events_are_walked_through_and_never_shown(self) -> None:
        room_id = self.shared_room()
        said = [self.say(room_id, str(number)) for number in range(3)]
        with self.rejected(said[1]):
            found = self.backfill(room_id, said[2], limit=3)
        self.assertEqual([said[2], said[0]], [one.event_id for one in found][:2])

    def test_statements(self) -> None:
        room_id = self.shared_room()
        last = [self.say(room_id, str(number)) for number in range(150)][-1]
        self.backfill(room_id, last, limit=100)
        counted = self.count(lambda: self.backfill(room_id, last, limit=100))
        # The room, the starts, and all before them; who is in the room is known.
        self.assertEqual([3], [number for _, number in counted.units], str(counted))


@on_each_database
class Missing(PeerCase):
    """``POST /get_missing_events``."""

    def missing(self, room_id: str, latest: list[str], earliest: list[str], **more: Any) -> list[str]:
        body = {"latest_events": latest, "earliest_events": earliest, **more}
        events = self.answer_of(path_of("get_missing_events", room_id), content=body)["events"]
        return [parse_untrusted(one, ROOM_VERSIONS["11"]).event_id for one in events]

    def test_what_lies_between_oldest_first(self) -> None:
        room_id = self.shared_room(room_version="11")
        said: list[str] = [self.say(room_id, str(number)) for number in range(30)]
        self.assertEqual(said[6:9], self.missing(room_id, [said[9]], [said[5]]))
        self.assertEqual(said[19:29], self.missing(room_id, [said[29]], []), "ten unless it says more")
        self.assertEqual(said[9:29], self.missing(room_id, [said[29]], [], limit=20))
        for number in range(30):
            said.append(self.say(room_id, f"more {number}"))
        self.assertEqual(said[9:59], self.missing(room_id, [said[59]], [], limit=10**9))
        self.assertEqual([], self.missing(room_id, [said[29]], [], limit=0))
        self.assertEqual([], self.missing(room_id, [said[29]], [], limit=-5))

    def test_depth(self) -> None:
        room_id = self.shared_room(room_version="11")
        said: list[str] = [self.say(room_id, str(number)) for number in range(5)]
        depths = {one.event_id: one.depth for one in self.events(room_id)}
        asked = {"min_depth": depths[EventId(said[2])], "limit": 20}
        self.assertEqual(said[2:4], self.missing(room_id, [said[4]], [], **asked))
        self.assertEqual([], self.missing(room_id, [said[4]], [], min_depth=2**53))

    def test_hostile_bodies(self) -> None:
        room_id = self.shared_room()
        said = self.say(room_id, "hi")
        path = path_of("get_missing_events", room_id)
        good = {"latest_events": [said], "earliest_events": []}
        for wrong in (
            {"latest_events": [said]},
            {**good, "latest_events": said},
            {**good, "latest_events": [1]},
            {**good, "limit": "ten"},
            {**good, "limit": None},
            {**good, "min_depth": 1.5},
            {**good, "latest_events": ["$x"] * 1_001},
        ):
            self.assert_refused(self.ask(path, content=wrong), 400, "M_BAD_JSON")
        self.assert_refused(self.ask(path, content=b"{"), 400, "M_NOT_JSON")
        self.assertEqual([], self.missing(room_id, ["$\0", "", "x" * 70_000, random_id("a")], ["\0"]))
        self.assert_refused(self.ask(path, self.stranger, content=good), 403, "M_FORBIDDEN")

    def test_statements(self) -> None:
        room_id = self.shared_room(room_version="11")
        said = [self.say(room_id, str(number)) for number in range(60)]
        self.missing(room_id, [said[-1]], [said[0]], limit=50)
        counted = self.count(lambda: self.missing(room_id, [said[-1]], [said[0]], limit=50))
        self.assertEqual([3], [number for _, number in counted.units], str(counted))

    def test_cycles_end(self) -> None:
        # Ids of version 1 are chosen by senders, so events can cite each other in a circle.
        room_id = self.shared_room(room_version="1")
        said = [self.say(room_id, str(number)) for number in range(3)]
        last = next(one for one in self.events(room_id) if one.event_id == said[2])
        parents = [[last.event_id, {"sha256": last.reference().sha256}]]
        room_nid = self.app.app.core.interner.known_room(room_id)
        assert room_nid is not None

        def walk(tx: Tx) -> tuple[list[str], list[str]]:
            deep = walk_by_depth(tx, room_nid, [said[2]], 50)
            broad = walk_by_breadth(tx, room_nid, [said[2]], [], 50, 0)
            return [one.event_id for one in deep], [one.event_id for one in broad]

        def change(text: str) -> str:
            return json.dumps({**json.loads(text), "prev_events": parents})

        with self.rewritten(said[0], change):
            found = self.app.wait(self.app.database.read(walk))
        self.assertEqual((said[::-1], said[1::-1]), found)


@on_each_database
class OneEvent(PeerCase):
    """``GET /event``."""

    def test_found(self) -> None:
        room_id = self.shared_room(room_version="11")
        event_id = self.say(room_id, "hi")
        answer = self.answer_of(path_of("event", event_id))
        self.assertEqual(["hi"], [one["content"]["body"] for one in answer["pdus"]])
        self.assertEqual(event_id, parse_untrusted(answer["pdus"][0], ROOM_VERSIONS["11"]).event_id)

    def test_refused(self) -> None:
        room_id = self.shared_room()
        event_id = self.say(room_id, "hi")
        self.assert_refused(self.ask(path_of("event", random_id("none"))), 404, "M_NOT_FOUND")
        self.assert_refused(self.ask(path_of("event", event_id), self.stranger), 403, "M_FORBIDDEN")
        self.assert_refused(self.ask(path_of("event", "no id")), 400, "M_INVALID_PARAM")

    def test_a_rejected_event_is_none(self) -> None:
        room_id = self.shared_room()
        event_id = self.say(room_id, "hi")
        with self.rejected(event_id):
            self.assert_refused(self.ask(path_of("event", event_id)), 404, "M_NOT_FOUND")
        self.assertEqual("hi", self.answer_of(path_of("event", event_id))["pdus"][0]["content"]["body"])

    def test_a_server_outside_sees_what_everybody_may_read(self) -> None:
        room_id = self.shared_room("world_readable")
        readable = self.say(room_id, "to all")
        self.place(room_id, ALICE, "m.room.history_visibility", {"history_visibility": "shared"}, "")
        closed = self.say(room_id, "to us")
        answer = self.answer_of(path_of("event", readable), self.stranger)
        self.assertEqual("to all", answer["pdus"][0]["content"]["body"])
        self.assert_refused(self.ask(path_of("event", closed), self.stranger), 403, "M_FORBIDDEN")
        self.place(room_id, ALICE, "m.room.server_acl", {"allow": ["*.example"], "deny": ["stranger.*"]}, "")
        self.assert_refused(self.ask(path_of("event", readable), self.stranger), 403, "M_FORBIDDEN")

    def test_a_server_that_left_sees_what_it_saw(self) -> None:
        room_id = self.shared_room("joined")
        during = self.say(room_id, "during")
        self.come(room_id, self.mallory, "leave")
        after = self.say(room_id, "after")
        self.assertEqual("during", self.answer_of(path_of("event", during))["pdus"][0]["content"]["body"])
        self.assert_refused(self.ask(path_of("event", after)), 403, "M_FORBIDDEN")

    def test_what_a_resident_may_not_see_it_gets_redacted(self) -> None:
        room_id = self.create(
            preset="public_chat",
            initial_state=[
                {
                    "type": "m.room.history_visibility",
                    "state_key": "",
                    "content": {"history_visibility": "joined"},
                }
            ],
        )
        before = self.say(room_id, "before")
        self.come(room_id, self.mallory)
        self.assertEqual({}, self.answer_of(path_of("event", before))["pdus"][0]["content"])


@on_each_database
class Moments(PeerCase):
    """``GET /timestamp_to_event``."""

    def test_nearest(self) -> None:
        room_id = self.shared_room("joined")
        self.app.advance(10)
        first = self.say(room_id, "first")
        self.app.advance(10)
        second = self.say(room_id, "second")
        times = {one.event_id: one.origin_server_ts for one in self.events(room_id)}
        path = path_of("timestamp_to_event", room_id)
        middle = times[EventId(first)] + 5_000
        for direction, event_id in (("b", first), ("f", second)):
            answer = self.answer_of(path, ts=middle, dir=direction)
            self.assertEqual({"event_id": event_id, "origin_server_ts": times[EventId(event_id)]}, answer)
        self.assert_refused(self.ask(path, ts=2**50, dir="f"), 404, "M_NOT_FOUND")
        self.assert_refused(self.ask(path, ts=middle, dir="x"), 400, "M_INVALID_PARAM")
        self.assert_refused(self.ask(path, dir="f"), 400, "M_MISSING_PARAM")
        self.assert_refused(self.ask(path, self.stranger, ts=middle, dir="f"), 403, "M_FORBIDDEN")

    def test_what_the_server_may_not_see_is_not_named(self) -> None:
        room_id = self.create(
            preset="public_chat",
            initial_state=[
                {
                    "type": "m.room.history_visibility",
                    "state_key": "",
                    "content": {"history_visibility": "joined"},
                }
            ],
        )
        self.app.advance(10)
        for number in range(60):
            self.say(room_id, str(number))
        joined = self.come(room_id, self.mallory)
        start_ms = self.events(room_id)[-1].origin_server_ts
        found = self.answer_of(path_of("timestamp_to_event", room_id), ts=start_ms, dir="f")
        self.assertEqual(joined, found["event_id"])
