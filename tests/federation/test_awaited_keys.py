"""Joins for which a server's keys are not to be had at that moment: its events come later, or never.

spec: server-server-api#validating-hashes-and-signatures-on-received-events
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from federation.hashes import compute_event_id
from federation.ids import ServerName
from federation.signing import hash_and_sign_event
from federation.versions import ROOM_VERSIONS
from homeserver.config.schema import Federation
from homeserver.http.transport import PeerRequest, Unreachable
from homeserver.rooms.federated import join_checks, partial
from homeserver.store import room_answers
from homeserver.store.partial import load_partial_joins
from tests.federation.people import A, B, C, NetCase
from tests.support.app import test_key
from tests.support.databases import on_each_database
from tests.support.federation import Stranger

BOB, CAROL = f"@bob:{B}", f"@carol:{C}"
KEYS = "/_matrix/key/v2/server"


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

    def come_in(self, stranger: Stranger, room_id: str) -> None:
        """A stranger's user joins through a."""
        path = f"/_matrix/federation/v1/make_join/{quote(room_id)}/{quote(f'@x:{stranger.name}')}?ver=12"
        answer = stranger.ask(A, "GET", path)[1]
        rules = ROOM_VERSIONS[answer["room_version"]]
        join = hash_and_sign_event(
            {**answer["event"], "origin_server_ts": self.net.now_ms}, rules, stranger.key
        )
        path = f"/_matrix/federation/v2/send_join/{quote(room_id)}/{quote(compute_event_id(join, rules))}"
        self.assertEqual(200, stranger.ask(A, "PUT", path, join)[0])

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
        self.come_in(eve, room_id)
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
            self.come_in(stranger, room_id)
            stranger.answers["GET", KEYS] = None
        self.enter(room_id)
        self.say(self.c, self.carol, room_id, "usable")
        before = len(self.net.sent(KEYS, C))
        self.net.advance(20)
        self.assertEqual(3, len(self.net.sent(KEYS, C)) - before)
        self.net.advance(3600)
        self.assertEqual([], self.pending())
        self.assertEqual(["usable"], self.bodies(room_id))
