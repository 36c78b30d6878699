"""Encryption between two servers of ours: everything that a conversation needs, and what happens when one is away."""

from __future__ import annotations

import itertools
from typing import Any
from urllib.parse import quote

from homeserver.config.schema import Federation
from tests.api.rooms import V3
from tests.support.databases import SQLITE, DatabaseCase, on_each_database
from tests.support.federation import NetServer, TestNet
from tests.support.keys import CrossKeys, KeyDevice

NEAR, FAR = "near.example", "far.example"
ALICE, BOB = f"@alice:{NEAR}", f"@bob:{FAR}"
SIGNED = "signed_curve25519"
QUERY, DEVICES = "/_matrix/federation/v1/user/keys/query", "/_matrix/federation/v1/user/devices/"


class Client:
    """Somebody's device."""

    def __init__(self, net: TestNet, server: NetServer, user_id: str, device_id: str) -> None:
        self.net = net
        self.server = server
        self.user_id = user_id
        name = user_id[1:].partition(":")[0]
        body = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": name}}
        login = {**body, "password": "correct horse", "device_id": device_id}
        self.token = self.call("POST", "/login", login)["access_token"]
        self.device = KeyDevice(user_id, device_id)
        self.txn_ids = itertools.count()
        self.since = ""
        self.changed: list[str] = []
        self.messages: list[Any] = []
        keys = {"device_keys": self.device.keys(), "one_time_keys": self.device.one_time_keys("a", "b")}
        self.call("POST", "/keys/upload", keys)

    token: str | None = None

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """A request that must succeed, with as much time as it takes."""
        answer = self.net.wait(self.server.start(method, f"{V3}{path}", body, self.token, query or None))
        assert answer.status == 200, (path, answer.status, answer.json)
        return answer.json

    def sync(self) -> None:
        """What there is at the moment."""
        query: dict[str, Any] = {"timeout": 0}
        if self.since:
            query["since"] = self.since
        answer = self.call("GET", "/sync", None, **query)
        self.since = answer["next_batch"]
        self.changed += answer.get("device_lists", {}).get("changed", [])
        self.messages += [one["content"] for one in answer.get("to_device", {}).get("events", [])]

    def keys_of(self, user_id: str) -> Any:
        return self.call("POST", "/keys/query", {"device_keys": {user_id: []}})

    def send(self, user_id: str, device_id: str, content: Any) -> None:
        path = f"/sendToDevice/m.dummy/t{next(self.txn_ids)}"
        self.call("PUT", path, {"messages": {user_id: {device_id: content}}})


