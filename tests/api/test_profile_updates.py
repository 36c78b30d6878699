"""Profiles in sync: MSC4262 (sliding), MSC4429 (classic), and the status fields of MSC4426."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from twisted.internet.defer import Deferred

from homeserver.sync.profiles import ProfileNews
from tests.api.servers import place_event
from tests.support.databases import DatabaseCase, on_each_database
from tests.support.sync import SyncApp, user_id

SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
EXTENSION = "org.matrix.msc4262.profiles"
USERS = "org.matrix.msc4429.users"
STATUS = "org.matrix.msc4426.status"
ALICE, BOB = user_id("alice"), user_id("bob")
FAR, FARTHER = "@far:elsewhere.example", "@farther:elsewhere.example"
PICTURE = "mxc://elsewhere.example/far"
BUSY = {"text": "busy", "emoji": "🏊"}


class ProfileCase(DatabaseCase):
    def setUp(self) -> None:
        self.app = SyncApp(self, database=self.new_database())
        self.alice = self.app.register("alice")
        self.bob = self.app.register("bob")

    def share(self, name: str = "shared") -> str:
        room_id = self.app.make_room("alice", f"!{name}:test.example")
        self.app.member(room_id, "bob", "join")
        return room_id

    def set(self, field: str, value: Any, token: str = "", who: str = ALICE) -> None:
        path = f"/_matrix/client/v3/profile/{who}/{field}"
        self.app.ok("PUT", path, {field: value}, token or self.alice)

    def drop(self, field: str) -> None:
        self.app.ok("DELETE", f"/_matrix/client/v3/profile/{ALICE}/{field}", None, self.alice)

    def far(self, room_id: str, membership: str = "join", who: str = FAR, **content: Any) -> str:
        """A user of another server says what they are in a room; the event."""
        return place_event(
            self.app, room_id, "m.room.member", {"membership": membership, **content}, who, who
        )


@on_each_database
class StatusTests(ProfileCase):
    def test_shapes(self) -> None:
        for field in ("m.status", STATUS):
            self.set(field, BUSY)
            self.set(field, {"text": "a" * 256, "emoji": "🏊" * 8})
            self.set(field, None)
        self.set("m.call", {"call_joined_ts": 1})
        self.set("org.matrix.msc4426.call", {})
        cases: tuple[tuple[str, Any, str], ...] = (
            ("m.status", "busy", "M_BAD_JSON"),
            ("m.status", {"text": "busy"}, "M_BAD_JSON"),
            ("m.status", {"text": 1, "emoji": "x"}, "M_BAD_JSON"),
            ("m.status", {"text": "a" * 257, "emoji": "x"}, "M_TOO_LARGE"),
            ("m.status", {"text": "ä" * 129, "emoji": "x"}, "M_TOO_LARGE"),
            (STATUS, {"text": "a", "emoji": "x" * 33}, "M_TOO_LARGE"),
            ("m.call", [], "M_BAD_JSON"),
            ("m.call", {"call_joined_ts": "now"}, "M_BAD_JSON"),
            ("m.call", {"call_joined_ts": True}, "M_BAD_JSON"),
        )
        for field, value, code in cases:
            path = f"/_matrix/client/v3/profile/{ALICE}/{field}"
            status, body = self.app.call("PUT", path, {field: value}, self.alice)
            self.assertEqual((status, body["errcode"]), (400, code), value)


@on_each_database
class SlidingProfileTests(ProfileCase):
    def ask(
        self, pos: str | None = None, fields: list[str] | None = None, required: Any = (), **changes: Any
    ) -> tuple[str, Any]:
        extension: dict[str, Any] = {"enabled": True, **changes}
        if fields is not None:
            extension["fields"] = fields
        lists = {"all": {"ranges": [[0, 9]], "timeline_limit": 5, "required_state": list(required)}}
        query = {} if pos is None else {"pos": pos}
        body = {"lists": lists, "extensions": {EXTENSION: extension}}
        answer = self.app.ok("POST", SLIDING, body, self.bob, query)
        return answer["pos"], answer["extensions"].get(EXTENSION, {}).get("users", {})

    def test_what_there_is_and_what_changes(self) -> None:
        self.set("org.example.a", 1)
        self.set("org.example.b", {"x": [1]})
        self.share()
        pos, users = self.ask(fields=["org.example.a", STATUS])
        self.assertEqual(users, {ALICE: {"updated": {"org.example.a": 1}}})
        self.assertEqual(self.ask(pos, fields=["org.example.a", STATUS])[1], {})
        self.set(STATUS, BUSY)
        self.set("org.example.b", 2)
        pos, users = self.ask(pos, fields=["org.example.a", STATUS])
        self.assertEqual(users, {ALICE: {"updated": {STATUS: BUSY}}})
        self.drop(STATUS)
        self.set("org.example.a", 3)
        pos, users = self.ask(pos, fields=["org.example.a", STATUS])
        self.assertEqual(users, {ALICE: {"updated": {"org.example.a": 3}, "removed": [STATUS]}})
        # A field that was not asked for before.
        pos, users = self.ask(pos, fields=["org.example.b"])
        self.assertEqual(users, {ALICE: {"updated": {"org.example.b": 2}}})
        # Every field.
        pos, users = self.ask(pos)
        told = {"org.example.a": 3, "org.example.b": 2, "displayname": "alice"}
        self.assertEqual(users[ALICE]["updated"], told)

    def test_changes_are_told_after_a_restart_and_when_nobody_asked(self) -> None:
        self.share()
        pos, _ = self.ask()
        self.set(STATUS, BUSY)
        self.app.restart()
        pos, users = self.ask(pos)
        self.assertEqual(users, {ALICE: {"updated": {STATUS: BUSY}}})
        self.set(STATUS, {"text": "", "emoji": "x"})
        pos, users = self.ask(pos, enabled=False)
        self.assertEqual(users, {})
        pos, users = self.ask(pos)
        self.assertEqual(users, {ALICE: {"updated": {STATUS: {"text": "", "emoji": "x"}}}})
        self.assertEqual(self.ask(pos)[1], {})

    def test_ones_own_and_those_of_strangers(self) -> None:
        self.set("org.example.a", 1, self.bob, BOB)
        pos, users = self.ask(fields=["org.example.a", STATUS])
        self.assertEqual(users, {BOB: {"updated": {"org.example.a": 1}}})
        pos, _ = self.ask()
        self.set(STATUS, BUSY)
        self.assertEqual(self.ask(pos)[1], {})
        self.set(STATUS, BUSY, self.bob, BOB)
        pos, users = self.ask(pos)
        self.assertEqual(users, {BOB: {"updated": {STATUS: BUSY}}})

    def test_who_shares_no_room_any_more(self) -> None:
        room_id = self.share()
        pos, _ = self.ask()
        self.app.member(room_id, "bob", "leave")
        pos, users = self.ask(pos)
        self.assertEqual(users, {ALICE: None})
        self.set(STATUS, BUSY)
        self.assertEqual(self.ask(pos)[1], {})

    def test_members_who_are_loaded_as_they_are_needed(self) -> None:
        self.set(STATUS, BUSY)
        carol = self.app.register("carol")
        self.set(STATUS, BUSY, carol, user_id("carol"))
        room_id = self.share()
        self.app.member(room_id, "carol", "join")
        for number in range(6):
            self.app.say(room_id, "alice", str(number))
        self.app.place(room_id, "alice", "m.room.name", {"name": "No heroes"}, "")
        lazy = [["m.room.member", "$LAZY"]]
        pos, users = self.ask(fields=[STATUS], required=lazy)
        self.assertEqual(set(users), {ALICE})
        self.app.say(room_id, "carol", "hello")
        pos, users = self.ask(pos, fields=[STATUS], required=lazy)
        self.assertEqual(set(users), {user_id("carol")})

    def test_users_of_other_servers_by_their_memberships(self) -> None:
        one, other = self.share("one"), self.share("other")
        for room_id in (one, other):
            self.far(room_id, displayname="Far")
        pos, users = self.ask()
        self.assertEqual({"updated": {"displayname": "Far"}}, users[FAR])
        self.assertEqual({}, self.ask(pos)[1])
        for room_id in (one, other):
            self.far(room_id, displayname="Farther", avatar_url=PICTURE)
        again = pos
        pos, users = self.ask(again)
        self.assertEqual({FAR: {"updated": {"displayname": "Farther", "avatar_url": PICTURE}}}, users)
        # What is said again, leaving one of several rooms, and what is no name, changes nothing.
        self.far(one, displayname="Farther", avatar_url=PICTURE)
        self.far(one, "leave")
        pos, users = self.ask(pos)
        self.assertEqual({}, users)
        self.far(other, displayname=["x"], avatar_url=PICTURE)
        pos, users = self.ask(pos)
        self.assertEqual({FAR: {"removed": ["displayname"]}}, users)
        self.app.restart()
        pos, users = self.ask(again)
        self.assertEqual({FAR: {"updated": {"avatar_url": PICTURE}, "removed": ["displayname"]}}, users)
        self.far(other, displayname="Last", avatar_url=PICTURE)
        pos, users = self.ask(pos, fields=["avatar_url", STATUS])
        self.assertEqual({FAR: {"updated": {"avatar_url": PICTURE}}}, users)
        self.far(other, "leave")
        self.assertEqual({FAR: None}, self.ask(pos, fields=["avatar_url", STATUS])[1])

    def test_other_servers_users_where_the_reader_leaves_and_who_is_a_stranger(self) -> None:
        room_id = self.share()
        self.far(room_id, displayname="Far")
        elsewhere = self.app.make_room("alice", "!elsewhere:test.example")
        self.far(elsewhere, who=FARTHER, displayname="Farther")
        pos, users = self.ask()
        self.assertNotIn(FARTHER, users)
        self.far(elsewhere, who=FARTHER, displayname="Still farther")
        self.assertEqual({}, self.ask(pos)[1])
        self.app.member(room_id, "bob", "leave")
        pos, users = self.ask(pos)
        self.assertEqual({ALICE: None, FAR: None}, users)
        self.far(room_id, displayname="Unseen")
        self.assertEqual({}, self.ask(pos)[1])

    def test_who_came_after_the_reader_had_gone_is_not_named(self) -> None:
        for name in ("carol", "dave"):
            self.app.register(name)
        room_id = self.share()
        self.app.member(room_id, "carol", "join")
        self.far(room_id)
        pos, _ = self.ask()
        self.app.member(room_id, "bob", "leave")
        self.app.member(room_id, "carol", "leave")
        self.far(room_id, "leave")
        self.app.member(room_id, "dave", "join")
        self.far(room_id, who=FARTHER)
        pos, users = self.ask(pos)
        self.assertEqual({ALICE: None, user_id("carol"): None, FAR: None}, users)
        # An invite shows nobody who is there.
        for sender, membership in (("alice", "invite"), ("bob", "leave")):
            self.app.member(room_id, sender, membership, "bob")
            pos, users = self.ask(pos)
            self.assertEqual({}, users)

    def test_a_redacted_name_is_none(self) -> None:
        room_id = self.share()
        named = self.far(room_id, displayname="Rude")
        self.app.redact(room_id, "alice", named)
        pos, users = self.ask()
        self.assertNotIn(FAR, users)
        self.far(room_id, displayname="Kind")
        self.assertEqual({FAR: {"updated": {"displayname": "Kind"}}}, self.ask(pos)[1])

    def test_a_change_wakes(self) -> None:
        self.share()
        pos, _ = self.ask()
        body = {"extensions": {EXTENSION: {"enabled": True}}}
        waiting = self.app.start("POST", SLIDING, body, self.bob, {"pos": pos, "timeout": "30000"})
        self.assertFalse(waiting.called)
        self.set(STATUS, BUSY)
        users = self.app.wait(waiting).json["extensions"][EXTENSION]["users"]
        self.assertEqual(users, {ALICE: {"updated": {STATUS: BUSY}}})

    def test_it_is_advertised(self) -> None:
        features = self.app.ok("GET", "/_matrix/client/versions")["unstable_features"]
        self.assertTrue(features["org.matrix.msc4262"] and features["org.matrix.msc4429"])


@on_each_database
class ClassicProfileTests(ProfileCase):
    def filter(self, *ids: str) -> dict[str, Any]:
        return {"filter": {"org.matrix.msc4429.profile_fields": {"ids": list(ids)}}}

    def test_ones_own(self) -> None:
        self.set(STATUS, BUSY, self.bob, BOB)
        asked = self.filter(STATUS)
        answer = self.app.sync(self.bob, **asked)
        self.assertEqual(answer[USERS], {BOB: {"profile_updates": {STATUS: BUSY}}})
        self.assertNotIn(USERS, self.app.sync(self.bob, answer["next_batch"], **asked))

    def test_who_went_before_an_answer_is_told_though_the_reader_goes_while_it_is_made(self) -> None:
        core = self.app.app.core
        news = ProfileNews(self.app.database, core.interner, core.index, core.changes, core.facts)
        room_id = self.share()
        self.app.register("carol")
        self.app.member(room_id, "carol", "join")
        places = [core.changes.position]
        for name in ("carol", "bob"):
            self.app.member(room_id, name, "leave")
            places.append(core.changes.position)
        bob, carol = (core.interner.known_user(f"@{name}:test.example") for name in ("bob", "carol"))
        assert bob is not None
        told: set[int] = set()
        for since, upto in pairwise(places):
            told |= self.app.wait(Deferred.fromCoroutine(news.departed(bob, since, upto, None))).keys()
        self.assertIn(carol, told)

    def test_it_is_for_who_asks(self) -> None:
        self.share()
        self.set(STATUS, BUSY)
        answer = self.app.sync(self.bob)
        self.assertNotIn(USERS, answer)
        self.set(STATUS, None)
        self.assertNotIn(USERS, self.app.sync(self.bob, answer["next_batch"]))

    def test_what_there_is_and_what_changes(self) -> None:
        self.share()
        self.set(STATUS, BUSY)
        self.set("org.example.other", 1)
        asked = self.filter(STATUS, "displayname")
        answer = self.app.sync(self.bob, **asked)
        self.assertEqual(answer[USERS][ALICE], {"profile_updates": {STATUS: BUSY, "displayname": "alice"}})
        since = answer["next_batch"]
        self.assertNotIn(USERS, self.app.sync(self.bob, since, **asked))
        self.set("org.example.other", 2)
        self.assertNotIn(USERS, self.app.sync(self.bob, since, **asked))
        self.drop(STATUS)
        answer = self.app.sync(self.bob, since, **asked)
        self.assertEqual(answer[USERS], {ALICE: {"profile_updates": {STATUS: None}}})
        self.app.restart()
        answer = self.app.sync(self.bob, since, **asked)
        self.assertEqual(answer[USERS], {ALICE: {"profile_updates": {STATUS: None}}})
        stable = {"filter": {"profile_fields": {"ids": [STATUS]}}}
        self.assertIn("users", self.app.sync(self.bob, since, **stable))

    def test_a_change_wakes(self) -> None:
        self.share()
        asked = self.filter(STATUS)
        since = self.app.sync(self.bob, **asked)["next_batch"]
        waiting = self.app.poll(self.bob, since, **asked)
        deaf = self.app.poll(self.bob, since)
        self.set(STATUS, BUSY)
        answer = self.app.wait(waiting).json
        self.assertEqual(answer[USERS], {ALICE: {"profile_updates": {STATUS: BUSY}}})
        self.app.advance(5)
        self.assertFalse(deaf.called)
        self.app.advance(60)

    def test_who_leaves_and_who_comes(self) -> None:
        self.set(STATUS, BUSY)
        asked = self.filter(STATUS)
        since = self.app.sync(self.bob, **asked)["next_batch"]
        room_id = self.share()
        answer = self.app.sync(self.bob, since, **asked)
        self.assertEqual(answer[USERS], {ALICE: {"profile_updates": {STATUS: BUSY}}})
        self.app.member(room_id, "alice", "leave")
        answer = self.app.sync(self.bob, answer["next_batch"], **asked)
        self.assertEqual(answer[USERS], {ALICE: {"profile_updates": None}})

    def test_who_came_after_the_reader_had_gone_is_not_named(self) -> None:
        self.app.register("carol")
        room_id = self.share()
        asked = self.filter(STATUS, "displayname")
        since = self.app.sync(self.bob, **asked)["next_batch"]
        self.app.member(room_id, "bob", "leave")
        self.app.member(room_id, "carol", "join")
        self.far(room_id)
        answer = self.app.sync(self.bob, since, **asked)
        self.assertEqual({ALICE: {"profile_updates": None}}, answer[USERS])

    def test_users_of_other_servers(self) -> None:
        room_id = self.share()
        self.far(room_id, displayname="Far", avatar_url=PICTURE)
        asked = self.filter("displayname", STATUS)
        lazy = {"filter": {**asked["filter"], "room": {"state": {"lazy_load_members": True}}}}
        told = [self.app.sync(self.bob, **query) for query in (asked, lazy)]
        for answer in told:
            self.assertEqual({"profile_updates": {"displayname": "Far"}}, answer[USERS][FAR])
        since = told[0]["next_batch"]
        self.assertNotIn(USERS, self.app.sync(self.bob, since, **self.filter(STATUS)))
        self.far(room_id, displayname="Farther")
        answer = self.app.sync(self.bob, since, **asked)
        self.assertEqual({FAR: {"profile_updates": {"displayname": "Farther"}}}, answer[USERS])
        self.app.restart()
        answer = self.app.sync(self.bob, since, **asked)
        self.assertEqual({FAR: {"profile_updates": {"displayname": "Farther"}}}, answer[USERS])
        self.far(room_id, "leave")
        answer = self.app.sync(self.bob, answer["next_batch"], **asked)
        self.assertEqual({FAR: {"profile_updates": None}}, answer[USERS])

    def test_hostile_filters(self) -> None:
        hostile: tuple[Any, ...] = ([], {"ids": "x"}, {"ids": [1]}, {"ids": ["x"] * 1001})
        for wrong in hostile:
            query = {"filter": json.dumps({"org.matrix.msc4429.profile_fields": wrong})}
            status, _ = self.app.call("GET", "/_matrix/client/v3/sync", None, self.bob, query)
            self.assertEqual(status, 400, wrong)
