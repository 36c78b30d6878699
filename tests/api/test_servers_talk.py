"""Several whole servers in one room: what one says, all have, once and in order, whoever was away meanwhile."""

from __future__ import annotations

from typing import Any

from homeserver.config.schema import Federation, Switch
from homeserver.http.transport import PeerRequest, PeerResponse, Unreachable
from tests.api.rooms import V3
from tests.support.databases import DatabaseCase, on_each_database
from tests.support.federation import NetServer, TestNet

SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
SEND = "/_matrix/federation/v1/send/"


@on_each_database
class Talk(DatabaseCase):
    """Alice's room on a.example, with bob of b.example and carol of c.example."""

    def setUp(self) -> None:
        self.net = TestNet(self)
        self.tokens: dict[str, str] = {}
        self.a, self.b, self.c = (self.server(name) for name in ("a", "b", "c"))
        body = {"preset": "public_chat", "room_version": "10"}
        self.room_id: str = self.a.ok("POST", f"{V3}/createRoom", body, self.tokens["a"])["room_id"]
        for server in (self.b, self.c):
            self.join(server)

    def server(self, letter: str) -> NetServer:
        server = self.net.server(
            f"{letter}.example",
            database=self.new_database(),
            federation=Federation(retry_min_s=1, retry_max_s=20),
            presence=Switch(enabled=False),
        )
        self.net.settle()
        self.tokens[letter] = server.register("user")
        return server

    def join(self, server: NetServer, via: str = "a.example") -> None:
        path = f"{V3}/join/{self.room_id}?server_name={via}"
        waiting = server.start("POST", path, {}, self.tokens[server.name[0]])
        self.assertEqual(self.net.wait(waiting).status, 200)
        self.net.settle()

    def say(self, server: NetServer, text: str) -> str:
        path = f"{V3}/rooms/{self.room_id}/send/m.room.message/{text}"
        body = {"msgtype": "m.text", "body": text}
        sent = self.net.wait(server.start("PUT", path, body, self.tokens[server.name[0]]))
        self.assertEqual(sent.status, 200)
        return str(sent.json["event_id"])

    def timeline(self, server: NetServer) -> list[str]:
        """What the messages in a server's timeline say, the oldest first."""
        path = f"{V3}/rooms/{self.room_id}/messages"
        query: dict[str, str | int | bool | list[str]] = {"dir": "b", "limit": 1000}
        answer = self.net.wait(server.start("GET", path, None, self.tokens[server.name[0]], query))
        found = [event for event in answer.json["chunk"] if event["type"] == "m.room.message"]
        return [event["content"]["body"] for event in reversed(found)]

    def members(self, server: NetServer) -> set[str]:
        path = f"{V3}/rooms/{self.room_id}/joined_members"
        joined: Any = server.ok("GET", path, None, self.tokens[server.name[0]])["joined"]
        return set(joined)

    def test_who_joins_by_one_is_known_to_all(self) -> None:
        """The server that lets somebody in tells the others: the newcomer speaks with that one alone."""
        everybody = {f"@user:{letter}.example" for letter in "abc"}
        for server in (self.a, self.b, self.c):
            self.assertEqual(self.members(server), everybody, server.name)

    def test_who_leaves_is_gone_everywhere(self) -> None:
        self.c.ok("POST", f"{V3}/rooms/{self.room_id}/leave", {}, self.tokens["c"])
        self.net.settle()
        everybody = {"@user:a.example", "@user:b.example"}
        for server in (self.a, self.b):
            self.assertEqual(self.members(server), everybody, server.name)

    def test_everybody_hears_everything_in_order(self) -> None:
        texts = [f"m{number}" for number in range(9)]
        for number, text in enumerate(texts):
            self.say((self.a, self.b, self.c)[number % 3], text)
            self.net.settle()
        for server in (self.a, self.b, self.c):
            self.assertEqual(self.timeline(server), texts, server.name)

    def test_an_outage_and_restarts_on_both_sides(self) -> None:
        self.net.down("b.example")
        texts = [f"m{number}" for number in range(60)]
        for text in texts[:40]:
            self.say(self.a, text)
        self.net.advance(12)
        self.a.restart()
        self.net.settle()
        for text in texts[40:]:
            self.say(self.a, text)
        self.net.advance(3)
        self.assertEqual(self.timeline(self.c), texts)
        self.b.restart()
        self.net.up("b.example")
        self.net.advance(30)
        self.assertEqual(self.timeline(self.b), texts)

    def test_answers_that_are_lost(self) -> None:
        """The other side has the transaction and we do not know: nothing is in a timeline twice."""
        lost: list[str] = []

        def lose(_: Any, request: PeerRequest, __: PeerResponse) -> Exception | None:
            if SEND in request.uri and len(lost) < 3:
                lost.append(request.uri)
                return Unreachable("the answer is lost")
            return None

        self.net.tamper_answers(lose)
        texts = [self.say(self.a, f"m{number}") and f"m{number}" for number in range(5)]
        self.net.advance(30)
        self.assertEqual(len(lost), 3)
        for server in (self.b, self.c):
            self.assertEqual(self.timeline(server), texts)

    def test_a_partition_that_heals(self) -> None:
        self.net.part("a.example", "b.example")
        self.net.part("c.example", "b.example")
        for number in range(3):
            self.say(self.a, f"a{number}")
            self.say(self.b, f"b{number}")
        self.net.advance(10)
        self.assertEqual(self.timeline(self.c), ["a0", "a1", "a2"])
        self.net.heal()
        self.net.advance(60)
        everything = ["a0", "a1", "a2", "b0", "b1", "b2"]
        for server in (self.a, self.b, self.c):
            self.assertEqual(sorted(self.timeline(server)), everything, server.name)

    def test_back_within_seconds_of_the_first_sign_of_life(self) -> None:
        self.net.down("b.example")
        self.say(self.a, "while you were away")
        self.net.advance(100)
        self.net.up("b.example")
        self.say(self.b, "I am back")
        self.net.advance(3)
        self.assertEqual(
            sorted(self.timeline(self.b)),
            ["I am back", "while you were away"],
            "without waiting for the retry",
        )

    def pdus(self, origin: str, destination: str) -> list[tuple[str, str]]:
        """(type, sender) of what one server has sent another, each time that it did."""
        found = self.net.sent(SEND, origin=f"{origin}.example", destination=f"{destination}.example")
        return [(pdu["type"], pdu["sender"]) for one in found for pdu in one.json["pdus"]]

    def test_a_join_is_told_by_the_server_that_let_it_in(self) -> None:
        carols = ("m.room.member", "@user:c.example")
        self.assertEqual(self.pdus("a", "b").count(carols), 1)
        self.assertNotIn(carols, self.pdus("c", "b"), "a room may have thousands of servers")
        self.assertNotIn(carols, self.pdus("c", "a"))
        # What they do there afterwards they tell themselves.
        self.c.ok("PUT", f"{V3}/profile/@user:c.example/displayname", {"displayname": "C"}, self.tokens["c"])
        self.net.settle()
        self.assertEqual((self.pdus("c", "b").count(carols), self.pdus("c", "a").count(carols)), (1, 1))
        second = self.c.register("second")
        self.c.ok("POST", f"{V3}/join/{self.room_id}", {}, second)
        self.net.settle()
        self.assertIn(("m.room.member", "@second:c.example"), self.pdus("c", "b"))

    def test_an_invite_is_told_once(self) -> None:
        d = self.server("d")
        path = f"{V3}/rooms/{self.room_id}/invite"
        waiting = self.a.start("POST", path, {"user_id": "@user:d.example"}, self.tokens["a"])
        self.assertEqual(self.net.wait(waiting).status, 200)
        self.net.settle()
        before = self.pdus("a", "b").count(("m.room.member", "@user:a.example"))
        self.assertEqual(before, 1)
        self.assertEqual(self.pdus("a", "d"), [], "it has been asked for its consent, and is not in the room")
        self.join(d)
        self.assertEqual(self.members(self.b), {f"@user:{letter}.example" for letter in "abcd"})

    def test_who_accepts_an_invite_is_shown_what_they_accepted(self) -> None:
        """Clients tell a direct chat by it, and say that somebody accepted an invite."""
        b, token = self.b, self.tokens["b"]
        for visibility in ("shared", "joined"):
            initial = {"type": "m.room.history_visibility", "content": {"history_visibility": visibility}}
            body = {
                "preset": "private_chat",
                "is_direct": True,
                "invite": ["@user:b.example"],
                "initial_state": [{**initial, "state_key": ""}],
            }
            waiting = self.a.start("POST", f"{V3}/createRoom", body, self.tokens["a"])
            self.room_id = self.net.wait(waiting).json["room_id"]
            self.net.settle()
            before = b.ok("GET", f"{V3}/sync", None, token)["next_batch"]
            self.join(b)
            listed = {"timeline_limit": 5, "required_state": [["m.room.member", "$ME"]]}
            sliding = b.ok("POST", SLIDING, {"lists": {"all": {"ranges": [[0, 9]], **listed}}}, token)
            history = b.ok("GET", f"{V3}/rooms/{self.room_id}/messages", None, token, {"dir": "b"})
            told = {
                "the next sync": self.sync(b, before),
                "a first sync": self.sync(b, None),
                "sliding sync": sliding["rooms"][self.room_id]["timeline"],
                "history": history["chunk"],
            }
            for way, events in told.items():
                own = [event for event in events if event.get("state_key") == "@user:b.example"]
                (join,) = [event for event in own if event["content"]["membership"] == "join"]
                unsigned = join["unsigned"]
                self.assertEqual(unsigned["prev_content"]["membership"], "invite", (way, visibility))
                self.assertIs(unsigned["prev_content"]["is_direct"], True, (way, visibility))
                self.assertEqual(unsigned["prev_sender"], "@user:a.example", (way, visibility))

    def test_who_is_invited_back_is_shown_that(self) -> None:
        """Not what they were when the server was last in the room."""
        b, token = self.b, self.tokens["b"]
        b.ok("POST", f"{V3}/rooms/{self.room_id}/leave", {}, token)
        self.net.settle()
        path = f"{V3}/rooms/{self.room_id}/invite"
        body = {"user_id": "@user:b.example", "reason": "come back"}
        self.assertEqual(self.net.wait(self.a.start("POST", path, body, self.tokens["a"])).status, 200)
        self.net.settle()
        before = b.ok("GET", f"{V3}/sync", None, token)["next_batch"]
        self.join(b)
        own = [one for one in self.sync(b, before) if one.get("state_key") == "@user:b.example"]
        self.assertEqual(own[-1]["unsigned"]["prev_content"]["reason"], "come back")

    def sync(self, server: NetServer, since: str | None) -> list[dict[str, Any]]:
        """The timeline of the room."""
        query = {} if since is None else {"since": since}
        answer = server.ok("GET", f"{V3}/sync", None, self.tokens[server.name[0]], query)
        found: list[dict[str, Any]] = answer["rooms"]["join"][self.room_id]["timeline"]["events"]
        return found

    def test_leaving_and_coming_back(self) -> None:
        self.c.ok("POST", f"{V3}/rooms/{self.room_id}/leave", {}, self.tokens["c"])
        self.net.settle()
        self.say(self.a, "without c")
        self.net.settle()
        self.join(self.c)
        self.say(self.a, "with c")
        self.net.settle()
        self.assertIn("with c", self.timeline(self.c))
        self.assertEqual(self.members(self.b), {f"@user:{letter}.example" for letter in "abc"})
        carols = ("m.room.member", "@user:c.example")
        self.assertEqual(self.pdus("c", "b").count(carols), 1, "the leave")
        self.assertEqual(self.pdus("a", "b").count(carols), 2, "both joins")
