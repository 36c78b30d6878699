"""Classic sync over the API: what each section says. spec: client-server-api#get_matrixclientv3sync"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from homeserver.sync.sections import load_sections
from tests.support.sync import SyncApp, room_path, user_id

ROOM = "!room:test.example"


def bodies(room: Any) -> list[str]:
    """The texts of a timeline's messages."""
    return [event["content"].get("body", event["type"]) for event in room["timeline"]["events"]]


def state_of(room: Any, name: str = "state") -> dict[tuple[str, str], Any]:
    """A state section by key."""
    return {(event["type"], event["state_key"]): event["content"] for event in room[name]["events"]}


def ids_of(room: Any, name: str = "timeline") -> list[str]:
    """The events of a section."""
    return [event["event_id"] for event in room[name]["events"]]


class InitialTests(TestCase):
    def setUp(self) -> None:
        self.app = SyncApp(self)
        self.alice = self.app.register("alice")
        self.bob = self.app.register("bob")

    def test_nothing(self) -> None:
        found = self.app.sync(self.alice)
        self.assertNotIn("rooms", found)
        self.assertEqual(found["device_one_time_keys_count"], {"signed_curve25519": 0})
        self.assertEqual(found["device_unused_fallback_key_types"], [])

    def test_whole_room_in_the_timeline(self) -> None:
        self.app.make_room("alice")
        room = self.app.sync(self.alice)["rooms"]["join"][ROOM]
        self.assertEqual(
            [event["type"] for event in room["timeline"]["events"]],
            ["m.room.create", "m.room.member", "m.room.power_levels", "m.room.join_rules"],
        )
        self.assertFalse(room["timeline"]["limited"])
        self.assertEqual(room["state"]["events"], [])
        self.assertEqual(room["summary"]["m.joined_member_count"], 1)
        self.assertEqual(room["summary"]["m.invited_member_count"], 0)
        self.assertEqual(room["summary"]["m.heroes"], [])
        self.assertEqual(room["unread_notifications"], {"notification_count": 0, "highlight_count": 0})
        for event in room["timeline"]["events"]:
            self.assertNotIn("room_id", event)
            self.assertGreaterEqual(event["unsigned"]["age"], 0)

    def test_limited_timeline_and_the_state_before_it(self) -> None:
        self.app.make_room("alice", m__room__name={"name": "first"})
        for number in range(6):
            self.app.say(ROOM, "alice", f"{number}")
        self.app.place(ROOM, "alice", "m.room.name", {"name": "second"}, "")
        for number in range(6, 12):
            self.app.say(ROOM, "alice", f"{number}")
        room = self.app.sync(self.alice)["rooms"]["join"][ROOM]
        self.assertTrue(room["timeline"]["limited"])
        self.assertEqual(bodies(room), ["3", "4", "5", "m.room.name", "6", "7", "8", "9", "10", "11"])
        self.assertEqual(state_of(room)[("m.room.name", "")], {"name": "first"})
        renamed = room["timeline"]["events"][3]["unsigned"]
        self.assertEqual(renamed["prev_content"], {"name": "first"})
        after = self.app.sync(self.alice, use_state_after=True)["rooms"]["join"][ROOM]
        self.assertNotIn("state", after)
        self.assertEqual(state_of(after, "state_after")[("m.room.name", "")], {"name": "second"})
        unstable = self.app.sync(self.alice, org__matrix__msc4222__use_state_after=True)["rooms"]["join"][
            ROOM
        ]
        self.assertEqual(len(unstable["org.matrix.msc4222.state_after"]["events"]), 5)

    def test_many_rooms_in_a_bounded_number_of_statements(self) -> None:
        counts = []
        self.app.sync(self.alice)
        for number in range(12):
            self.app.make_room("alice", f"!room{number}:test.example")
            self.app.say(f"!room{number}:test.example", "alice", "hello")
            if number in (1, 11):
                self.app.sync(self.alice)  # the numbers of names, once
                _, statements = self.app.count_statements(lambda: self.app.sync(self.alice))
                counts.append(len(statements))
        self.assertEqual(counts[0], counts[1])
        self.assertLessEqual(counts[1], 16)

    def test_invite_is_stripped(self) -> None:
        self.app.make_room("alice", m__room__name={"name": "den"}, m__room__topic={"topic": "t"})
        self.app.member(ROOM, "alice", "invite", "bob")
        found = self.app.sync(self.bob)["rooms"]
        self.assertEqual(list(found), ["invite"])
        events = found["invite"][ROOM]["invite_state"]["events"]
        self.assertEqual(
            {event["type"] for event in events},
            {"m.room.create", "m.room.join_rules", "m.room.name", "m.room.topic", "m.room.member"},
        )
        stripped = {"type", "state_key", "sender", "content"}
        for event in events[:-1]:
            self.assertEqual(set(event), stripped)
        # The invite is whole: when it was sent, and its name. NeoChat shows the one.
        self.assertEqual(set(events[-1]), stripped | {"event_id", "origin_server_ts"})
        self.assertEqual({"events": events[-1:]}, found["invite"][ROOM]["state"])
        # Last the invite; before it who sent it, since clients show their name.
        members = [one["state_key"] for one in events if one["type"] == "m.room.member"]
        self.assertEqual([user_id("alice"), user_id("bob")], members)
        self.assertEqual(events[-1]["state_key"], user_id("bob"))

    def test_knock(self) -> None:
        self.app.make_room("alice")
        self.app.place(ROOM, "alice", "m.room.join_rules", {"join_rule": "knock"}, "")
        self.app.member(ROOM, "bob", "knock")
        room = self.app.sync(self.bob)["rooms"]["knock"][ROOM]
        found = room["knock_state"]["events"]
        self.assertEqual(found[0]["type"], "m.room.create")
        self.assertEqual(found[-1]["content"]["membership"], "knock")
        self.assertIn("origin_server_ts", found[-1])
        self.assertEqual({"events": found[-1:]}, room["state"])

    def test_left_rooms_only_when_asked_for(self) -> None:
        self.app.make_room("alice")
        self.app.member(ROOM, "bob", "join")
        self.app.say(ROOM, "alice", "before")
        self.app.member(ROOM, "bob", "leave")
        self.app.say(ROOM, "alice", "after")
        self.app.place(ROOM, "alice", "m.room.name", {"name": "later"}, "")
        self.assertNotIn("rooms", self.app.sync(self.bob))
        found = self.app.sync(self.bob, filter={"room": {"include_leave": True}})["rooms"]
        room = found["leave"][ROOM]
        self.assertEqual(bodies(room)[-3:], ["m.room.member", "before", "m.room.member"])
        self.assertNotIn(("m.room.name", ""), state_of(room))

    def test_history_visibility_hides_what_was_before_the_join(self) -> None:
        self.app.make_room("alice", m__room__history_visibility={"history_visibility": "joined"})
        self.app.say(ROOM, "alice", "hidden")
        self.app.member(ROOM, "bob", "join")
        self.app.say(ROOM, "alice", "shown")
        room = self.app.sync(self.bob)["rooms"]["join"][ROOM]
        self.assertEqual(bodies(room)[-2:], ["m.room.member", "shown"])
        self.assertNotIn("hidden", bodies(room))
        memberships = [event["unsigned"]["membership"] for event in room["timeline"]["events"]]
        self.assertEqual(memberships[-2:], ["join", "join"])

    def test_shared_history_says_what_the_reader_was(self) -> None:
        self.app.make_room("alice")
        self.app.say(ROOM, "alice", "before")
        self.app.member(ROOM, "bob", "join")
        room = self.app.sync(self.bob)["rooms"]["join"][ROOM]
        self.assertEqual(bodies(room)[-2:], ["before", "m.room.member"])
        memberships = [event["unsigned"]["membership"] for event in room["timeline"]["events"]]
        self.assertEqual(memberships[-2:], ["leave", "join"])

    def test_bad_parameters(self) -> None:
        for query in (
            {"since": "x"},
            {"since": "s1_2"},
            {"timeout": "soon"},
            {"full_state": "yes"},
            {"set_presence": "asleep"},
            {"filter": "17"},
            {"filter": "abc"},
            {"filter": "{"},
            {"filter": '{"room": []}'},
            {"filter": '{"room": {"timeline": {"limit": -1}}}'},
        ):
            status, answer = self.app.call("GET", "/_matrix/client/v3/sync", None, self.alice, query)
            self.assertEqual(status, 400, query)
            self.assertIn(answer["errcode"], ("M_INVALID_PARAM", "M_BAD_JSON", "M_NOT_JSON"))

    def test_a_token_from_the_future_is_now(self) -> None:
        found = self.app.sync(self.alice, "s999999999_0_abc")
        self.assertLess(int(found["next_batch"][1:].split("_")[0]), 999)


