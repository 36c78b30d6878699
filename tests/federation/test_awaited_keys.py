"""Joins for which a server's keys are not to be had at that moment: its events come later, or never.

spec: server-server-api#validating-hashes-and-signatures-on-received-events
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from federation.hashes import compute_event_id
from federation.ids import KeyId, ServerName
from federation.keyring import VerifyKey, build_key_response
from federation.signing import hash_and_sign_event
from federation.versions import ROOM_VERSIONS
from homeserver.config.schema import Federation
from homeserver.http.transport import PeerRequest, Unreachable
from homeserver.rooms.federated import join_checks, partial
from homeserver.store import room_answers
from homeserver.store.partial import load_partial_joins
from tests.federation.people import VERSIONS, A, B, C, NetCase
from tests.support.app import test_key
from tests.support.archive import QUERY, Archive
from tests.support.databases import on_each_database
from tests.support.federation import WEEK_MS, Stranger

BOB, CAROL = f"@bob:{B}", f"@carol:{C}"
KEYS = "/_matrix/key/v2/server"
KEY = KeyId("ed25519:test")


def come_in(stranger: Stranger, room_id: str, name: str = "x") -> None:
    """A stranger's user joins through a."""
    versions = "&".join(f"ver={one}" for one in VERSIONS)
    path = f"/_matrix/federation/v1/make_join/{quote(room_id)}/{quote(f'@{name}:{stranger.name}')}?{versions}"
    answer = stranger.ask(A, "GET", path)[1]
    rules = ROOM_VERSIONS[answer["room_version"]]
    event = {**answer["event"], "origin_server_ts": stranger.net.now_ms}
    if not rules.event_ids_are_hashes:
        event["event_id"] = f"${name}:{stranger.name}"
    join = hash_and_sign_event(event, rules, stranger.key)
    event_id = compute_event_id(join, rules) if rules.event_ids_are_hashes else join["event_id"]
    path = f"/_matrix/federation/v2/send_join/{quote(room_id)}/{quote(event_id)}"
    stranger.net.case.assertEqual(200, stranger.ask(A, "PUT", path, join)[0])