@on_each_database
class Across(DatabaseCase):
    def setUp(self) -> None:
        self.net = TestNet(self)
        self.near, self.far = self.server(NEAR), self.server(FAR)
        self.near.register("alice")
        self.far.register("bob")
        self.alice = Client(self.net, self.near, ALICE, "A1")
        self.bob = Client(self.net, self.far, BOB, "B1")
        self.settle()
        room = {"preset": "public_chat", "room_version": "11"}
        self.room_id = self.alice.call("POST", "/createRoom", room)["room_id"]
        self.bob.call("POST", f"/join/{quote(self.room_id, safe='')}", {}, server_name=NEAR, via=NEAR)
        self.settle()

    def server(self, name: str) -> NetServer:
        database = "sqlite::memory:" if self.dialect == SQLITE else self.new_database()
        return self.net.server(name, database=database, federation=Federation(retry_min_s=1, retry_max_s=5))

    def settle(self) -> None:
        """Both have heard everything, and have synced."""
        self.net.advance(30)
        for client in (self.alice, self.bob):
            client.sync()

    def asked(self) -> int:
        """How often bob's server asked for keys or lists."""
        return len(self.net.sent(QUERY, origin=FAR)) + len(self.net.sent(DEVICES, origin=FAR))

    def test_a_conversation(self) -> None:
        self.assertIn(ALICE, self.bob.changed)
        self.assertIn(BOB, self.alice.changed)
        found = self.bob.keys_of(ALICE)
        self.assertEqual({"A1": {**self.alice.device.keys(), "unsigned": {}}}, found["device_keys"][ALICE])
        claims = {"one_time_keys": {ALICE: {"A1": SIGNED}}}
        claimed = [self.bob.call("POST", "/keys/claim", claims)["one_time_keys"] for _ in range(3)]
        keys = {key: value for one in claimed[:2] for key, value in one[ALICE]["A1"].items()}
        self.assertEqual((self.alice.device.one_time_keys("a", "b"), {}), (keys, claimed[2]))
        for number in range(3):
            self.bob.send(ALICE, "A1", {"n": number})
        self.alice.send(BOB, "*", {"back": True})
        self.settle()
        self.assertEqual([{"n": number} for number in range(3)], self.alice.messages)
        self.assertEqual([{"back": True}], self.bob.messages)

    def test_lists_are_followed_without_questions(self) -> None:
        self.bob.keys_of(ALICE)
        Client(self.net, self.near, ALICE, "A2")
        self.settle()
        self.assertEqual({"A1", "A2"}, set(self.bob.keys_of(ALICE)["device_keys"][ALICE]))
        asked = self.asked()
        for number in range(3):
            self.bob.changed.clear()
            third = Client(self.net, self.near, ALICE, "A3")
            self.settle()
            self.assertEqual([ALICE], self.bob.changed, number)
            self.assertIn("A3", self.bob.keys_of(ALICE)["device_keys"][ALICE])
            self.bob.changed.clear()
            third.call("POST", "/logout", {})
            self.settle()
            self.assertEqual([ALICE], self.bob.changed, number)
            self.assertNotIn("A3", self.bob.keys_of(ALICE)["device_keys"][ALICE])
        self.assertEqual(asked, self.asked())

    def test_cross_signing(self) -> None:
        self.bob.keys_of(ALICE)
        cross = CrossKeys(ALICE)
        self.bob.changed.clear()
        self.alice.call("POST", "/keys/device_signing/upload", cross.body())
        signed = cross.self_signing.sign(self.alice.device.keys())
        self.alice.call("POST", "/keys/signatures/upload", {ALICE: {"A1": signed}})
        self.settle()
        self.assertEqual({ALICE}, set(self.bob.changed))
        found = self.bob.keys_of(ALICE)
        self.assertEqual(cross.key("master"), found["master_keys"][ALICE])
        self.assertEqual(cross.key("self_signing"), found["self_signing_keys"][ALICE])
        self.assertEqual(signed["signatures"], found["device_keys"][ALICE]["A1"]["signatures"])

    def test_one_server_is_away(self) -> None:
        self.bob.keys_of(ALICE)
        self.net.down(FAR)
        for number in range(5):
            self.alice.send(BOB, "B1", {"n": number})
        Client(self.net, self.near, ALICE, "A2")
        self.net.advance(60)
        self.near.restart()
        for number in range(5, 8):
            self.alice.send(BOB, "B1", {"n": number})
        Client(self.net, self.near, ALICE, "A3")
        self.net.advance(60)
        self.bob.sync()
        self.bob.changed.clear()
        self.assertEqual([], self.bob.messages)
        self.net.up(FAR)
        self.settle()
        self.settle()
        self.assertEqual([{"n": number} for number in range(8)], self.bob.messages)
        self.assertIn(ALICE, self.bob.changed)
        self.assertEqual({"A1", "A2", "A3"}, set(self.bob.keys_of(ALICE)["device_keys"][ALICE]))

    def test_answers_that_get_lost(self) -> None:
        lost: list[str] = []

        def lose(_: object, request: Any, response: Any) -> Exception | None:
            if "/send/" in request.uri and len(lost) < 3:
                lost.append(request.uri)
                return ConnectionError("lost")
            return None

        self.net.tamper_answers(lose)
        for number in range(3):
            self.alice.send(BOB, "B1", {"n": number})
        self.settle()
        self.settle()
        self.assertEqual(3, len(lost))
        self.assertEqual([{"n": number} for number in range(3)], self.bob.messages)

    def test_who_comes_back_is_not_known_from_before(self) -> None:
        self.bob.keys_of(ALICE)
        self.alice.call("POST", f"/rooms/{quote(self.room_id, safe='')}/leave", {})
        self.settle()
        Client(self.net, self.near, ALICE, "A2")
        self.settle()
        self.bob.changed.clear()
        self.alice.call("POST", f"/join/{quote(self.room_id, safe='')}", {}, server_name=FAR, via=FAR)
        self.settle()
        self.assertIn(ALICE, self.bob.changed)
        self.assertEqual({"A1", "A2"}, set(self.bob.keys_of(ALICE)["device_keys"][ALICE]))