class IncrementalTests(TestCase):
    def setUp(self) -> None:
        self.app = SyncApp(self)
        self.alice = self.app.register("alice")
        self.bob = self.app.register("bob")
        self.app.make_room("alice")
        self.app.member(ROOM, "bob", "join", displayname="bob")
        self.app.sync(self.bob)
        self.app.say(ROOM, "alice", "what it takes to count is read with the first message")
        self.since = self.app.sync(self.bob)["next_batch"]

    def sync(self, **query: Any) -> Any:
        return self.app.sync(self.bob, self.since, **query)

    def test_a_message_without_a_statement(self) -> None:
        self.app.sync(self.bob, self.since)
        self.app.say(ROOM, "alice", "hello")
        found, statements = self.app.count_statements(self.sync)
        room = found["rooms"]["join"][ROOM]
        self.assertEqual(bodies(room), ["hello"])
        self.assertFalse(room["timeline"]["limited"])
        self.assertEqual(room["timeline"]["events"][0]["unsigned"]["membership"], "join")
        self.assertEqual(statements, [])

    def test_idle_without_a_statement(self) -> None:
        found, statements = self.app.count_statements(self.sync)
        self.assertEqual(statements, [])
        self.assertNotIn("rooms", found)

    def test_limited_without_a_statement(self) -> None:
        self.app.place(ROOM, "alice", "m.room.topic", {"topic": "in the gap"}, "")
        for number in range(12):
            self.app.say(ROOM, "alice", f"{number}")
        found, statements = self.app.count_statements(self.sync)
        room = found["rooms"]["join"][ROOM]
        self.assertEqual(statements, [])
        self.assertTrue(room["timeline"]["limited"])
        self.assertEqual(bodies(room), [f"{number}" for number in range(2, 12)])
        self.assertEqual(state_of(room), {("m.room.topic", ""): {"topic": "in the gap"}})

    def test_the_same_from_the_tables(self) -> None:
        self.app.place(ROOM, "alice", "m.room.topic", {"topic": "in the gap"}, "")
        for number in range(12):
            self.app.say(ROOM, "alice", f"{number}")
        self.app.place(ROOM, "alice", "m.room.topic", {"topic": "at the end"}, "")
        from_log = self.sync()["rooms"]
        self.app.restart()
        from_tables = self.sync()["rooms"]
        self.assertEqual(from_tables, from_log)

    def test_transaction_id_for_the_sending_device_only(self) -> None:
        path = f"{room_path(ROOM)}/send/m.room.message/a/b".replace("a/b", "a%2Fb")
        self.app.ok("PUT", path, {"msgtype": "m.text", "body": "mine"}, self.bob)
        other = self.app.ok(
            "POST",
            "/_matrix/client/v3/login",
            {
                "type": "m.login.password",
                "identifier": {"type": "m.id.user", "user": "bob"},
                "password": "correct horse",
            },
        )["access_token"]
        for _ in range(2):
            mine = self.sync()["rooms"]["join"][ROOM]["timeline"]["events"][-1]
            self.assertEqual(mine["unsigned"]["transaction_id"], "a/b")
            theirs = self.app.sync(other, self.since)["rooms"]["join"][ROOM]["timeline"]["events"][-1]
            self.assertNotIn("transaction_id", theirs["unsigned"])
            self.app.restart()

    def test_state_change_says_what_it_replaced(self) -> None:
        first = self.app.place(ROOM, "alice", "m.room.name", {"name": "one"}, "")
        self.app.place(ROOM, "alice", "m.room.name", {"name": "two"}, "")
        events = self.sync()["rooms"]["join"][ROOM]["timeline"]["events"]
        self.assertNotIn("prev_content", events[0]["unsigned"])
        self.assertEqual(events[1]["unsigned"]["prev_content"], {"name": "one"})
        self.assertEqual(events[1]["unsigned"]["replaces_state"], first)

    def test_the_state_after_says_what_it_replaced(self) -> None:
        """As the timeline does: clients take a member's name from what a kick replaced."""
        self.app.member(ROOM, "carol", "join", displayname="Carol")
        self.since = self.app.sync(self.bob)["next_batch"]
        self.app.member(ROOM, "alice", "leave", "carol")
        self.app.place(ROOM, "alice", "m.room.name", {"name": "one"}, "")
        short = {"room": {"timeline": {"limit": 1}}}
        for query in ({}, {"filter": short}):
            for source in ("the log", "the tables"):
                found = self.app.sync(self.bob, self.since, use_state_after=True, **query)
                named, kicked = sorted(
                    found["rooms"]["join"][ROOM]["state_after"]["events"], key=lambda one: one["state_key"]
                )
                self.assertNotIn("prev_content", named["unsigned"], source)
                self.assertEqual(
                    {"membership": "join", "displayname": "Carol"}, kicked["unsigned"]["prev_content"], source
                )
                self.assertEqual(user_id("carol"), kicked["unsigned"]["prev_sender"], source)
                self.assertIn("replaces_state", kicked["unsigned"], source)
                self.app.restart()

    def test_the_state_after_a_join_says_by_what_it_was_asked_for(self) -> None:
        """Clients that read the state after the timeline know a direct chat by nothing else."""
        other = "!other:test.example"
        self.app.make_room("alice", other)
        self.app.member(other, "alice", "invite", "bob", is_direct=True)
        self.since = self.app.sync(self.bob)["next_batch"]
        self.app.member(other, "bob", "join")
        for _ in range(2):
            found = self.app.sync(self.bob, self.since, use_state_after=True)["rooms"]["join"][other]
            (join,) = [one for one in found["state_after"]["events"] if one["state_key"] == user_id("bob")]
            self.assertIs(True, join["unsigned"]["prev_content"]["is_direct"])
            self.assertEqual(user_id("alice"), join["unsigned"]["prev_sender"])
            self.app.restart()

    def test_joining_brings_the_whole_room(self) -> None:
        other = "!other:test.example"
        self.app.make_room("alice", other, m__room__name={"name": "other"})
        for number in range(12):
            self.app.say(other, "alice", f"{number}")
        self.app.member(other, "bob", "join")
        room = self.sync()["rooms"]["join"][other]
        self.assertTrue(room["timeline"]["limited"])
        self.assertEqual(len(bodies(room)), 10)
        self.assertEqual(state_of(room)[("m.room.name", "")], {"name": "other"})
        self.assertEqual(room["summary"]["m.joined_member_count"], 2)

    def test_a_new_name_of_ones_own_is_no_join(self) -> None:
        self.app.member(ROOM, "bob", "join", displayname="robert")
        for _ in range(2):
            room = self.sync()["rooms"]["join"][ROOM]
            self.assertEqual(len(room["timeline"]["events"]), 1)
            self.assertEqual(room["timeline"]["events"][0]["unsigned"]["prev_content"]["displayname"], "bob")
            self.assertEqual(room["state"]["events"], [])
            self.app.restart()

    def test_leaving_shows_everything_up_to_it(self) -> None:
        self.app.say(ROOM, "alice", "last words")
        self.app.member(ROOM, "alice", "leave", "bob", reason="out")
        self.app.say(ROOM, "alice", "secret")
        found = self.sync()["rooms"]
        self.assertEqual(list(found), ["leave"])
        room = found["leave"][ROOM]
        self.assertEqual(bodies(room), ["last words", "m.room.member"])
        self.assertEqual(room["timeline"]["events"][-1]["unsigned"]["membership"], "leave")
        self.assertNotIn("rooms", self.app.sync(self.bob, self.app.sync(self.bob, self.since)["next_batch"]))

    def test_kicked_then_banned(self) -> None:
        self.app.member(ROOM, "alice", "leave", "bob")
        self.app.say(ROOM, "alice", "secret")
        self.app.place(ROOM, "alice", "m.room.topic", {"topic": "secret"}, "")
        self.app.member(ROOM, "alice", "ban", "bob")
        room = self.sync()["rooms"]["leave"][ROOM]
        memberships = [event["content"]["membership"] for event in room["timeline"]["events"]]
        self.assertEqual(memberships, ["leave", "ban"])
        self.assertEqual(room["state"]["events"], [])
        after = self.sync(use_state_after=True)["rooms"]["leave"][ROOM]
        self.assertEqual([room["timeline"]["events"][-1]["event_id"]], ids_of(after, "state_after"))

    def test_the_state_after_has_what_happened_to_who_is_gone(self) -> None:
        """Clients know only by it that an invite was turned down or taken back, and that a ban is over."""
        other = "!other:test.example"
        self.app.make_room("alice", other)
        for membership, who, before in (
            ("invite", "alice", None),
            ("leave", "bob", "invite"),
            ("knock", "bob", None),
            ("leave", "alice", "knock"),
            ("ban", "alice", "leave"),
            ("leave", "alice", "ban"),
        ):
            if membership == "knock":
                self.app.place(other, "alice", "m.room.join_rules", {"join_rule": "knock"}, "")
            since = self.app.sync(self.bob)["next_batch"]
            event_id = self.app.member(other, who, membership, "bob")
            if before is None:
                continue
            query: dict[str, Any]
            for query in ({}, {"filter": {"room": {"timeline": {"limit": 0}}}}):
                found = self.app.sync(self.bob, since, use_state_after=True, **query)["rooms"]
                self.assertEqual(["leave"], list(found), before)
                (event,) = found["leave"][other]["state_after"]["events"]
                self.assertEqual(event_id, event["event_id"], before)
                self.assertEqual(before, event["unsigned"]["prev_content"]["membership"])
            plain = self.app.sync(self.bob, since)["rooms"]["leave"][other]
            self.assertEqual([], plain["state"]["events"])
            (event,) = plain["timeline"]["events"]
            self.assertEqual(before, event["unsigned"]["prev_content"]["membership"])

    def test_rejected_invite_is_left(self) -> None:
        other = "!other:test.example"
        self.app.make_room("alice", other)
        self.app.member(other, "alice", "invite", "bob")
        since = self.sync()["next_batch"]
        self.app.say(other, "alice", "secret")
        self.app.member(other, "bob", "leave")
        found = self.app.sync(self.bob, since)["rooms"]
        self.assertEqual(list(found), ["leave"])
        self.assertEqual(bodies(found["leave"][other]), ["m.room.member"])

    def test_rejoined_room_hides_what_was_missed(self) -> None:
        self.app.place(ROOM, "alice", "m.room.history_visibility", {"history_visibility": "joined"}, "")
        self.app.member(ROOM, "bob", "leave")
        self.app.say(ROOM, "alice", "missed")
        self.app.member(ROOM, "bob", "join")
        self.app.say(ROOM, "alice", "seen")
        room = self.sync()["rooms"]["join"][ROOM]
        self.assertIn("seen", bodies(room))
        self.assertNotIn("missed", bodies(room))
        self.assertTrue(room["timeline"]["limited"])

    def test_forgotten_rooms_are_gone(self) -> None:
        from homeserver.store.members import forget_room

        self.app.member(ROOM, "bob", "leave")
        core = self.app.app.core
        nids = core.interner.known_user(user_id("bob")), core.interner.known_room(ROOM)
        self.app.wait(core.committer.work(forget_room, *nids))  # type: ignore[arg-type]
        # A client that shows the room hears that it is over, once; and nobody hears of it again.
        told = self.sync()
        self.assertEqual([ROOM], list(told["rooms"]["leave"]))
        self.assertNotIn("rooms", self.app.sync(self.bob, since=told["next_batch"]))
        self.assertNotIn("rooms", self.app.sync(self.bob, filter={"room": {"include_leave": True}}))

    def test_redaction(self) -> None:
        said = self.app.say(ROOM, "alice", "oops")
        since = self.sync()["next_batch"]
        by = self.app.redact(ROOM, "alice", said)
        events = self.sync()["rooms"]["join"][ROOM]["timeline"]["events"]
        self.assertEqual(events[0]["content"], {})
        self.assertEqual(events[0]["unsigned"]["redacted_because"]["event_id"], by)
        self.assertEqual(events[1]["redacts"], said)
        later = self.app.sync(self.bob, since)["rooms"]["join"][ROOM]["timeline"]["events"]
        self.assertEqual([event["event_id"] for event in later], [by])

    def test_full_state(self) -> None:
        self.app.say(ROOM, "alice", "hello")
        room = self.sync(full_state=True, timeout=30000)["rooms"]["join"][ROOM]
        self.assertEqual(bodies(room), ["hello"])
        self.assertIn(("m.room.create", ""), state_of(room))
        again = self.sync(full_state=True)["next_batch"]
        quiet = self.app.sync(self.bob, again, full_state=True)["rooms"]["join"][ROOM]
        self.assertEqual(bodies(quiet), [])
        self.assertIn(("m.room.create", ""), state_of(quiet))

    def test_account_data(self) -> None:
        self.app.put_account_data(self.bob, "", "org.example.a", {"n": 1})
        self.app.put_account_data(self.bob, "", "org.example.a", {"n": 2})
        self.app.put_account_data(self.bob, ROOM, "m.tag", {"tags": {}})
        for found in (self.sync(), self.app.sync(self.bob)):
            events = [one for one in found["account_data"]["events"] if one["type"] == "org.example.a"]
            self.assertEqual(events, [{"type": "org.example.a", "content": {"n": 2}}])
            room = found["rooms"]["join"][ROOM]
            self.assertEqual(room["account_data"]["events"], [{"type": "m.tag", "content": {"tags": {}}}])
        self.app.restart()
        found = self.sync()
        self.assertEqual(found["rooms"]["join"][ROOM]["timeline"]["events"], [])
        self.assertNotIn("account_data", self.app.sync(self.alice, self.since))

    def test_ignored_users(self) -> None:
        content: dict[str, Any] = {"ignored_users": {user_id("alice"): {}}}
        self.app.put_account_data(self.bob, "", "m.ignored_user_list", content)
        self.app.say(ROOM, "alice", "unheard")
        self.app.place(ROOM, "alice", "m.room.topic", {"topic": "heard"}, "")
        other = self.app.make_room("alice", "!other:test.example")
        self.app.member(other, "alice", "invite", "bob")
        for _ in range(2):
            found = self.sync()["rooms"]
            self.assertEqual(bodies(found["join"][ROOM]), ["m.room.topic"])
            self.assertNotIn("invite", found)
            self.app.restart()
        self.app.put_account_data(self.bob, "", "m.ignored_user_list", {"ignored_users": "nonsense"})
        since = self.sync()["next_batch"]
        self.app.say(ROOM, "alice", "heard again")
        self.assertEqual(bodies(self.app.sync(self.bob, since)["rooms"]["join"][ROOM]), ["heard again"])