@on_each_database
class AwaitedKeys(NetCase):
    """bob of b is in a room of a, which carol of c joins while nobody can ask b for its keys."""

    def setUp(self) -> None:
        super().setUp()
        self.c = self.server(C, federation=Federation(trusted_key_servers=()))
        self.carol = self.c.register("carol")
        self.withheld: set[str] = set()
        self.net.tamper(self.withhold)

    def withhold(self, origin: ServerName, request: PeerRequest) -> Exception | None:
        """c does not reach these servers, though they reach c."""
        if origin == C and request.destination in self.withheld:
            return Unreachable("not now")
        return None

    def make(self, **body: Any) -> str:
        """A room of alice and bob."""
        room_id = self.create(self.a, self.alice, preset="public_chat", name="Room", **body)
        self.assertEqual(200, self.join(self.b, self.bob, room_id, A).status)
        self.net.settle()
        return room_id

    def enter(self, room_id: str) -> None:
        """carol joins; what c knows lacks bob."""
        self.withheld.add(B)
        self.assertEqual(200, self.join(self.c, self.carol, room_id, A).status)
        self.net.settle()
        self.assertNotIn(("m.room.member", BOB), self.state(self.c, self.carol, room_id))

    def bodies(self, room_id: str) -> list[Any]:
        events = self.sync(self.c, self.carol)["rooms"]["join"][room_id]["timeline"]["events"]
        return [one["content"]["body"] for one in events if one["type"] == "m.room.message"]

    def pending(self) -> list[int]:
        """The joins that are not complete, by their attempts."""
        found = self.c.wait(self.c.database.read(load_partial_joins))
        return [one.attempts for one in found]

    def test_what_was_left_out_comes_when_the_keys_do(self) -> None:
        for number, version in enumerate(("1", "6", "10", "12")):
            if number:
                self.b = self.server(f"b{number}.example")  # c knows the keys of the first now
                self.bob = self.b.register("bob")
            bob = f"@bob:{self.b.name}"
            room_id = self.make(room_version=version)
            self.withheld.add(self.b.name)
            self.assertEqual(200, self.join(self.c, self.carol, room_id, A).status)
            self.net.settle()
            self.assertNotIn(("m.room.member", bob), self.state(self.c, self.carol, room_id))
            since = self.sync(self.c, self.carol)["next_batch"]
            self.withheld.clear()
            self.net.advance(20)
            self.assertEqual([], self.pending(), version)
            self.assert_same_state(room_id, (self.a, self.alice), (self.b, self.bob), (self.c, self.carol))
            told = self.sync(self.c, self.carol, since)["rooms"]["join"][room_id]
            members = {one["state_key"] for one in told["state"]["events"] if one["type"] == "m.room.member"}
            self.assertIn(bob, members)
            self.assertEqual(3, told["summary"]["m.joined_member_count"])

    def test_the_room_is_usable_meanwhile(self) -> None:
        room_id = self.make()
        self.enter(room_id)
        joined = self.ok(self.c, self.carol, "GET", f"/rooms/{quote(room_id)}/joined_members")["joined"]
        self.assertEqual({f"@alice:{A}", CAROL}, set(joined))
        dave = self.c.register("dave")
        self.assertEqual(200, self.join(self.c, dave, room_id).status)
        self.say(self.c, self.carol, room_id, "hello")
        self.say(self.a, self.alice, room_id, "welcome")
        self.net.settle()
        self.assertEqual(["hello", "welcome"], self.bodies(room_id))
        self.withheld.clear()
        # Who was left out is heard before that, and is told what is said.
        self.net.advance(6)
        self.assertEqual([1], self.pending())
        self.say(self.b, self.bob, room_id, "here I am")
        self.net.settle()
        self.assertEqual(["hello", "welcome", "here I am"], self.bodies(room_id))
        self.say(self.c, self.carol, room_id, "there you are")
        self.net.advance(10)
        seen = self.sync(self.b, self.bob)["rooms"]["join"][room_id]["timeline"]["events"]
        self.assertEqual("there you are", seen[-1]["content"].get("body"))
        self.net.advance(60)
        self.assertEqual([], self.pending())
        self.assertEqual(["hello", "welcome", "here I am", "there you are"], self.bodies(room_id))
        self.assert_same_state(room_id, (self.a, self.alice), (self.b, self.bob), (self.c, self.carol))

    def test_others_are_not_told_half_a_room(self) -> None:
        room_id = self.make()
        self.enter(room_id)
        eve = self.net.stranger("evil.example")
        uri = f"/_matrix/federation/v1/make_join/{quote(room_id)}/{quote('@eve:evil.example')}?ver=12"
        self.assertEqual(404, eve.ask(C, "GET", uri)[0])
        self.withheld.clear()
        self.net.advance(60)
        self.assertEqual(200, eve.ask(C, "GET", uri)[0])

    def test_who_declines_meanwhile_is_out_in_the_end(self) -> None:
        """The inviter's server knows too little to let anybody leave, and no other is known."""
        d = self.server("d.example")
        dave = d.register("dave")
        room_id = self.create(
            self.a, self.alice, preset="public_chat", power_level_content_override={"invite": 0}
        )
        self.assertEqual(200, self.join(self.b, self.bob, room_id, A).status)
        self.net.settle()
        self.enter(room_id)
        invited = {"user_id": "@dave:d.example"}
        self.ok(self.c, self.carol, "POST", f"/rooms/{quote(room_id)}/invite", invited)
        self.net.settle()
        self.ok(d, dave, "POST", f"/rooms/{quote(room_id)}/leave", {})
        self.withheld.clear()
        self.net.advance(7_200)
        self.assertEqual([], self.pending())
        for server, token in ((self.a, self.alice), (self.c, self.carol)):
            path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote('@dave:d.example')}"
            self.assertEqual("leave", self.ok(server, token, "GET", path)["membership"])

    def test_a_restart_in_the_middle(self) -> None:
        room_id = self.make()
        self.enter(room_id)
        self.net.advance(20)
        self.assertEqual([2], self.pending())
        self.c.restart()
        self.net.settle()
        self.assertNotIn(("m.room.member", BOB), self.state(self.c, self.carol, room_id))
        self.withheld.clear()
        self.net.advance(200)
        self.assertEqual([], self.pending())
        self.assert_same_state(room_id, (self.a, self.alice), (self.c, self.carol))

    def test_a_restart_while_nobody_is_there(self) -> None:
        room_id = self.make()
        self.enter(room_id)
        self.net.advance(20)
        self.net.part(A, C)
        self.c.restart()
        self.net.settle()
        # It asked once, and waits before it asks again.
        self.assertEqual([3], self.pending())
        self.net.heal()
        self.withheld.clear()
        self.net.advance(600)
        self.assertEqual([], self.pending())
        self.assert_same_state(room_id, (self.a, self.alice), (self.c, self.carol))

    def test_keys_that_never_come(self) -> None:
        room_id = self.make()
        self.enter(room_id)
        before = len(self.net.sent("/state/", C))
        self.net.advance(3600)
        self.assertEqual([], self.pending())
        asked = self.net.sent(KEYS, C, B)
        self.assertLessEqual(len(asked), partial.KEYS_ATTEMPTS + 1)
        self.assertEqual(before, len(self.net.sent("/state/", C)))  # there was no news
        self.net.advance(1800)
        self.assertEqual(len(asked), len(self.net.sent(KEYS, C, B)))
        said = [fields for _, line, fields in self.c.log.entries if "whose keys nobody gives" in line]
        self.assertEqual([[B]], [fields["servers"] for fields in said])
        # It goes on without.
        self.say(self.c, self.carol, room_id, "hello")
        self.say(self.a, self.alice, room_id, "hi")
        self.net.settle()
        self.assertEqual(["hello", "hi"], self.bodies(room_id))

    def test_a_server_that_has_no_such_key_is_not_waited_for(self) -> None:
        room_id = self.make()
        eve = self.net.stranger("evil.example")
        come_in(eve, room_id)
        eve.key = test_key(eve.name, "new", seed=77)  # and it does not tell of its old one
        self.assertEqual(200, self.join(self.c, self.carol, room_id, A).status)
        self.assertEqual([], self.pending())
        self.assertNotIn(("m.room.member", "@x:evil.example"), self.state(self.c, self.carol, room_id))

    def test_a_large_room_of_which_members_come_later(self) -> None:
        self.patch(room_answers, "FEW_MEMBERS", 0)
        room_id = self.make()
        self.enter(room_id)
        self.net.advance(5)
        # All came but bob: nobody waits for him.
        self.assertEqual([1], self.pending())
        path = f"/user/{CAROL}/rooms/{quote(room_id)}/account_data/im.chaos.join_progress"
        self.assertTrue(self.ok(self.c, self.carol, "GET", path)["finished"])
        joined = self.ok(self.c, self.carol, "GET", f"/rooms/{quote(room_id)}/joined_members")["joined"]
        self.assertEqual({f"@alice:{A}", CAROL}, set(joined))
        self.withheld.clear()
        self.net.advance(60)
        self.assertEqual([], self.pending())
        self.assert_same_state(room_id, (self.a, self.alice), (self.b, self.bob), (self.c, self.carol))

    def test_left_and_joined_again_meanwhile(self) -> None:
        room_id = self.make()
        self.enter(room_id)
        self.ok(self.c, self.carol, "POST", f"/rooms/{quote(room_id)}/leave", {})
        self.net.advance(3600)
        self.withheld.clear()
        self.assertEqual(200, self.join(self.c, self.carol, room_id, A).status)
        self.net.advance(5)
        self.assertEqual([], self.pending())
        self.assert_same_state(room_id, (self.a, self.alice), (self.b, self.bob), (self.c, self.carol))

    def test_so_many_servers_are_waited_for_and_no_more(self) -> None:
        self.patch(join_checks, "AWAITED_MOST", 3)
        room_id = self.make()
        for number in range(6):
            stranger = self.net.stranger(f"s{number}.example")
            come_in(stranger, room_id)
            stranger.answers["GET", KEYS] = None
        self.enter(room_id)
        self.say(self.c, self.carol, room_id, "usable")
        before = len(self.net.sent(KEYS, C))
        self.net.advance(20)
        self.assertEqual(3, len(self.net.sent(KEYS, C)) - before)
        self.net.advance(3600)
        self.assertEqual([], self.pending())
        self.assertEqual(["usable"], self.bodies(room_id))


