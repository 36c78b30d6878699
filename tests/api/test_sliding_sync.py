"""Sliding sync: lists, subscriptions, connections, and what is refused. proposal: MSC4186"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from homeserver.store.sliding import sweep_connections
from homeserver.stream.chores import CONNECTIONS_KEPT_S
from homeserver.sync.sliding import lists
from tests.support.http import Answer
from tests.support.sync import SyncApp, user_id

SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
STABLE = "/_matrix/client/v4/sync"
BOB = user_id("bob")


def one_list(**changes: Any) -> dict[str, Any]:
    """A request for everything."""
    return {"lists": {"all": {"ranges": [[0, 99]], "timeline_limit": 10, "required_state": [], **changes}}}


class SlidingCase(TestCase):
    """A server with alice, who does things, and bob, who listens."""

    def setUp(self) -> None:
        self.app = SyncApp(self)
        self.alice = self.app.register("alice")
        self.bob = self.app.register("bob")

    def room(self, name: str = "room", *, join: bool = True, **state: Any) -> str:
        room_id = self.app.make_room("alice", f"!{name}:test.example", **state)
        if join:
            self.app.member(room_id, "bob", "join", displayname="Bob")
        return room_id

    def ask(self, body: Any, pos: str | None = None, **query: Any) -> Any:
        found = {name: str(value) for name, value in query.items()}
        if pos is not None:
            found["pos"] = pos
        return self.app.ok("POST", SLIDING, body, self.bob, found)

    def refused(
        self, body: Any, pos: str | None = None, token: str = "", path: str = SLIDING
    ) -> tuple[int, Any]:
        query = {} if pos is None else {"pos": pos}
        status, json = self.app.call("POST", path, body, token or self.bob, query)
        return status, json.get("errcode")

    def poll(self, body: Any, pos: str, timeout_s: float = 30) -> Deferred[Answer]:
        query = {"pos": pos, "timeout": str(int(timeout_s * 1000))}
        return self.app.start("POST", SLIDING, body, self.bob, query)


class ListTests(SlidingCase):
    def test_the_window_is_filled_in_the_order_of_activity(self) -> None:
        rooms = [self.room(f"r{number}") for number in range(5)]
        self.app.say(rooms[1], "alice", "up")
        body = one_list(ranges=[[0, 1]], timeline_limit=1)
        answer = self.ask(body)
        self.assertEqual(answer["lists"], {"all": {"count": 5}})
        self.assertEqual(list(answer["rooms"]), [rooms[1], rooms[4]])
        grown = self.ask(one_list(ranges=[[0, 9]], timeline_limit=1), answer["pos"])
        self.assertEqual(set(grown["rooms"]), {rooms[0], rooms[2], rooms[3]})
        self.assertTrue(all(room["initial"] for room in grown["rooms"].values()))
        again = self.ask(one_list(ranges=[[0, 9]], timeline_limit=1), grown["pos"])
        self.assertEqual(again["rooms"], {})

    def test_a_room_that_was_out_of_sight_tells_what_it_missed(self) -> None:
        first, second = self.room("first"), self.room("second")
        wide, narrow = one_list(), one_list(ranges=[[0, 0]])
        pos = self.ask(wide)["pos"]
        said = self.app.say(first, "alice", "one")
        self.app.say(second, "alice", "two")
        hidden = self.ask(narrow, pos)
        self.assertEqual(list(hidden["rooms"]), [second])
        shown = self.ask(wide, hidden["pos"])
        self.assertEqual(list(shown["rooms"]), [first])
        room = shown["rooms"][first]
        self.assertNotIn("initial", room)
        self.assertEqual([event["event_id"] for event in room["timeline"]], [said])
        self.assertEqual(self.ask(wide, shown["pos"])["rooms"], {})

    def test_filters(self) -> None:
        plain = self.room("plain", m__room__name={"name": "Kitchen"})
        secret = self.room("secret", m__room__encryption={"algorithm": "m.megolm.v1.aes-sha2"})
        invited = self.room("invited", join=False)
        self.app.member(invited, "alice", "invite", "bob")
        space = self.space("space", plain)
        self.app.put_account_data(self.bob, "", "m.direct", {"@alice:test.example": [secret]})
        self.app.put_account_data(self.bob, plain, "m.tag", {"tags": {"m.favourite": {}}})
        cases: tuple[tuple[dict[str, Any], set[str]], ...] = (
            ({}, {plain, secret, invited, space}),
            ({"is_dm": True}, {secret}),
            ({"is_dm": False}, {plain, invited, space}),
            ({"is_encrypted": True}, {secret}),
            ({"is_encrypted": False}, {plain, invited, space}),
            ({"is_invite": True}, {invited}),
            ({"is_invited": False}, {plain, secret, space}),
            ({"room_types": ["m.space"]}, {space}),
            ({"room_types": [None]}, {plain, secret, invited}),
            ({"not_room_types": ["m.space"]}, {plain, secret, invited}),
            ({"room_types": ["m.space"], "not_room_types": ["m.space"]}, set()),
            ({"tags": ["m.favourite", "u.x"]}, {plain}),
            ({"not_tags": ["m.favourite"]}, {secret, invited, space}),
            ({"tags": ["m.favourite"], "not_tags": ["m.favourite"]}, set()),
            ({"spaces": [space]}, {plain}),
            ({"spaces": ["!nowhere:test.example"]}, set()),
            ({"room_name_like": "kitch"}, {plain}),
            ({"is_dm": True, "is_encrypted": False}, set()),
        )
        for filters, rooms in cases:
            answer = self.ask(one_list(filters=filters))
            self.assertEqual(set(answer["rooms"]), rooms, filters)
            self.assertEqual(answer["lists"]["all"]["count"], len(rooms), filters)

    def space(self, name: str, *children: str) -> str:
        room_id = self.app.ok(
            "POST",
            "/_matrix/client/v3/createRoom",
            {"creation_content": {"type": "m.space"}, "preset": "public_chat"},
            self.alice,
        )["room_id"]
        for child in children:
            self.app.place(room_id, "alice", "m.space.child", {"via": ["test.example"]}, child)
        self.app.member(room_id, "bob", "join")
        return str(room_id)

    def test_facts_that_filters_look_at_are_followed(self) -> None:
        room_id = self.room()
        body = one_list(filters={"is_encrypted": True})
        answer = self.ask(body)
        self.assertEqual(answer["lists"]["all"]["count"], 0)
        self.app.place(room_id, "alice", "m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"}, "")
        answer = self.ask(body, answer["pos"])
        self.assertEqual(list(answer["rooms"]), [room_id])
        direct = one_list(filters={"is_dm": True})
        answer = self.ask(direct, answer["pos"])
        self.assertEqual(answer["lists"]["all"]["count"], 0)
        self.app.put_account_data(self.bob, "", "m.direct", {"@alice:test.example": [room_id]})
        answer = self.ask(direct, answer["pos"])
        self.assertIs(answer["rooms"][room_id]["is_dm"], True)
        # A client that was told so must hear when it ends; a new one is told nothing, which says the same.
        self.app.put_account_data(self.bob, "", "m.direct", {})
        answer = self.ask(one_list(), answer["pos"])
        self.assertIs(answer["rooms"][room_id]["is_dm"], False)
        self.assertNotIn("is_dm", self.ask(one_list())["rooms"][room_id])

    def test_several_rules_for_one_room_add_up(self) -> None:
        room_id = self.room(m__room__name={"name": "Hall"}, m__room__topic={"topic": "Echo"})
        body = {
            "lists": {
                "a": {"ranges": [[0, 9]], "timeline_limit": 1, "required_state": [["m.room.name", ""]]},
                "b": {"ranges": [[0, 9]], "timeline_limit": 3, "required_state": []},
            },
            "room_subscriptions": {room_id: {"timeline_limit": 2, "required_state": [["m.room.topic", ""]]}},
        }
        room = self.ask(body)["rooms"][room_id]
        self.assertEqual(len(room["timeline"]), 3)
        self.assertEqual({event["type"] for event in room["required_state"]}, {"m.room.name", "m.room.topic"})
        self.assertEqual(room["lists"], ["a", "b"])


class RoomTests(SlidingCase):
    def test_a_room_for_the_first_time(self) -> None:
        room_id = self.room(m__room__avatar={"url": "mxc://test.example/a"})
        said = self.app.say(room_id, "alice", "hello")
        room = self.ask(one_list(timeline_limit=2))["rooms"][room_id]
        self.assertIs(room["initial"], True)
        self.assertIs(room["limited"], True)
        self.assertEqual(room["timeline"][-1]["event_id"], said)
        self.assertEqual(room["avatar"], "mxc://test.example/a")
        self.assertEqual(room["heroes"], [{"user_id": "@alice:test.example", "displayname": "alice"}])
        self.assertEqual((room["joined_count"], room["invited_count"]), (2, 0))
        self.assertEqual((room["num_live"], room["membership"]), (0, "join"))
        self.assertEqual(room["notification_count"], 1)
        self.assertNotIn("name", room)
        self.assertNotIn("is_dm", room)
        page = self.app.ok(
            "GET",
            f"/_matrix/client/v3/rooms/{room_id}/messages",
            None,
            self.bob,
            {"dir": "b", "from": room["prev_batch"]},
        )
        self.assertEqual(page["chunk"][0]["type"], "m.room.avatar")

    def test_what_is_told_of_a_change(self) -> None:
        room_id = self.room(m__room__name={"name": "Hall"})
        answer = self.ask(one_list(required_state=[["m.room.name", ""]]))
        self.assertEqual(answer["rooms"][room_id]["name"], "Hall")
        self.app.place(room_id, "alice", "m.room.name", {"name": ""}, "")
        self.app.register("carol")
        self.app.member(room_id, "carol", "join")
        answer = self.ask(one_list(required_state=[["m.room.name", ""]]), answer["pos"])
        room = answer["rooms"][room_id]
        self.assertIsNone(room["name"])
        self.assertEqual(room["joined_count"], 3)
        self.assertEqual([hero["user_id"] for hero in room["heroes"]], [user_id("alice"), user_id("carol")])
        self.assertEqual(room["num_live"], 2)
        self.assertEqual([event["type"] for event in room["required_state"]], ["m.room.name"])

    def test_what_is_redacted_names_no_room_any_more(self) -> None:
        room_id = self.room()
        joined = self.app.member(room_id, "alice", "join", displayname="Alice")
        avatar = self.app.place(room_id, "alice", "m.room.avatar", {"url": "mxc://test.example/a"}, "")
        answer = self.ask(one_list())
        self.assertEqual("Alice", answer["rooms"][room_id]["heroes"][0]["displayname"])
        for target in (joined, avatar):
            self.app.redact(room_id, "alice", target)
        answer = self.ask(one_list(), answer["pos"])
        room = answer["rooms"][room_id]
        self.assertEqual([{"user_id": user_id("alice")}], room["heroes"])
        self.assertIsNone(room["avatar"])
        named = self.app.place(room_id, "alice", "m.room.name", {"name": "Hall"}, "")
        answer = self.ask(one_list(), answer["pos"])
        self.assertEqual("Hall", answer["rooms"][room_id]["name"])
        self.app.redact(room_id, "alice", named)
        for number in range(3):
            self.app.say(room_id, "alice", str(number))
        # The redaction itself is in the gap.
        answer = self.ask(one_list(timeline_limit=2), answer["pos"])
        room = answer["rooms"][room_id]
        self.assertIs(room["limited"], True)
        self.assertIsNone(room["name"])
        self.assertEqual([{"user_id": user_id("alice")}], room["heroes"])

    def test_bump_stamps_count_proper_activity_alone(self) -> None:
        room_id = self.room()
        self.app.say(room_id, "alice", "hello")
        answer = self.ask(one_list())
        stamp = answer["rooms"][room_id]["bump_stamp"]
        self.app.place(room_id, "alice", "m.room.topic", {"topic": "x"}, "")
        answer = self.ask(one_list(), answer["pos"])
        self.assertEqual(answer["rooms"][room_id]["bump_stamp"], stamp)
        self.app.say(room_id, "alice", "again")
        answer = self.ask(one_list(), answer["pos"])
        self.assertGreater(answer["rooms"][room_id]["bump_stamp"], stamp)
        self.app.restart()
        fresh = self.ask(one_list())
        self.assertEqual(fresh["rooms"][room_id]["bump_stamp"], answer["rooms"][room_id]["bump_stamp"])

    def test_invites_and_how_they_end(self) -> None:
        room_id = self.room("invited", join=False, m__room__name={"name": "Secret"})
        self.app.member(room_id, "alice", "invite", "bob")
        answer = self.ask(one_list(required_state=[["*", "*"]]))
        room = answer["rooms"][room_id]
        self.assertEqual(room["membership"], "invite")
        kinds = {event["type"]: event["content"] for event in room["invite_state"]}
        self.assertEqual(kinds["m.room.name"], {"name": "Secret"})
        self.assertEqual((room["timeline"], room["required_state"]), ([], []))
        self.app.say(room_id, "alice", "not for bob")
        self.assertEqual(self.ask(one_list(), answer["pos"])["rooms"], {})
        self.app.member(room_id, "bob", "leave")
        answer = self.ask(one_list(required_state=[["*", "*"]]), answer["pos"])
        room = answer["rooms"][room_id]
        self.assertEqual(room["membership"], "leave")
        self.assertEqual([event["state_key"] for event in room["required_state"]], [BOB])
        self.assertNotIn("name", room)
        self.assertEqual(self.ask(one_list(), answer["pos"])["rooms"], {})

    def test_the_required_state_says_what_it_replaced(self) -> None:
        """As the timeline does, where clients must not look for state: by it they know a direct chat, and who is gone."""
        wishes = one_list(required_state=[["m.room.member", "*"]])
        room_id = self.room("direct", join=False)
        self.app.member(room_id, "alice", "invite", "bob", is_direct=True)
        pos = self.ask(wishes)["pos"]
        self.app.member(room_id, "bob", "join")
        answer = self.ask(wishes, pos)
        (join,) = [one for one in answer["rooms"][room_id]["required_state"] if one["state_key"] == BOB]
        self.assertIs(True, join["unsigned"]["prev_content"]["is_direct"])
        self.assertEqual(user_id("alice"), join["unsigned"]["prev_sender"])
        self.app.member(room_id, "carol", "join", displayname="Carol")
        answer = self.ask(wishes, answer["pos"])
        self.app.member(room_id, "alice", "leave", "carol")
        for source in ("the log", "the tables"):
            (kick,) = self.ask(wishes, answer["pos"])["rooms"][room_id]["required_state"]
            self.assertEqual("Carol", kick["unsigned"]["prev_content"]["displayname"], source)
            self.app.restart()

    def test_the_accepted_words(self) -> None:
        invited, joined = self.room("invited", join=False), self.room("joined", m__room__topic={"topic": "x"})
        self.app.member(invited, "alice", "invite", "bob")
        for number in range(4):
            self.app.say(joined, "alice", str(number))
        body = {
            "lists": {
                "all": {
                    "range": [0, 9],
                    "timeline_limit": 1,
                    "required_state": {
                        "include": [{}],
                        "exclude": [{"type": "m.room.topic"}],
                        "lazy_members": True,
                    },
                }
            }
        }
        answer = self.app.ok("POST", STABLE, body, self.bob)
        self.assertIn("stripped_state", answer["rooms"][invited])
        state = {(one["type"], one["state_key"]) for one in answer["rooms"][joined]["required_state"]}
        self.assertIn(("m.room.create", ""), state)
        self.assertNotIn(("m.room.topic", ""), state)
        self.assertEqual({key for kind, key in state if kind == "m.room.member"}, {user_id("alice")})
        body["lists"]["all"]["timeline_limit"] = 3
        wider = self.app.ok("POST", STABLE, {**body, "pos": answer["pos"], "timeout": 0}, self.bob)
        self.assertIs(wider["rooms"][joined]["expanded_timeline"], True)
        self.assertEqual(len(wider["rooms"][joined]["timeline"]), 3)
        self.assertEqual(wider["rooms"][joined]["num_live"], 0)

    def test_a_subscription_shows_nothing_that_is_not_theirs(self) -> None:
        closed = self.room("closed", join=False)
        body = {"room_subscriptions": {closed: {"timeline_limit": 9, "required_state": [["*", "*"]]}}}
        answer = self.ask({**body, "conn_id": "x"})
        self.assertEqual(answer["rooms"], {})
        body["room_subscriptions"]["!nowhere:test.example"] = {"timeline_limit": 1}
        self.assertEqual(self.ask({**body, "conn_id": "x"}, answer["pos"])["rooms"], {})
        self.app.member(closed, "bob", "join")
        answer = self.ask({**body, "conn_id": "x"}, answer["pos"])
        self.assertIs(answer["rooms"][closed]["initial"], True)

    def test_who_reads_elsewhere_hears_of_the_counts(self) -> None:
        room_id = self.room()
        said = self.app.say(room_id, "alice", "hello")
        answer = self.ask(one_list())
        self.assertEqual(answer["rooms"][room_id]["notification_count"], 1)
        path = f"/_matrix/client/v3/rooms/{room_id}/receipt/m.read/{said}"
        self.app.ok("POST", path, {}, self.bob)
        answer = self.ask(one_list(), answer["pos"])
        self.assertEqual(answer["rooms"][room_id]["notification_count"], 0)
        self.assertEqual(answer["rooms"][room_id]["timeline"], [])


class ConnectionTests(SlidingCase):
    def test_an_answer_that_got_lost_is_made_again(self) -> None:
        room_id = self.room()
        first = self.ask(one_list())
        self.app.say(room_id, "alice", "hello")
        lost = self.ask(one_list(), first["pos"])
        again = self.ask(one_list(), first["pos"])
        self.assertEqual(lost["rooms"], again["rooms"])
        other = self.room("other")
        lost = self.ask(one_list(), again["pos"])
        self.assertEqual(list(lost["rooms"]), [other])
        again = self.ask(one_list(), again["pos"])
        self.assertEqual(list(again["rooms"]), [other])

    def test_a_position_that_is_over(self) -> None:
        self.room()
        first = self.ask(one_list())
        self.room("other")
        second = self.ask(one_list(), first["pos"])
        self.ask(one_list(), second["pos"])
        self.assertEqual(self.refused(one_list(), first["pos"]), (400, "M_UNKNOWN_POS"))
        for pos in ("", "x", "s1_1_x", "a.1/s1_0_b", second["pos"].replace(".", "."), "\x00"):
            if pos and pos != second["pos"]:
                self.assertEqual(self.refused(one_list(), pos)[0], 400, pos)
        self.assertEqual(self.refused({**one_list(), "pos": "nonsense"}), (400, "M_UNKNOWN_POS"))
        self.assertEqual(self.refused(one_list(), second["pos"], self.alice), (400, "M_UNKNOWN_POS"))
        other = {**one_list(), "conn_id": "other"}
        self.assertEqual(self.refused(other, second["pos"]), (400, "M_UNKNOWN_POS"))
        # Beginning anew ends what was there.
        self.ask(one_list())
        self.assertEqual(self.refused(one_list(), second["pos"]), (400, "M_UNKNOWN_POS"))

    def test_it_survives_a_restart(self) -> None:
        room_id = self.room()
        answer = self.ask(one_list())
        said = self.app.say(room_id, "alice", "hello")
        self.app.restart()
        room = self.ask(one_list(), answer["pos"])["rooms"][room_id]
        self.assertNotIn("initial", room)
        self.assertEqual([event["event_id"] for event in room["timeline"]], [said])

    def test_two_at_once(self) -> None:
        room_id = self.room()
        rooms = {"conn_id": "room-list", **one_list()}
        keys = {
            "conn_id": "encryption",
            "extensions": {"to_device": {"enabled": True}, "e2ee": {"enabled": True}},
        }
        first, second = self.ask(rooms), self.ask(keys)
        self.assertEqual(second["rooms"], {})
        said = self.app.say(room_id, "alice", "hello")
        self.assertEqual(self.ask(keys, second["pos"])["rooms"], {})
        timeline = self.ask(rooms, first["pos"])["rooms"][room_id]["timeline"]
        self.assertEqual([event["event_id"] for event in timeline], [said])

    def test_a_device_has_so_many(self) -> None:
        positions = [self.ask({"conn_id": str(number)})["pos"] for number in range(17)]
        self.app.restart()
        self.assertEqual(self.refused({"conn_id": "0"}, positions[0]), (400, "M_UNKNOWN_POS"))
        self.ask({"conn_id": "16"}, positions[16])

    def test_they_end_with_their_device(self) -> None:
        self.ask(one_list())
        self.app.ok("POST", "/_matrix/client/v3/logout", {}, self.bob)

    def test_it_is_forgotten_when_nobody_comes(self) -> None:
        self.room()
        pos = self.ask(one_list())["pos"]
        for _ in range(3):
            self.let_pass(29)
            pos = self.ask(one_list(), pos)["pos"]
        self.let_pass(31)
        self.app.restart()
        self.assertEqual(self.refused(one_list(), pos), (400, "M_UNKNOWN_POS"))

    def let_pass(self, days: int) -> None:
        """Time, and the chore that comes with it."""
        self.app.advance(days * 24 * 3600)
        before_ts_ms = int((self.app.time.seconds() - CONNECTIONS_KEPT_S) * 1000)
        self.app.wait(self.app.app.core.committer.work(sweep_connections, before_ts_ms, 100))

    def test_it_is_advertised(self) -> None:
        features = self.app.ok("GET", "/_matrix/client/versions")["unstable_features"]
        self.assertIs(features["org.matrix.simplified_msc3575"], True)

    def test_positions_serve_as_tokens_of_history(self) -> None:
        room_id = self.room()
        said = self.app.say(room_id, "alice", "hello")
        pos = self.ask(one_list())["pos"]
        self.app.say(room_id, "alice", "later")
        path = f"/_matrix/client/v3/rooms/{room_id}/messages"
        page = self.app.ok("GET", path, None, self.bob, {"dir": "b", "from": pos, "limit": "1"})
        self.assertEqual(page["chunk"][0]["event_id"], said)


class WaitTests(SlidingCase):
    def test_it_waits_for_news(self) -> None:
        room_id = self.room()
        answer = self.ask(one_list())
        waiting = self.poll(one_list(), answer["pos"])
        self.app.advance(10)
        self.assertFalse(waiting.called)
        self.app.say(room_id, "alice", "hello")
        found = self.app.wait(waiting)
        self.assertEqual(list(found.json["rooms"]), [room_id])

    def test_it_ends_with_its_time(self) -> None:
        self.room()
        answer = self.ask(one_list())
        waiting = self.poll(one_list(), answer["pos"], 5)
        self.app.advance(6)
        found = self.app.wait(waiting)
        self.assertEqual((found.status, found.json["rooms"]), (200, {}))
        self.assertEqual(found.json["lists"], {"all": {"count": 1}})

    def test_the_first_does_not_wait(self) -> None:
        body = {"lists": {}, "timeout": 30_000}
        self.assertEqual(self.ask(body)["rooms"], {})

    def test_what_is_out_of_sight_wakes_nobody(self) -> None:
        self.room("quiet")
        loud = self.room("loud")
        body = {"room_subscriptions": {"!quiet:test.example": {"timeline_limit": 1}}}
        answer = self.ask(body)
        waiting = self.poll(body, answer["pos"], 20)
        self.app.say(loud, "alice", "hello")
        self.app.advance(5)
        self.assertFalse(waiting.called)
        self.app.say("!quiet:test.example", "alice", "psst")
        self.assertEqual(list(self.app.wait(waiting).json["rooms"]), ["!quiet:test.example"])

    def test_an_idle_wait_costs_nothing(self) -> None:
        for number in range(3):
            self.room(f"r{number}")
        extensions = {
            name: {"enabled": True} for name in ("account_data", "receipts", "typing", "to_device", "e2ee")
        }
        body = {**one_list(), "extensions": extensions}
        pos = self.ask(body)["pos"]

        def wait() -> Any:
            waiting = self.poll(body, pos, 2)
            self.app.advance(3)
            return self.app.wait(waiting).json

        answer, statements = self.app.count_statements(wait)
        self.assertEqual(statements, [])
        self.assertEqual(answer["pos"], pos)

    def test_a_message_costs_its_readers_nothing(self) -> None:
        room_id = self.room()
        body = one_list(required_state=[["m.room.name", ""], ["m.room.member", "$LAZY"]])
        pos = self.ask(body)["pos"]
        self.app.say(room_id, "alice", "one")
        pos = self.ask(body, pos)["pos"]
        self.app.say(room_id, "alice", "two")
        answer, statements = self.app.count_statements(lambda: self.ask(body, pos))
        self.assertEqual(len(answer["rooms"][room_id]["timeline"]), 1)
        self.assertEqual(statements, [])


class HostileTests(SlidingCase):
    def test_what_the_accepted_form_asks_for(self) -> None:
        room: dict[str, Any] = {"timeline_limit": 1, "required_state": {}}
        for name in ("", "a b", "ü", "a/b", "a\n"):
            self.assertEqual(self.refused({"lists": {name: room}}, path=STABLE), (400, "M_INVALID_PARAM"))
            self.assertEqual(self.refused({"lists": {name: room}}), (200, None))
        self.assertEqual(self.refused({"lists": {"aZ0-._~": room}}, path=STABLE), (200, None))
        halves: tuple[dict[str, Any], ...] = ({"timeline_limit": 1}, {"required_state": {}})
        for less in halves:
            for body in ({"lists": {"a": less}}, {"room_subscriptions": {"!a:b": less}}):
                self.assertEqual(self.refused(body, path=STABLE), (400, "M_MISSING_PARAM"))
                self.assertEqual(self.refused(body), (200, None))
        self.assertEqual(self.refused({"set_presence": ""}, path=STABLE), (400, "M_INVALID_PARAM"))

    def test_shapes_that_are_wrong(self) -> None:
        room = {"timeline_limit": 1, "required_state": []}
        cases: tuple[tuple[Any, str], ...] = (
            ({"lists": []}, "M_BAD_JSON"),
            ({"lists": {"a": 1}}, "M_BAD_JSON"),
            ({"lists": {"a": {**room, "timeline_limit": -1}}}, "M_BAD_JSON"),
            ({"lists": {"a": {**room, "timeline_limit": "1"}}}, "M_BAD_JSON"),
            ({"lists": {"a": {**room, "ranges": [[0]]}}}, "M_BAD_JSON"),
            ({"lists": {"a": {**room, "ranges": [[-1, 2]]}}}, "M_BAD_JSON"),
            ({"lists": {"a": {**room, "ranges": [[5, 2]]}}}, "M_INVALID_PARAM"),
            ({"lists": {"a": {**room, "ranges": [[0, 2**60]]}}}, "M_INVALID_PARAM"),
            ({"lists": {"a": {**room, "ranges": [[0, 1]] * 101}}}, "M_INVALID_PARAM"),
            ({"lists": {"a": {**room, "required_state": [["a"]]}}}, "M_BAD_JSON"),
            ({"lists": {"a": {**room, "required_state": [["a", "b"]] * 501}}}, "M_INVALID_PARAM"),
            ({"lists": {"a": {**room, "required_state": {"include": [{}] * 501}}}}, "M_INVALID_PARAM"),
            ({"lists": {"a": {**room, "filters": {"is_dm": "yes"}}}}, "M_BAD_JSON"),
            ({"lists": {"a": {**room, "filters": {"tags": ["x"] * 1001}}}}, "M_INVALID_PARAM"),
            ({"lists": {str(number): room for number in range(101)}}, "M_INVALID_PARAM"),
            ({"lists": {"a" * 256: room}}, "M_INVALID_PARAM"),
            ({"conn_id": "a\0"}, "M_INVALID_PARAM"),
            ({"conn_id": 7}, "M_BAD_JSON"),
            ({"room_subscriptions": {f"!{number}:x": room for number in range(1001)}}, "M_INVALID_PARAM"),
            ({"extensions": {"to_device": {"enabled": True, "since": "x"}}}, "M_INVALID_PARAM"),
            ({"extensions": {"to_device": {"enabled": True, "since": "9" * 40}}}, "M_INVALID_PARAM"),
            ({"set_presence": "sleeping"}, "M_INVALID_PARAM"),
            ({"timeout": -1}, "M_BAD_JSON"),
        )
        for body, code in cases:
            self.assertEqual(self.refused(body), (400, code), body)
        subscriptions = {f"!{number}:x": room for number in range(101)}
        self.assertEqual(
            self.refused({"room_subscriptions": subscriptions}, path=STABLE), (400, "M_INVALID_PARAM")
        )

    def test_bodies_that_are_none(self) -> None:
        for raw, code in ((b"{", "M_NOT_JSON"), (b"[]", "M_BAD_JSON"), (b'{"lists":' + b"[" * 5000, None)):
            answer = self.app.answer("POST", SLIDING, raw, self.bob)
            self.assertEqual(answer.status, 400, raw[:20])
            if code is not None:
                self.assertEqual(answer.json["errcode"], code)
        self.assertEqual(self.app.call("POST", SLIDING, {})[0], 401)

    def test_much_of_everything_is_answered(self) -> None:
        room_id = self.room()
        rooms = {str(n): {"ranges": [[0, 2**50]] * 3, "timeline_limit": 2**40} for n in range(100)}
        # As Element X asks for each room.
        state = [[f"m.room.something{n}", ""] for n in range(14)]
        subscriptions = {
            f"!{n}:test.example": {"timeline_limit": 1, "required_state": state} for n in range(1_000)
        }
        answer = self.ask({"lists": rooms, "room_subscriptions": subscriptions})
        self.assertEqual(list(answer["rooms"]), [room_id])
        self.assertEqual(len(answer["lists"]), 100)

    def test_so_many_filters_for_so_many_rooms(self) -> None:
        for number in range(4):
            self.room(f"r{number}")
        self.patch(lists, "CHECKS_MOST", 11)
        bodies = [
            {
                str(n): {"ranges": [[0, 1]], "timeline_limit": 1, "filters": {"tags": [str(n)]}}
                for n in range(count)
            }
            for count in (2, 3, 4)
        ]
        self.ask({"lists": bodies[0]})
        self.ask({"lists": {**bodies[0], "again": bodies[0]["1"]}})
        self.assertEqual(self.refused({"lists": bodies[2]}), (400, "M_INVALID_PARAM"))

    def test_wishes_with_wildcards_everywhere(self) -> None:
        room_id = self.room(m__room__topic={"topic": "x"})
        for pairs in ([["*", "*"]] * 500, [["*", ""], ["m.room.member", "*"], ["\0", "\0"], ["*", "$ME"]]):
            answer = self.ask(one_list(required_state=pairs))
            types = {event["type"] for event in answer["rooms"][room_id]["required_state"]}
            self.assertIn("m.room.topic", types)
            self.assertIn("m.room.member", types)