class MovingTests(TestCase):
    """Memberships that move while an answer is read from the tables."""

    def test_a_room_that_was_left_and_is_joined_again_meanwhile(self) -> None:
        app = SyncApp(self)
        app.register("alice")
        bob = app.register("bob")
        app.make_room("alice")
        app.member(ROOM, "bob", "join")
        since = app.sync(bob)["next_batch"]
        app.put_account_data(bob, ROOM, "m.note", {"kept": True})
        app.say(ROOM, "alice", "heard once")
        app.member(ROOM, "bob", "leave")
        gate: Deferred[None] = Deferred()
        read = app.database.read

        def slowly(unit: Any, *args: Any, **kwargs: Any) -> Deferred[Any]:
            found = read(unit, *args, **kwargs)
            return found if unit is not load_sections else gate.addCallback(lambda _: found)

        self.patch(app.database, "read", slowly)
        poll = app.poll(bob, since)
        app.advance(0)
        app.member(ROOM, "bob", "join")
        self.assertFalse(poll.called)
        gate.callback(None)
        rooms = app.wait(poll).json["rooms"]
        # The moment that the answer is of is that of the leave; the join comes with the next.
        self.assertNotIn("join", rooms)
        left = rooms["leave"][ROOM]
        self.assertEqual(["heard once", "m.room.member"], bodies(left))
        self.assertEqual(["m.note"], [one["type"] for one in left["account_data"]["events"]])

    def joins_first(self, app: SyncApp, devices: Any) -> None:
        """Have bob come into his first room while his next answer is prepared."""
        prepare = devices.prepare
        joined: list[bool] = []

        def join_and_prepare(requester: Any) -> Any:
            if not joined:
                joined.append(True)
                app.member(ROOM, "bob", "join")
                app.say(ROOM, "alice", "welcome")
            return prepare(requester)

        self.patch(devices, "prepare", join_and_prepare)

    def test_a_first_join_while_an_answer_is_prepared(self) -> None:
        """The number of the user's own membership is there with the join, and not before."""
        app = SyncApp(self)
        app.register("alice")
        bob = app.register("bob")
        app.make_room("alice")
        since = app.sync(bob)["next_batch"]
        app.put_account_data(bob, "", "m.note", {"idle": False})
        self.joins_first(app, app.app.services.syncing.classic._devices)
        room = app.sync(bob, since)["rooms"]["join"][ROOM]
        self.assertEqual(bodies(app.sync(bob)["rooms"]["join"][ROOM]), bodies(room))
        self.assertEqual("m.room.create", bodies(room)[0])

    def test_the_same_in_sliding_sync(self) -> None:
        app = SyncApp(self)
        app.register("alice")
        bob = app.register("bob")
        app.make_room("alice")
        path = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
        required = [["m.room.create", ""], ["m.room.member", "$ME"]]
        rule = {"ranges": [[0, 9]], "timeline_limit": 9, "required_state": required}
        body = {"lists": {"all": rule}, "extensions": {"e2ee": {"enabled": True}}}
        pos = app.ok("POST", path, body, bob)["pos"]
        self.joins_first(app, app.app.services.syncing.sliding._devices)
        room = app.ok("POST", path, body, bob, {"pos": pos})["rooms"][ROOM]
        again = app.ok("POST", path, body, bob)["rooms"][ROOM]
        for name in ("required_state", "timeline"):
            self.assertEqual(
                [one["event_id"] for one in again[name]], [one["event_id"] for one in room[name]]
            )
        self.assertEqual(6, len(room["timeline"]))


