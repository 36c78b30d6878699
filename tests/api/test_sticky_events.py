"""Sticky events. spec: https://github.com/matrix-org/matrix-spec-proposals/pull/4354"""

from __future__ import annotations

from typing import Any

from homeserver.stream import sticky as stream
from tests.api.talk import TalkCase, user
from tests.support.databases import on_each_database

ARGUMENT = "org.matrix.msc4354.sticky_duration_ms"
DELAY = "org.matrix.msc4140.delay"
SYNC = "/_matrix/client/v3/sync"
SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
HOUR_MS = 3_600_000


@on_each_database
class StickyTests(TalkCase):
    """Alice sticks, bob syncs."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.make_room(joined=("bob",))

    def stick(
        self,
        body: str = "here",
        duration_ms: Any = HOUR_MS,
        name: str = "alice",
        event_type: str = "org.matrix.msc4143.rtc.member",
        **query: str,
    ) -> tuple[int, Any]:
        self._texts += 1
        path = self.path(self.room_id, "send", event_type, f"s{self._texts}")
        content = {"body": body, "msc4354_sticky_key": "DEVICE"}
        return self.app.call("PUT", path, content, self.tokens[name], {ARGUMENT: str(duration_ms), **query})

    def stuck(self, *args: Any, **more: Any) -> str:
        status, json = self.stick(*args, **more)
        self.assertEqual(200, status, json)
        event_id: str = json["event_id"]
        return event_id

    def sync(self, name: str = "bob", since: str | None = None, limit: int = 5, **more: Any) -> Any:
        filter_ = f'{{"room":{{"timeline":{{"limit":{limit}}}}}}}'
        query = {"filter": more.pop("filter", filter_), **more}
        return self.ok(name, SYNC, **query, **({"since": since} if since else {}))

    def section(self, answer: Any) -> list[Any]:
        room = answer.get("rooms", {}).get("join", {}).get(self.room_id, {})
        events: list[Any] = room.get("msc4354_sticky", {}).get("events", [])
        return events

    def timeline(self, answer: Any) -> list[Any]:
        events: list[Any] = answer["rooms"]["join"][self.room_id]["timeline"]["events"]
        return events

    def chatter(self, number: int) -> None:
        for _ in range(number):
            self.say("alice", self.room_id, "chatter")

    def test_in_the_timeline_where_it_is_told(self) -> None:
        since = self.sync()["next_batch"]
        event_id = self.stuck(duration_ms=600_000)
        self.app.advance(10)
        answer = self.sync(since=since)
        (event,) = self.timeline(answer)
        self.assertEqual((event_id, {"duration_ms": 600_000}), (event["event_id"], event["msc4354_sticky"]))
        self.assertEqual(590_000, event["unsigned"]["msc4354_sticky_duration_ttl_ms"])
        self.assertEqual([], self.section(answer))
        self.assertEqual([], self.section(self.sync(since=answer["next_batch"])))

    def test_in_the_history(self) -> None:
        self.stuck(duration_ms=600_000)
        self.app.advance(10)
        (event,) = self.ok("bob", self.path(self.room_id, "messages"), dir="b", limit="1")["chunk"]
        self.assertEqual(590_000, event["unsigned"]["msc4354_sticky_duration_ttl_ms"])

    def test_whatever_is_said_after_it(self) -> None:
        since = self.sync()["next_batch"]
        ids = [self.stuck(str(number)) for number in range(3)]
        self.chatter(6)
        for first in (since, None):
            answer = self.sync(since=first)
            self.assertNotIn(ids[0], [event["event_id"] for event in self.timeline(answer)])
            section = self.section(answer)
            self.assertEqual(ids, [event["event_id"] for event in section])
            self.assertEqual(HOUR_MS - 6_000, section[0]["unsigned"]["msc4354_sticky_duration_ttl_ms"])
            self.assertEqual("0", section[0]["content"]["body"])
            # Told once.
            self.assertEqual([], self.section(self.sync(since=answer["next_batch"])))
            self.app.restart()

    def test_whatever_the_filter_says(self) -> None:
        since = self.sync()["next_batch"]
        event_id = self.stuck()
        filter_ = '{"room":{"timeline":{"types":["m.room.message"]}}}'
        answer = self.sync(since=since, filter=filter_)
        self.assertEqual([event_id], [event["event_id"] for event in self.section(answer)])
        answer = self.sync(filter=filter_)
        self.assertEqual([event_id], [event["event_id"] for event in self.section(answer)])

    def test_a_long_poll_ends_although_the_timeline_is_empty(self) -> None:
        filter_ = '{"room":{"timeline":{"types":["m.none"]}}}'
        since = self.sync(filter=filter_)["next_batch"]
        query = {"since": since, "timeout": "30000", "filter": filter_}
        waiting = self.app.start("GET", SYNC, token=self.tokens["bob"], query=query)
        event_id = self.stuck()
        answer = self.app.wait(waiting).json
        self.assertEqual([event_id], [event["event_id"] for event in self.section(answer)])

    def test_until_it_is_over(self) -> None:
        since = self.sync()["next_batch"]
        self.stuck("short", 60_000)
        long_id = self.stuck("long", 120_000)
        self.chatter(6)
        self.app.advance(60)
        for answer in (self.sync(since=since), self.sync()):
            self.assertEqual([long_id], [event["event_id"] for event in self.section(answer)])
        self.app.advance(60)
        self.assertEqual([], self.section(self.sync(since=since)))
        self.app.restart()
        self.assertEqual([], self.section(self.sync()))

    def test_swept(self) -> None:
        self.stuck(duration_ms=60_000)
        keeper = self.app.app.services.unattended.sticky
        self.wait(keeper.sweep())
        self.assertFalse(keeper._index.is_empty)
        self.app.advance(61)
        self.wait(keeper.sweep())
        self.assertTrue(keeper._index.is_empty)

    def test_who_comes_later_sees_it_whatever_history_is_visible(self) -> None:
        self.set_state("alice", self.room_id, "m.room.history_visibility", {"history_visibility": "joined"})
        event_id = self.stuck()
        self.add("carol")
        since = self.sync("carol")["next_batch"]
        self.join("carol", self.room_id)
        for answer in (self.sync("carol", since=since), self.sync("carol")):
            self.assertEqual([event_id], [event["event_id"] for event in self.section(answer)])
        self.leave("carol", self.room_id)
        self.assertEqual([], self.section(self.sync("carol", since=since)))

    def test_redacted(self) -> None:
        event_id = self.stuck()
        kept_id = self.stuck()
        path = self.path(self.room_id, "redact", event_id, "r")
        self.app.ok("PUT", path, {}, self.tokens["alice"])
        self.chatter(6)
        for restarted in (False, True):
            if restarted:
                self.app.restart()
            self.assertEqual([kept_id], [event["event_id"] for event in self.section(self.sync())])
        redacted = self.ok("bob", self.path(self.room_id, "event", event_id))
        self.assertNotIn("msc4354_sticky", redacted)

    def test_ignored(self) -> None:
        since = self.sync()["next_batch"]
        path = f"/_matrix/client/v3/user/{user('bob')}/account_data/m.ignored_user_list"
        self.app.ok("PUT", path, {"ignored_users": {user("alice"): {}}}, self.tokens["bob"])
        self.stuck()
        self.chatter(6)
        self.assertEqual([], self.section(self.sync(since=since)))
        self.assertEqual([], self.section(self.sync()))

    def test_state(self) -> None:
        path = self.path(self.room_id, "state", "m.x", "k")
        answer = self.app.ok("PUT", path, {"a": 1}, self.tokens["alice"], {ARGUMENT: "60000"})
        event = self.ok("bob", self.path(self.room_id, "event", answer["event_id"]))
        self.assertEqual({"duration_ms": 60_000}, event["msc4354_sticky"])

    def test_state_that_is_set_again_to_stick_on(self) -> None:
        path = self.path(self.room_id, "state", "m.x", "k")
        ids = []
        for query, wait_s in (
            ({ARGUMENT: "600000"}, 500),
            ({ARGUMENT: "600000"}, 200),
            ({ARGUMENT: "0"}, 0),
            ({}, 0),
        ):
            ids.append(self.app.ok("PUT", path, {"body": "k"}, self.tokens["alice"], query)["event_id"])
            self.app.advance(wait_s)
        self.assertNotEqual(ids[0], ids[1])
        # What does not stick says nothing new.
        self.assertEqual([ids[1]] * 2, ids[2:])
        self.chatter(6)
        (event,) = self.section(self.sync())
        left_ms = event["unsigned"]["msc4354_sticky_duration_ttl_ms"]
        self.assertEqual((ids[1], 394_000), (event["event_id"], left_ms))

    def test_later(self) -> None:
        status, json = self.stick("gone", 600_000, **{DELAY: "5000"})
        self.assertEqual((200, ["delay_id"]), (status, list(json)))
        body = {"delay_ms": 5000, "content": {"body": "two"}}
        own = f"/_matrix/client/unstable/org.matrix.msc4140/rooms/{self.room_id}/delayed_event/m.x/t"
        self.app.ok("PUT", own, body, self.tokens["alice"], {ARGUMENT: "600000"})
        since = self.sync()["next_batch"]
        self.app.advance(5)
        for _ in range(10):
            self.app.advance(0)
        self.chatter(6)
        section = self.section(self.sync(since=since))
        self.assertEqual({"gone", "two"}, {event["content"]["body"] for event in section})

    def test_refused(self) -> None:
        for duration in ("x", "-1", str(HOUR_MS + 1), "1.5", ""):
            self.assert_refused(self.stick(duration_ms=duration), 400, "M_INVALID_PARAM")
        since = self.sync()["next_batch"]
        self.stuck(duration_ms=0)
        self.chatter(6)
        self.assertEqual([], self.section(self.sync(since=since)))

    def test_bounded(self) -> None:
        self.patch(stream, "ROOM_MOST", 3)
        ids = [self.stuck(str(number)) for number in range(5)]
        self.chatter(6)
        self.assertEqual(ids[2:], [event["event_id"] for event in self.section(self.sync())])

    def test_advertised(self) -> None:
        features = self.app.ok("GET", "/_matrix/client/versions")["unstable_features"]
        self.assertTrue(features["org.matrix.msc4354"])

    def test_a_server_that_stops_amid_memberships(self) -> None:
        self.stuck()
        self.app.wait(self.app.app.services.tasks.stop())
        self.leave("bob", self.room_id)
        self.assertEqual(
            "leave",
            self.ok("alice", self.path(self.room_id, "state", "m.room.member", user("bob")))["membership"],
        )

    # --- sliding sync --------------------------------------------------------------------------------

    def slide(self, pos: str | None = None, name: str = "bob", **asked: Any) -> tuple[str, dict[str, Any]]:
        """The position, and what the extension says: the token as ``next_batch``, and texts by room."""
        body = {"extensions": {"org.matrix.msc4354.sticky_events": {"enabled": True, **asked}}}
        query = {} if pos is None else {"pos": pos}
        answer = self.app.ok("POST", SLIDING, body, self.tokens[name], query)
        said = answer["extensions"].get("org.matrix.msc4354.sticky_events", {})
        return answer["pos"], said

    def texts(self, said: Any) -> list[str]:
        rooms = said.get("rooms", {})
        return [event["content"]["body"] for room in rooms.values() for event in room["events"]]

    def test_sliding(self) -> None:
        pos, said = self.slide()
        self.assertEqual({}, said)
        self.stuck("one")
        self.chatter(3)
        pos, said = self.slide(pos)
        self.assertEqual(["one"], self.texts(said))
        self.assertEqual([self.room_id], list(said["rooms"]))
        # Until the client takes the token, it is told again: nothing gets lost with an answer.
        for _ in range(2):
            self.assertEqual(["one"], self.texts(self.slide(pos)[1]))
        token = said["next_batch"]
        self.assertEqual({}, self.slide(pos, since=token)[1])
        self.stuck("two")
        self.assertEqual(["two"], self.texts(self.slide(pos, since=token)[1]))

    def test_sliding_pages(self) -> None:
        for number in range(5):
            self.stuck(str(number))
        found: list[str] = []
        asked: dict[str, Any] = {"limit": 2}
        for _ in range(3):
            _, said = self.slide(**asked)
            self.assertLessEqual(len(self.texts(said)), 2)
            found += self.texts(said)
            asked["since"] = said["next_batch"]
        self.assertEqual([str(number) for number in range(5)], found)
        self.assertEqual({}, self.slide(**asked)[1])

    def test_sliding_beside_the_timeline(self) -> None:
        lists = {"all": {"ranges": [[0, 9]], "timeline_limit": 2, "required_state": []}}

        def ask(pos: str | None = None, **asked: Any) -> tuple[str, list[str], Any]:
            extensions = {"org.matrix.msc4354.sticky_events": {"enabled": True, **asked}}
            body = {"lists": lists, "extensions": extensions}
            query = {} if pos is None else {"pos": pos}
            answer = self.app.ok("POST", SLIDING, body, self.tokens["bob"], query)
            timeline = answer["rooms"].get(self.room_id, {}).get("timeline", ())
            said = answer["extensions"].get("org.matrix.msc4354.sticky_events", {})
            return answer["pos"], [event["content"].get("body") for event in timeline], said

        pos, _, said = ask()
        self.assertEqual({}, said)
        self.stuck("above")
        self.stuck("one")
        self.stuck("two")
        # What the timeline tells is not told again, now or later.
        pos, timeline, said = ask(pos)
        self.assertEqual((["one", "two"], ["above"]), (timeline, self.texts(said)))
        self.assertEqual({}, ask(pos, since=said["next_batch"])[2])
        self.stuck("three")
        pos, timeline, said = ask(pos, since=said["next_batch"])
        self.assertEqual((["three"], {}), (timeline, said["rooms"]))
        self.assertEqual({}, ask(pos, since=said["next_batch"])[2])

    def test_sliding_into_a_room(self) -> None:
        self.stuck("before")
        self.add("carol")
        pos, said = self.slide(name="carol")
        self.assertEqual({}, said)
        _, said = self.slide()
        self.join("carol", self.room_id)
        found = self.slide(pos, name="carol", since=said["next_batch"])[1]
        self.assertEqual(["before"], self.texts(found))

    def test_sliding_into_a_room_with_more_than_a_page(self) -> None:
        """What is older than the join comes with it, all together and once; then it goes on page by page."""
        self.stuck("before all")
        _, said = self.slide()
        asked = {"since": said["next_batch"], "limit": 2}
        known, self.room_id = self.room_id, self.make_room()
        for number in range(5):
            self.stuck(f"before {number}")
        entered = self.room_id
        self.room_id = known
        for number in range(3):
            self.stuck(f"known {number}")
        self.room_id = entered
        self.join("bob", entered)
        for number in range(3):
            self.stuck(f"after {number}")
        pages: list[set[str]] = []
        while said := self.slide(**asked)[1]:
            pages.append(set(self.texts(said)))
            asked["since"] = said["next_batch"]
        before = {f"before {number}" for number in range(5)}
        expected = [{"known 0", "known 1"}, {"known 2", *before}, {"after 0", "after 1"}, {"after 2"}]
        self.assertEqual(expected, pages)

    def test_sliding_long_poll(self) -> None:
        pos, _ = self.slide()
        body = {"extensions": {"org.matrix.msc4354.sticky_events": {"enabled": True}}}
        query = {"pos": pos, "timeout": "30000"}
        waiting = self.app.start("POST", SLIDING, body, self.tokens["bob"], query)
        self.stuck("now")
        said = self.app.wait(waiting).json["extensions"]["org.matrix.msc4354.sticky_events"]
        self.assertEqual(["now"], self.texts(said))

    def test_sliding_refused(self) -> None:
        for since in ("x", "-1", "1" * 30):
            body = {"extensions": {"org.matrix.msc4354.sticky_events": {"enabled": True, "since": since}}}
            self.assert_refused(
                self.app.call("POST", SLIDING, body, self.tokens["bob"]), 400, "M_INVALID_PARAM"
            )
        self.stuck("one")
        body = {"extensions": {"org.matrix.msc4354.sticky_events": {"enabled": False}}}
        self.assertEqual({}, self.app.ok("POST", SLIDING, body, self.tokens["bob"])["extensions"])