@on_each_database
class LostKeys(NetCase):
    """A stranger's users came into a room of a under one key and the next; which c knows decides nothing."""

    def setUp(self) -> None:
        super().setUp()
        self.notary = Archive(self.net)
        self.c = self.server(C, federation=Federation(trusted_key_servers=(self.notary.name,)))
        self.carol = self.c.register("carol")

    def know(self, stranger: Stranger) -> None:
        """c has to do with a server, and learns what it says of its keys now."""
        path = f"/_matrix/federation/v1/query/profile?user_id={quote(CAROL)}"
        self.assertEqual(200, stranger.ask(C, "GET", path)[0])

    def rotate(self, stranger: Stranger, *, is_told: bool) -> None:
        """Another key from now on, with or without a word about the one before."""
        before = VerifyKey(KEY, stranger.key.public_key, self.net.now_ms, expired=True)
        self.net.advance(60)
        stranger.key = test_key(stranger.name, "new", seed=77)
        stranger.answers["GET", KEYS] = lambda _: (
            200,
            build_key_response([stranger.key], [before] if is_told else [], self.net.now_ms + WEEK_MS),
        )

    def set_state(self, stranger: Stranger, room_id: str, kind: str, content: dict[str, Any]) -> None:
        """A state event of its user x, who has just come in."""
        state = self.ok(self.a, self.alice, "GET", f"/rooms/{quote(room_id)}/state")
        ids = {(one["type"], one["state_key"]): one["event_id"] for one in state}
        user_id = f"@x:{stranger.name}"
        join_id = ids["m.room.member", user_id]
        event = {
            "room_id": room_id,
            "type": kind,
            "state_key": "",
            "sender": user_id,
            "content": content,
            "origin_server_ts": self.net.now_ms,
            "depth": 100,
            "prev_events": [join_id],
            "auth_events": [ids["m.room.power_levels", ""], join_id],
        }
        pdu = hash_and_sign_event(event, ROOM_VERSIONS["12"], stranger.key)
        body = {"origin": stranger.name, "origin_server_ts": self.net.now_ms, "pdus": [pdu]}
        _, answer = stranger.ask(A, "PUT", "/_matrix/federation/v1/send/1", body)
        self.assertEqual([{}], list(answer["pdus"].values()))
        self.net.settle()

    def asked(self) -> int:
        """How often c asked anybody for keys."""
        return len(self.net.sent("/_matrix/key/v2/", C))

    def enter(self, room_id: str) -> None:
        self.assertEqual(200, self.join(self.c, self.carol, room_id, A).status)
        self.net.settle()

    def test_a_lost_key_beside_one_that_is_known(self) -> None:
        strangers = [self.net.stranger(f"s{number}.example") for number in range(3)]
        for eve, version in zip(strangers, ("1", "6", "12"), strict=True):
            room_id = self.create(self.a, self.alice, preset="public_chat", room_version=version)
            come_in(eve, room_id, "x")
            self.notary.show(eve)
            self.rotate(eve, is_told=False)
            come_in(eve, room_id, "y")
            self.know(eve)
            self.net.advance(60)
            self.enter(room_id)
            members = {
                user for kind, user in self.state(self.c, self.carol, room_id) if kind == "m.room.member"
            }
            self.assertLessEqual({f"@x:{eve.name}", f"@y:{eve.name}"}, members, version)
            self.assert_same_state(room_id, (self.a, self.alice), (self.c, self.carol))
        # Who needs none but these asks nobody.
        again = self.create(self.a, self.alice, preset="public_chat")
        come_in(strangers[-1], again, "z")
        before = self.asked()
        self.enter(again)
        self.assert_same_state(again, (self.a, self.alice), (self.c, self.carol))
        self.assertEqual(before, self.asked())

    def test_a_new_key_beside_an_old_one_that_is_known(self) -> None:
        for number, version in enumerate(("1", "6", "12")):
            eve = self.net.stranger(f"s{number}.example")
            room_id = self.create(self.a, self.alice, preset="public_chat", room_version=version)
            self.know(eve)
            come_in(eve, room_id, "x")
            self.rotate(eve, is_told=True)
            come_in(eve, room_id, "y")
            self.enter(room_id)
            self.assert_same_state(room_id, (self.a, self.alice), (self.c, self.carol))

    def test_the_rules_of_the_room_under_a_lost_key(self) -> None:
        eve = self.net.stranger("evil.example")
        room_id = self.create(
            self.a,
            self.alice,
            preset="public_chat",
            room_version="12",
            power_level_content_override={"state_default": 0},
        )
        come_in(eve, room_id, "x")
        self.set_state(eve, room_id, "m.room.join_rules", {"join_rule": "public"})
        self.notary.show(eve)
        self.rotate(eve, is_told=False)
        come_in(eve, room_id, "y")
        self.know(eve)
        self.net.advance(60)
        self.enter(room_id)
        self.assert_same_state(room_id, (self.a, self.alice), (self.c, self.carol))

    def test_a_notary_that_is_silent_at_that_moment(self) -> None:
        eve = self.net.stranger("evil.example")
        room_id = self.create(self.a, self.alice, preset="public_chat")
        come_in(eve, room_id, "x")
        self.notary.show(eve)
        self.rotate(eve, is_told=False)
        come_in(eve, room_id, "y")
        self.notary.fall_silent()
        self.enter(room_id)
        members = {user for kind, user in self.state(self.c, self.carol, room_id) if kind == "m.room.member"}
        self.assertEqual({f"@alice:{A}", CAROL, "@y:evil.example"}, members)
        self.notary.speak()
        self.net.advance(120)
        self.assert_same_state(room_id, (self.a, self.alice), (self.c, self.carol))
        self.assertEqual([], self.c.wait(self.c.database.read(load_partial_joins)))

    def test_a_key_that_nobody_has_is_asked_for_once(self) -> None:
        eve = self.net.stranger("evil.example")
        room_id = self.create(self.a, self.alice, preset="public_chat")
        come_in(eve, room_id, "x")
        self.rotate(eve, is_told=False)
        come_in(eve, room_id, "y")
        self.know(eve)
        self.net.advance(60)
        before = self.asked()
        self.enter(room_id)
        self.net.advance(3600)
        # Of eve, and of the notary: its own keys are known after this.
        sent = [
            (str(one.request.destination), one.path) for one in self.net.sent("/_matrix/key/v2/", C)[before:]
        ]
        self.assertEqual(1, sent.count((eve.name, KEYS)), sent)
        self.assertEqual(1, sent.count((self.notary.name, QUERY)), sent)
        self.assertEqual([], self.c.wait(self.c.database.read(load_partial_joins)))
        self.assertNotIn(("m.room.member", "@x:evil.example"), self.state(self.c, self.carol, room_id))
