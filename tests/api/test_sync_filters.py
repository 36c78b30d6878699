"""Filters in sync. spec: client-server-api#filtering"""

from __future__ import annotations

from typing import Any, ClassVar

from twisted.trial.unittest import TestCase

from homeserver.sync.filters import parse_filter
from tests.support.sync import SyncApp, user_id

ROOM = "!room:test.example"
OTHER = "!other:test.example"


class FilterTests(TestCase):
    def setUp(self) -> None:
        self.app = SyncApp(self)
        self.alice = self.app.register("alice")
        self.bob = self.app.register("bob")
        self.app.make_room("alice", ROOM, m__room__name={"name": "first"})
        self.app.make_room("alice", OTHER)
        self.app.member(ROOM, "bob", "join", displayname="Bob")
        self.since = self.app.sync(self.alice)["next_batch"]

    def rooms(self, since: str | None, **filter_: Any) -> Any:
        """The joined rooms of an answer, from the log and from the tables: both must say the same."""
        found = self.app.sync(self.alice, since, filter=filter_).get("rooms", {})
        self.app.restart()
        again = self.app.sync(self.alice, since, filter=filter_).get("rooms", {})
        self.assertEqual(found, again)
        return found.get("join", {})

    def types(self, since: str | None, **timeline: Any) -> list[str]:
        room = self.rooms(since, room={"timeline": timeline, "rooms": [ROOM]}).get(ROOM)
        return [event["type"] for event in room["timeline"]["events"]] if room else []

    def test_types(self) -> None:
        self.app.say(ROOM, "alice", "hello")
        self.app.place(ROOM, "alice", "org.example.thing", {}, None)
        for since in (None, self.since):
            self.assertEqual(self.types(since, types=["m.room.mess*"]), ["m.room.message"])
            self.assertEqual(self.types(since, types=["*"], not_types=["m.*"]), ["org.example.thing"])
            self.assertEqual(self.types(since, types=[]), [])

    def test_senders(self) -> None:
        self.app.say(ROOM, "alice", "hers")
        self.app.say(ROOM, "bob", "his")
        for since in (None, self.since):
            only = {"types": ["m.room.message"]}
            self.assertEqual(len(self.types(since, senders=[user_id("bob")], **only)), 1)
            self.assertEqual(len(self.types(since, not_senders=[user_id("bob")], **only)), 1)
            both = {"senders": [user_id("bob")], "not_senders": [user_id("bob")]}
            self.assertEqual(self.types(since, **both, **only), [])

    def test_urls(self) -> None:
        self.app.place(ROOM, "alice", "m.room.message", {"msgtype": "m.image", "url": "mxc://a/b"})
        self.app.say(ROOM, "alice", "plain")
        for since in (None, self.since):
            self.assertEqual(len(self.types(since, contains_url=True)), 1)
            self.assertEqual(
                self.types(since, contains_url=False, types=["m.room.message"]), ["m.room.message"]
            )

    def test_rooms(self) -> None:
        self.app.say(ROOM, "alice", "here")
        self.app.say(OTHER, "alice", "there")
        for since in (None, self.since):
            self.assertEqual(list(self.rooms(since, room={"rooms": [OTHER]})), [OTHER])
            self.assertEqual(list(self.rooms(since, room={"not_rooms": [OTHER]})), [ROOM])
            both = {"rooms": [OTHER], "not_rooms": [OTHER]}
            self.assertEqual(self.rooms(since, room=both), {})

    def test_rooms_of_one_section(self) -> None:
        self.app.say(ROOM, "alice", "here")
        self.app.say(OTHER, "alice", "there")
        for since in (None, self.since):
            rooms = self.rooms(since, room={"timeline": {"rooms": [OTHER]}, "state": {"not_rooms": [OTHER]}})
            self.assertEqual(rooms.get(ROOM, {"timeline": {"events": []}})["timeline"]["events"], [])
            self.assertEqual(rooms[OTHER]["timeline"]["events"][-1]["content"]["body"], "there")
            self.assertEqual(rooms[OTHER]["state"]["events"], [])

    def test_leaving_is_told_whatever_the_filter(self) -> None:
        self.app.member(ROOM, "bob", "leave")
        bob = self.app.sync(self.bob, self.since, filter={"room": {"timeline": {"types": []}}})
        self.assertEqual(bob["rooms"]["leave"][ROOM]["timeline"]["events"], [])

    def test_rare_events_are_looked_for_further_back(self) -> None:
        self.app.place(ROOM, "alice", "org.example.rare", {"n": 1})
        for number in range(30):
            self.app.say(ROOM, "alice", f"{number}")
        for since in (None, self.since):
            self.assertEqual(self.types(since, types=["org.example.rare"]), ["org.example.rare"])

    def test_it_does_not_look_back_without_end(self) -> None:
        for number in range(30):
            self.app.say(ROOM, "alice", f"{number}")
        found, statements = self.app.count_statements(
            lambda: self.app.sync(
                self.alice, filter={"room": {"timeline": {"types": ["org.example.none"], "limit": 1}}}
            )
        )
        timeline = found["rooms"]["join"][ROOM]["timeline"]
        self.assertEqual((timeline["events"], timeline["limited"]), ([], True))
        self.assertLess(len(statements), 50)

    def test_limit(self) -> None:
        for number in range(5):
            self.app.say(ROOM, "alice", f"{number}")
        for since in (None, self.since):
            room = self.rooms(since, room={"timeline": {"limit": 2}})[ROOM]
            self.assertEqual([one["content"]["body"] for one in room["timeline"]["events"]], ["3", "4"])
            self.assertTrue(room["timeline"]["limited"])

    def test_state_filter(self) -> None:
        filter_ = {"state": {"types": ["m.room.name"]}, "timeline": {"limit": 1}}
        self.app.say(ROOM, "alice", "hello")
        room = self.rooms(None, room=filter_)[ROOM]
        self.assertEqual([event["type"] for event in room["state"]["events"]], ["m.room.name"])

    def test_what_a_filter_keeps_from_the_timeline_is_in_the_state(self) -> None:
        self.app.place(ROOM, "alice", "m.room.name", {"name": "second"}, "")
        self.app.say(ROOM, "alice", "hello")
        for since in (None, self.since):
            room = self.rooms(since, room={"timeline": {"not_types": ["m.room.name"]}})[ROOM]
            names = [one["content"] for one in room["state"]["events"] if one["type"] == "m.room.name"]
            self.assertEqual(names, [{"name": "second"}])

    def test_event_fields(self) -> None:
        self.app.place(ROOM, "alice", "m.room.message", {"body": "x", "msgtype": "m.text", "a.b": 1})
        for since in (None, self.since):
            room = self.rooms(since, event_fields=["type", "content.body", "content.a\\.b"])[ROOM]
            self.assertEqual(
                room["timeline"]["events"][-1], {"type": "m.room.message", "content": {"body": "x", "a.b": 1}}
            )

    def test_federation_format(self) -> None:
        said = self.app.say(ROOM, "alice", "gone")
        self.app.redact(ROOM, "alice", said)
        for since in (None, self.since):
            event = self.rooms(since, event_format="federation")[ROOM]["timeline"]["events"][-2]
            self.assertEqual(event["room_id"], ROOM)
            self.assertIn("auth_events", event)
            self.assertIn("signatures", event)
            self.assertEqual(event["content"], {})

    def test_account_data_filters(self) -> None:
        self.app.put_account_data(self.alice, "", "org.example.a", {"n": 1})
        self.app.put_account_data(self.alice, "", "org.example.b", {"n": 1})
        self.app.put_account_data(self.alice, ROOM, "org.example.c", {"n": 1})
        for since in (None, self.since):
            filter_ = {"account_data": {"types": ["org.example.b"]}, "room": {"account_data": {"types": []}}}
            found = self.app.sync(self.alice, since, filter=filter_)
            self.assertEqual([one["type"] for one in found["account_data"]["events"]], ["org.example.b"])
            rooms = found.get("rooms", {}).get("join", {})
            self.assertTrue(all(not room["account_data"]["events"] for room in rooms.values()))

    def test_filter_by_id(self) -> None:
        self.app.say(ROOM, "alice", "hello")
        body = {"room": {"rooms": [ROOM], "timeline": {"limit": 1}}}
        path = f"/_matrix/client/v3/user/{user_id('alice')}/filter"
        filter_id = self.app.ok("POST", path, body, self.alice)["filter_id"]
        for _ in range(2):
            room = self.app.sync(self.alice, filter=filter_id)["rooms"]["join"][ROOM]
            self.assertEqual(len(room["timeline"]["events"]), 1)
        _, statements = self.app.count_statements(
            lambda: self.app.sync(self.alice, self.since, filter=filter_id)
        )
        self.assertEqual(statements, [])

    def define(self, body: dict[str, Any]) -> str:
        path = f"/_matrix/client/v3/user/{user_id('alice')}/filter"
        filter_id: str = self.app.ok("POST", path, body, self.alice)["filter_id"]
        return filter_id

    def statements_of(self, filter_id: str) -> int:
        _, statements = self.app.count_statements(
            lambda: self.app.sync(self.alice, self.since, filter=filter_id)
        )
        return len(statements)

    def test_many_small_ones_are_kept(self) -> None:
        found = [self.define({"room": {"rooms": [f"!{number}:x"]}}) for number in range(50)]
        for filter_id in found:
            self.app.sync(self.alice, self.since, filter=filter_id)
        self.assertEqual(0, sum(self.statements_of(filter_id) for filter_id in found))

    def test_large_ones_take_the_place_of_others(self) -> None:
        """What is compiled of them takes far more than their text."""
        small = self.define({"room": {"rooms": ["!small:x"]}})
        self.app.sync(self.alice, self.since, filter=small)
        self.assertEqual(0, self.statements_of(small))
        large = small
        for number in range(14):
            names = [f"{number}.{name}" + "x" * 50 for name in range(1_000)]
            large = self.define({"room": {"timeline": {"types": names}}})
            self.app.sync(self.alice, self.since, filter=large)
        self.assertEqual(0, self.statements_of(large))
        self.assertNotEqual(0, self.statements_of(small))

    def test_what_it_comes_to_remember_counts(self) -> None:
        plain, one = parse_filter("{}"), parse_filter('{"room":{"state":{"types":["m.*"]}}}')
        both = parse_filter('{"room":{"state":{"types":["m.*"],"not_types":["n.*"]}}}')
        self.assertGreater(one.weight, plain.weight + 30_000)
        self.assertGreater(both.weight, one.weight + 30_000)


