"""Names that hold a NUL: hardly anything is called so, and PostgreSQL cannot be asked for it as it is."""

from __future__ import annotations

from typing import Any

import msgspec

from federation.hashes import unpadded
from federation.signing import sign_json
from homeserver.http.transport import PeerRequest
from tests.api.receiving import ReceiveCase
from tests.api.rooms import ALICE
from tests.api.talk import V3
from tests.api.test_relations import V1, RelatingCase
from tests.support.databases import on_each_database

SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"


@on_each_database
class NamesWithNul(RelatingCase):
    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.make_room(joined=("bob",))
        self.root = self.say("alice", self.room_id, "root")
        self.relate("alice", self.room_id, "m.thread", self.root)

    def test_somebody_who_is_ignored(self) -> None:
        path = f"{V3}/user/@bob:test.example/account_data/m.ignored_user_list"
        body: dict[str, Any] = {"ignored_users": {"\0": {}, "@a\0b:test.example": {}}}
        self.app.ok("PUT", path, body, self.tokens["bob"])
        threads = self.ok("bob", f"{V1}/rooms/{self.room_id}/threads")
        self.assertEqual([self.root], self.ids(threads))
        self.assertEqual(1, self.bundle("bob", self.room_id, self.root)["m.thread"]["count"])
        self.page("bob", self.room_id)
        self.ok("bob", f"{V3}/sync")

    def test_wishes_of_a_sliding_sync(self) -> None:
        pairs = [["\0", "\0"], ["m.room.member", "\0"], ["m.room.create", ""]]
        wish: dict[str, Any] = {"timeline_limit": 1, "required_state": pairs}
        subscriptions = {self.room_id: wish, "\0": wish, "!a\0b:test.example": wish}
        lists = {"all": {"ranges": [[0, 9]], **wish}}
        for body in ({"room_subscriptions": subscriptions}, {"lists": lists}):
            answer = self.app.ok("POST", SLIDING, body, self.tokens["bob"])
            self.assertEqual([self.room_id], list(answer["rooms"]))
            state = answer["rooms"][self.room_id]["required_state"]
            self.assertEqual(["m.room.create"], [event["type"] for event in state])


