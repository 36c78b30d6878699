"""A server that comes to a room after one of its users was erased gets their events redacted, and can use them.

spec: client-server-api#post_matrixclientv3accountdeactivate
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from federation.event import parse_untrusted
from federation.hashes import check_content_hash
from federation.ids import EventId, ServerName
from federation.versions import ROOM_VERSIONS
from homeserver.http.transport import PeerRequest, PeerResponse
from tests.api.peers import PeerCase
from tests.api.rooms import ALICE, BOB, V3
from tests.api.test_peer_history import path_of
from tests.support.databases import DatabaseCase, on_each_database
from tests.support.federation import NetServer, TestNet

SECRET = "my secret plan"


def confirmed(name: str) -> dict[str, Any]:
    """The body that ends an account and erases it."""
    identifier = {"type": "m.id.user", "user": name}
    auth = {"type": "m.login.password", "identifier": identifier, "password": "correct horse"}
    return {"auth": auth, "erase": True}


@on_each_database
class AskedByPeers(PeerCase):
    """What servers are told: one that was in the room, one that came between, one that came too late."""

    def make(self, version: str) -> None:
        self.room_id = self.shared_room(room_version=version)
        self.app.ok("PUT", f"{V3}/profile/{BOB}/displayname", {"displayname": "Bob"}, self.bob)
        self.app.ok("POST", f"{V3}/join/{quote(self.room_id)}", {}, self.bob)
        self.joined = self.events(self.room_id)[-1].event_id
        self.said = self.say(self.room_id, SECRET, BOB)
        self.between, self.late = self.further_peer("between.example"), self.further_peer("late.example")
        self.come(self.room_id, self.between.user())
        self.app.ok("POST", f"{V3}/account/deactivate", confirmed("bob"), self.bob)
        for _ in range(100):
            self.app.time.advance(0)
        self.come(self.room_id, self.late.user())
        self.last = self.say(self.room_id, "the end")

    def test_history(self) -> None:
        for version in ("1", "6", "11", "12"):
            self.setUp()
            self.make(version)
            rules = ROOM_VERSIONS[version]
            for peer, whole in ((self.peer, True), (self.between, True), (self.late, False)):
                backfill = path_of("backfill", self.room_id)
                answers = [self.answer_of(backfill, peer, v=self.last, limit=50)["pdus"]]
                answers.append(self.answer_of(path_of("event", self.said), peer)["pdus"])
                missing = {"latest_events": [self.last], "earliest_events": [], "limit": 50}
                path = path_of("get_missing_events", self.room_id)
                answers.append(self.answer_of(path, peer, missing)["events"])
                for answer in answers:
                    found = {one.event_id: one for one in (parse_untrusted(one, rules) for one in answer)}
                    said = found[EventId(self.said)]
                    self.assertEqual(SECRET if whole else None, said.content.get("body"), version)
                    self.assertEqual(whole, check_content_hash(said.json, rules))
                    member = found.get(self.joined)
                    if member is not None:
                        self.assertEqual("join", member.content["membership"])
                        self.assertEqual("Bob" if whole else None, member.content.get("displayname"))

    def test_states(self) -> None:
        self.make("11")
        for peer, whole in ((self.peer, True), (self.between, True), (self.late, False)):
            for kind, asked in (
                ("state", {"event_id": self.said}),
                ("event_auth", None),
            ):
                path = path_of(kind, self.room_id) if asked else path_of(kind, self.room_id, self.said)
                answer = self.answer_of(path, peer, **(asked or {}))
                events = [*answer.get("pdus", ()), *answer["auth_chain"]]
                members = [one["content"] for one in events if one.get("state_key") == BOB]
                self.assertTrue(members, kind)
                self.assertEqual({"Bob"} if whole else {None}, {one.get("displayname") for one in members})
                self.assertEqual({"join"}, {one["membership"] for one in members})
                levels = [one["content"] for one in events if one["type"] == "m.room.power_levels"]
                self.assertTrue(all("users" in one for one in levels))

    def test_who_may_not_look_may_not_look_now(self) -> None:
        self.make("11")
        self.assert_refused(self.ask(path_of("event", self.said), self.stranger), 403, "M_FORBIDDEN")
        self.assertEqual(ALICE, self.events(self.room_id)[-1].sender)


@on_each_database
class BetweenServers(DatabaseCase):
    """Alice and bob of a.example; b.example is there, c.example comes when bob is gone."""

    def setUp(self) -> None:
        self.net = TestNet(self)
        self.tokens: dict[str, str] = {}
        self.a, self.b, self.c = (self.server(f"{letter}.example") for letter in "abc")
        self.bob = self.a.register("bob")
        body = {"preset": "public_chat"}
        self.room_id: str = self.a.ok("POST", f"{V3}/createRoom", body, self.tokens["a.example"])["room_id"]
        self.a.ok("PUT", f"{V3}/profile/@bob:a.example/displayname", {"displayname": "Bob"}, self.bob)
        self.a.ok("POST", f"{V3}/join/{quote(self.room_id)}", {}, self.bob)
        self.join(self.b)

    def server(self, name: str) -> NetServer:
        server = self.net.server(name, database=self.new_database())
        self.net.settle()
        self.tokens[name] = server.register("user")
        return server

    def join(self, server: NetServer) -> None:
        path = f"{V3}/join/{quote(self.room_id)}?server_name=a.example"
        self.assertEqual(200, self.net.wait(server.start("POST", path, {}, self.tokens[server.name])).status)
        self.net.settle()

    def contents(self, server: NetServer) -> dict[str, Any]:
        """What the messages and members in the history of a room say, by event id."""
        query: dict[str, str | int | bool | list[str]] = {"dir": "b", "limit": 1000}
        path = f"{V3}/rooms/{quote(self.room_id)}/messages"
        answer = self.net.wait(server.start("GET", path, None, self.tokens[server.name], query))
        return {one["event_id"]: one["content"] for one in answer.json["chunk"]}

    def test_a_server_that_comes_too_late(self) -> None:
        path = f"{V3}/rooms/{quote(self.room_id)}/send/m.room.message/x"
        said = self.a.ok("PUT", path, {"msgtype": "m.text", "body": SECRET}, self.bob)["event_id"]
        self.net.settle()
        self.a.ok("POST", f"{V3}/account/deactivate", confirmed("bob"), self.bob)
        self.net.settle()
        # What others still have is theirs to tell.
        self.net.part("b.example", "c.example")
        told: list[bytes] = []

        def note(_: ServerName, request: PeerRequest, answer: PeerResponse) -> None:
            if "/send_join/" in request.uri:
                told.append(answer.body)

        self.net.tamper_answers(note)
        self.join(self.c)
        self.assertEqual([False], [b"Bob" in one for one in told])
        for server, whole in ((self.a, True), (self.b, True), (self.c, False)):
            contents = self.contents(server)
            self.assertEqual({"msgtype": "m.text", "body": SECRET} if whole else {}, contents[said])
            self.assertEqual(whole, any(one.get("displayname") == "Bob" for one in contents.values()))
        # It takes part as everybody else does.
        path = f"{V3}/rooms/{quote(self.room_id)}/send/m.room.message/y"
        body = {"msgtype": "m.text", "body": "hello"}
        hello = self.net.wait(self.c.start("PUT", path, body, self.tokens["c.example"])).json["event_id"]
        self.net.settle()
        self.assertEqual("hello", self.contents(self.a)[hello]["body"])