class LazyTests(TestCase):
    LAZY: ClassVar[dict[str, Any]] = {
        "room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 2}}
    }

    def setUp(self) -> None:
        self.app = SyncApp(self)
        self.alice = self.app.register("alice")
        self.app.make_room("alice", ROOM, m__room__name={"name": "named"})
        for name in ("bob", "carol", "dora"):
            self.app.register(name)
            self.app.member(ROOM, name, "join")
        for name in ("bob", "bob", "carol"):
            self.app.say(ROOM, name, "hello")

    def members(self, found: Any) -> list[str]:
        room = found["rooms"]["join"][ROOM]
        return sorted(one["state_key"] for one in room["state"]["events"] if one["type"] == "m.room.member")

    def test_initial(self) -> None:
        found = self.app.sync(self.alice, filter=self.LAZY)
        self.assertEqual(self.members(found), [user_id("alice"), user_id("bob"), user_id("carol")])

    def test_heroes_are_told(self) -> None:
        self.app.place(ROOM, "alice", "m.room.name", {"name": ""}, "")
        found = self.app.sync(self.alice, filter=self.LAZY)
        self.assertIn(user_id("dora"), self.members(found))
        heroes = found["rooms"]["join"][ROOM]["summary"]["m.heroes"]
        self.assertEqual(heroes, [user_id("bob"), user_id("carol"), user_id("dora")])

    def test_heroes_are_told_when_what_named_the_room_is_redacted(self) -> None:
        heroes = [user_id(name) for name in ("bob", "carol", "dora")]
        names = (
            ("m.room.name", {"name": "Hall"}),
            ("m.room.canonical_alias", {"alias": "#hall:test.example"}),
        )
        for type_, content in names:
            for after in (0, 3):  # in the timeline, and in the gap before it
                named = self.app.place(ROOM, "alice", type_, content, "")
                since = self.app.sync(self.alice, filter=self.LAZY)["next_batch"]
                self.app.redact(ROOM, "alice", named)
                for number in range(after):
                    self.app.say(ROOM, "alice", f"{number}")
                for source in ("the log", "the tables"):
                    found = self.app.sync(self.alice, since, filter=self.LAZY)
                    summary = found["rooms"]["join"][ROOM].get("summary", {})
                    self.assertEqual(heroes, summary.get("m.heroes"), (type_, after, source))
                    self.assertIn(user_id("dora"), self.members(found))
                    self.app.restart()

    def test_counts_are_told_to_who_wants_no_members(self) -> None:
        few = {"not_types": ["m.room.member"]}
        for source in ("the log", "the tables"):
            for filters in (
                {"timeline": few, "state": few},
                {"timeline": {"types": ["m.room.message"]}, "state": few},
            ):
                since = self.app.sync(self.alice, filter={"room": filters})["next_batch"]
                self.app.member(ROOM, "dora", "leave")
                if source == "the tables":
                    self.app.restart()
                found = self.app.sync(self.alice, since, filter={"room": filters})
                room = found["rooms"]["join"][ROOM]
                self.assertEqual(
                    (3, []), (room["summary"]["m.joined_member_count"], room["timeline"]["events"])
                )
                again = self.app.sync(self.alice, found["next_batch"], filter={"room": filters})
                self.assertNotIn("rooms", again)
                self.app.member(ROOM, "dora", "join")
            # Bridges want no rooms at all, and are not woken.
            nothing: list[dict[str, list[str]]] = [{"not_types": ["*"]}, {"types": []}]
            for none in nothing:
                since = self.app.sync(self.alice)["next_batch"]
                self.app.member(ROOM, "dora", "leave")
                found = self.app.sync(self.alice, since, filter={"room": {"timeline": none, "state": none}})
                self.assertNotIn("rooms", found)
                self.app.member(ROOM, "dora", "join")

    def test_a_message_that_is_redacted_names_no_room(self) -> None:
        said = self.app.say(ROOM, "bob", "hello")
        since = self.app.sync(self.alice)["next_batch"]
        self.app.redact(ROOM, "alice", said)
        found, statements = self.app.count_statements(lambda: self.app.sync(self.alice, since))
        self.assertNotIn("summary", found["rooms"]["join"][ROOM])
        # What is read is how much is unread, and not who is there.
        self.assertEqual([], [one for one in statements if "members" in one])

    def test_told_once(self) -> None:
        since = self.app.sync(self.alice, filter=self.LAZY)["next_batch"]
        self.app.say(ROOM, "bob", "known")
        found = self.app.sync(self.alice, since, filter=self.LAZY)
        self.assertEqual(self.members(found), [])
        since = found["next_batch"]
        self.app.say(ROOM, "dora", "new")
        lost = self.app.sync(self.alice, since, filter=self.LAZY)
        self.assertEqual(self.members(lost), [user_id("dora")])
        # That answer got lost: the client asks again, and must be told again.
        found = self.app.sync(self.alice, since, filter=self.LAZY)
        self.assertEqual(self.members(found), [user_id("dora")])
        since = found["next_batch"]
        self.app.say(ROOM, "dora", "again")
        found, statements = self.app.count_statements(
            lambda: self.app.sync(self.alice, since, filter=self.LAZY)
        )
        self.assertEqual(self.members(found), [])
        self.assertEqual(statements, [])

    def test_redundant_if_asked_for(self) -> None:
        filter_ = {"room": {"state": {"lazy_load_members": True, "include_redundant_members": True}}}
        since = self.app.sync(self.alice, filter=filter_)["next_batch"]
        self.app.say(ROOM, "bob", "known")
        self.assertEqual(self.members(self.app.sync(self.alice, since, filter=filter_)), [user_id("bob")])

    def test_told_again_after_a_restart(self) -> None:
        since = self.app.sync(self.alice, filter=self.LAZY)["next_batch"]
        self.app.restart()
        self.app.say(ROOM, "bob", "hello")
        self.assertEqual(self.members(self.app.sync(self.alice, since, filter=self.LAZY)), [user_id("bob")])

    def test_the_gap_has_every_member_change(self) -> None:
        since = self.app.sync(self.alice, filter=self.LAZY)["next_batch"]
        self.app.member(ROOM, "dora", "leave")
        for number in range(3):
            self.app.say(ROOM, "bob", f"{number}")
        found = self.app.sync(self.alice, since, filter=self.LAZY)
        self.assertEqual(self.members(found), [user_id("dora")])
        self.assertEqual(found["rooms"]["join"][ROOM]["summary"]["m.joined_member_count"], 3)

    def test_the_state_after_has_the_members_of_the_timeline(self) -> None:
        """Clients must not take them from there, and ask for their names by nothing else."""
        self.app.register("erin")
        self.app.member(ROOM, "alice", "invite", "erin", displayname="Erin")
        found = self.app.sync(self.alice, filter=self.LAZY, use_state_after=True)
        events = found["rooms"]["join"][ROOM]["state_after"]["events"]
        told = {one["state_key"]: one["content"] for one in events if one["type"] == "m.room.member"}
        self.assertEqual({user_id(name) for name in ("alice", "carol", "erin")}, set(told))
        self.assertEqual({"membership": "invite", "displayname": "Erin"}, told[user_id("erin")])