@on_each_database
class NamesOfAJoinedRoom(ReceiveCase):
    """A room of another server's whose state has NULs in its types and keys, some of it with users that rest on it."""

    def setUp(self) -> None:
        super().setUp()
        self.third = self.new_peer("third.example")
        self.carl = self.third.user("carl")
        self.own = own = self.peer.create(self.version)
        users = {self.peer.user(): 100, ALICE: 100}
        own.add("m.room.power_levels", {"users": users}, state_key="")
        named: tuple[tuple[str, str, dict[str, Any]], ...] = (
            ("m.room.na\0me", "a\0b", {"name": "no\0name"}),
            ("m.room.topic", "\0", {"topic": "a\0b"}),
            ("m.room.topic", "\1\\0", {"topic": "c"}),
            ("m.space.child", "!a\0b:peer.example", {"via": ["peer.example"]}),
            ("m.room.member", "@a\0b:peer.example", {"membership": "ban"}),
            ("m.room.member", "@c\0d:peer.example", {"membership": "invite"}),
            ("m.room.third_party_invite", "to\0ken", {"public_key": unpadded(self.third.key.public_key)}),
        )
        for event_type, state_key, content in named:
            own.add(event_type, content, state_key=state_key)
        signed = sign_json({"mxid": self.carl, "token": "to\0ken"}, self.third.key)
        invite = {"membership": "invite", "third_party_invite": {"display_name": "c", "signed": signed}}
        own.add("m.room.member", invite, state_key=self.carl)
        own.join(self.carl, signer=self.third.key)
        own.say("a\0b")

    def enter_own(self) -> None:
        path = f"{V3}/join/{self.own.room_id}"
        answer = self.app.wait(
            self.app.start("POST", path, {}, self.alice, {"server_name": self.peer.server_name})
        )
        self.assertEqual(200, answer.status, answer.json)
        self.settle(5)

    def ok(self, action: str, body: Any = None) -> Any:
        return self.app.ok("POST", f"{V3}/rooms/{self.own.room_id}/{action}", body or {}, self.alice)

    def seen(self) -> dict[tuple[str, str], str]:
        events = self.app.ok("GET", f"{V3}/rooms/{self.own.room_id}/state", None, self.alice)
        return {(event["type"], event["state_key"]): event["event_id"] for event in events}

    def test_all_of_it_comes_in(self) -> None:
        self.enter_own()
        self.assertEqual(self.own.state, self.seen())
        for path in ("members", "joined_members", "messages"):
            self.app.ok("GET", f"{V3}/rooms/{self.own.room_id}/{path}", None, self.alice, {"dir": "b"})
        synced = self.app.ok("GET", f"{V3}/sync", None, self.alice)["rooms"]["join"][self.own.room_id]
        self.assertEqual([self.peer.user(), self.carl], synced["summary"]["m.heroes"])
        wish = {"ranges": [[0, 9]], "timeline_limit": 9, "required_state": [["*", "*"]]}
        self.app.ok("POST", SLIDING, {"lists": {"all": wish}}, self.alice)

    def test_what_rests_on_it_holds(self) -> None:
        """Who was invited by an offer that is called so is a member; and what they say is found."""
        self.enter_own()
        said = self.own.say("hello a\0b", sender=self.carl, signer=self.third.key)
        self.assert_taken(self.third.push(self.app, said), said)
        self.settle(5)
        self.assertIn(said.event_id, self.timeline(self.own.room_id))
        criteria = {"search_term": "hello", "include_state": True}
        body = {"search_categories": {"room_events": criteria}}
        found = self.app.ok("POST", f"{V3}/search", body, self.alice)["search_categories"]["room_events"]
        self.assertEqual([said.event_id], [one["result"]["event_id"] for one in found["results"]])

    def test_members_that_come_later(self) -> None:
        self.peer.answers["PUT", "/_matrix/federation/v2/send_join/"] = self.without_members
        self.enter_own()
        self.settle(400)
        self.assertEqual(self.own.state, self.seen())

    def without_members(self, request: PeerRequest) -> dict[str, Any]:
        answer = self.own.send_join_answer(msgspec.json.decode(request.body or b""))
        state = [one for one in answer["state"] if one["type"] != "m.room.member"]
        servers = [self.peer.server_name, self.third.server_name]
        return {**answer, "state": state, "members_omitted": True, "servers_in_room": servers}

    def test_again_after_a_restart(self) -> None:
        self.enter_own()
        self.app.restart()
        self.app.app.begin()
        self.assertEqual(self.own.state, self.seen())
        self.ok("leave")
        self.settle(5)
        left = [msgspec.json.decode(one.body or b"") for one in self.peer.asked_for("/send/")]
        for pdu in [pdu for transaction in left for pdu in transaction["pdus"]]:
            self.own.learn(self.own.parse(pdu))
        self.enter_own()
        self.assertEqual(self.own.state, self.seen())

    def test_a_successor(self) -> None:
        """It can do without what no client could have put there."""
        self.enter_own()
        new_id = self.ok("upgrade", {"new_version": "12"})["replacement_room"]
        events = self.app.ok("GET", f"{V3}/rooms/{new_id}/state", None, self.alice)
        self.assertFalse([one for one in events if "\0" in one["type"] + one["state_key"]])
        self.app.ok("GET", f"/_matrix/client/v1/rooms/{self.own.room_id}/hierarchy", None, self.alice)

    def test_another_server_is_given_all_of_it(self) -> None:
        self.enter_own()
        dave = self.third.user("dave")
        path = f"/_matrix/federation/v1/make_join/{self.own.room_id}/{dave}?ver={self.version}"
        template = self.third.call(self.app, "GET", path)[1]["event"]
        join = self.third.sign(template, self.version)
        event_id = self.own.parse(join).event_id
        path = f"/_matrix/federation/v2/send_join/{self.own.room_id}/{event_id}"
        status, answer = self.third.call(self.app, "PUT", path, join)
        self.assertEqual(200, status, answer)
        state = {self.own.parse(one).event_id for one in answer["state"]}
        self.assertEqual(set(self.own.state.values()), state)