class PollTests(TestCase):
    def setUp(self) -> None:
        self.app = SyncApp(self)
        self.alice = self.app.register("alice")
        self.bob = self.app.register("bob")
        self.app.make_room("alice")
        self.app.member(ROOM, "bob", "join")
        self.since = self.app.sync(self.bob)["next_batch"]

    def test_woken_by_a_message(self) -> None:
        polls = [self.app.poll(self.bob, self.since) for _ in range(3)]
        self.app.advance(5)
        self.assertEqual([poll.called for poll in polls], [False] * 3)
        self.app.say(ROOM, "alice", "hello")
        for poll in polls:
            self.assertEqual(bodies(self.app.wait(poll).json["rooms"]["join"][ROOM]), ["hello"])
        self.assertEqual(len(self.app.app.core.notifier), 0)

    def test_woken_by_an_invite(self) -> None:
        self.app.make_room("alice", "!other:test.example")
        poll = self.app.poll(self.bob, self.since)
        self.app.member("!other:test.example", "alice", "invite", "bob")
        self.assertIn("!other:test.example", self.app.wait(poll).json["rooms"]["invite"])

    def test_the_time_is_up(self) -> None:
        poll = self.app.poll(self.bob, self.since, 10)
        self.app.advance(9)
        self.assertFalse(poll.called)
        self.app.advance(2)
        answer = self.app.wait(poll).json
        self.assertNotIn("rooms", answer)
        self.assertIn("next_batch", answer)
        self.assertEqual(len(self.app.app.core.notifier), 0)

    def test_nothing_for_them_does_not_end_it(self) -> None:
        quiet = {"presence": {"types": []}, "room": {"timeline": {"not_types": ["m.room.message"]}}}
        poll = self.app.poll(self.bob, self.since, 30, filter=quiet)
        self.app.say(ROOM, "alice", "unwanted")
        self.app.advance(1)
        self.assertFalse(poll.called)
        self.app.place(ROOM, "alice", "m.room.topic", {"topic": "wanted"}, "")
        room = self.app.wait(poll).json["rooms"]["join"][ROOM]
        self.assertEqual(bodies(room), ["m.room.topic"])

    def test_the_client_goes_away(self) -> None:
        poll = self.app.poll(self.bob, self.since)
        poll.addErrback(lambda _: None)
        poll.cancel()
        self.app.say(ROOM, "alice", "hello")
        self.app.advance(1)
        self.assertEqual(len(self.app.app.core.notifier), 0)
