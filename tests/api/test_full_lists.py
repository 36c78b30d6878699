"""Device lists and answers that are as large as may be."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred

from federation.canonical import encode
from homeserver.e2ee import remote, types
from homeserver.http.transport import PeerRequest
from homeserver.store import remote_lists
from tests.api.rooms import V3
from tests.api.servers import set_membership
from tests.api.test_remote_keys import ALICE, BOB, CLAIM, DEVICES, FAR, NEAR, QUERY, SIGNED, RemoteCase
from tests.support.databases import on_each_database
from tests.support.federation import Answerer
from tests.support.http import Answer
from tests.support.keys import KeyDevice, log_in_with_keys

CAROL = f"@carol:{FAR}"
_MIB = "x" * 1024 * 1024


@on_each_database
class FullLists(RemoteCase):
    def setUp(self) -> None:
        super().setUp()
        self.share_room()
        self.query()
        self.update(self.phone)
        self.assertEqual(1, self.resynced(), "it is fetched with its stream id")

    def resynced(self) -> int:
        """How often the whole list was fetched."""
        self.net.settle()
        return self.asked(DEVICES)

    def test_devices(self) -> None:
        """What is told of those that are known counts, and one that there is no room for makes the list be fetched."""
        self.patch(remote_lists, "MAX_DEVICES", 1)
        self.update(self.phone, self.stream_id, device_display_name="Bob's pocket")
        told = self.query()["device_keys"][BOB]["PHONE"]["unsigned"]
        self.assertEqual(({"device_display_name": "Bob's pocket"}, 1), (told, self.resynced()))
        desk = KeyDevice(BOB, "DESK")
        self.devices = {"DESK": desk.keys()}
        self.update(desk, self.stream_id)
        self.assertEqual((2, ["DESK"]), (self.resynced(), list(self.query()["device_keys"][BOB])))

    def test_longer_than_what_is_kept(self) -> None:
        """A server may know no bound of devices; the first ones of its list are kept."""
        self.patch(remote_lists, "MAX_DEVICES", 1)
        desk = KeyDevice(BOB, "DESK")
        self.devices = {"DESK": desk.keys(), "PHONE": self.phone.keys()}
        self.far.answers["GET", DEVICES] = lambda _: (200, {**self.answer_devices(), "x": 3 * _MIB})
        self.update(desk)
        self.assertEqual((2, ["DESK"]), (self.resynced(), list(self.query()["device_keys"][BOB])))
        self.assertEqual(1, self.asked())

    def test_bytes(self) -> None:
        one, two, three = (KeyDevice(BOB, name) for name in ("D1", "D2", "D3"))
        self.devices = {device.device_id: device.keys() for device in (one, two, three)}
        self.patch(remote_lists, "MAX_LIST_LENGTH", 2 * len(encode(one.keys())) + 20)
        self.update(one)
        self.assertEqual((2, ["D1", "D2"]), (self.resynced(), sorted(self.query()["device_keys"][BOB])))
        again = KeyDevice(BOB, "D2", "other")
        self.update(again, self.stream_id)
        told = self.query()["device_keys"][BOB]["D2"]["keys"]
        self.assertEqual((again.keys()["keys"], 2), (told, self.resynced()))
        self.devices = {"D3": three.keys()}
        self.update(three, self.stream_id)
        self.assertEqual((3, ["D3"]), (self.resynced(), list(self.query()["device_keys"][BOB])))


def _answer_for(device: KeyDevice) -> Answerer:
    return lambda _: (200, {"device_keys": {device.user_id: {device.device_id: device.keys()}}})


@on_each_database
class Answers(RemoteCase):
    """Of other servers to this one, and of this one to clients."""

    def setUp(self) -> None:
        self.patch(remote, "QUESTIONS_EACH", 2)
        self.patch(remote, "_WAITING_EACH", 3)
        super().setUp()

    def begin_query(self, *user_ids: str) -> Deferred[Answer]:
        """Alice asks for some users."""
        body = {"device_keys": {user_id: [] for user_id in user_ids}, "timeout": 3_000}
        return self.near.start("POST", f"{V3}/keys/query", body, self.alice)

    def query_all(self, *user_ids: str) -> Any:
        """What alice is told of some users."""
        return self.net.wait(self.begin_query(*user_ids)).json

    def begin_claim(self, *user_ids: str) -> Deferred[Answer]:
        """Alice claims a key of the device of each."""
        body = {"one_time_keys": {user_id: {"D": SIGNED} for user_id in user_ids}, "timeout": 3_000}
        return self.near.start("POST", f"{V3}/keys/claim", body, self.alice)

    def strangers(self, most: int, first: int = 0) -> list[str]:
        """A user each of so many servers, which answer."""
        users = [f"@user:s{number}.example" for number in range(first, first + most)]
        for user_id in users:
            server, device = self.net.stranger(user_id.partition(":")[2]), KeyDevice(user_id, "D")
            server.answers["POST", QUERY] = _answer_for(device)
            claimed = {user_id: {"D": device.one_time_keys("a")}}
            server.answers["POST", CLAIM] = lambda _, claimed=claimed: (200, {"one_time_keys": claimed})  # type: ignore[misc]
        return users

    def test_so_many_questions_at_a_time(self) -> None:
        users = self.strangers(5)
        servers = list(self.net.strangers.values())[-5:]
        self.assertEqual(set(users), set(self.query_all(*users)["device_keys"]))
        self.assertEqual(5, self.asked())
        for server in servers[:2]:
            server.answers["POST", QUERY] = None
        asked = self.begin_query(*users)
        self.net.settle()
        self.assertEqual(5 + 2, self.asked())
        began_s = self.net.time.seconds()
        self.assertEqual({server.name for server in servers}, set(self.net.wait(asked).json["failures"]))
        self.assertLess(self.net.time.seconds() - began_s, 5)
        # By now it is known who does not answer.
        found = self.query_all(*users)
        self.assertEqual(set(users[2:]), set(found["device_keys"]))
        self.assertEqual({server.name for server in servers[:2]}, set(found["failures"]))

    def test_some_queries_at_once(self) -> None:
        """Each stands in line once, however many servers it is about."""
        users = [self.strangers(4, first) for first in (0, 4, 8)]
        for asked, one in zip(users, [self.begin_query(*some) for some in users], strict=True):
            found = self.net.wait(one).json
            self.assertEqual((set(asked), {}), (set(found["device_keys"]), found["failures"]))

    def test_as_many_queries_as_may_wait(self) -> None:
        users = self.strangers(2)
        for server in list(self.net.strangers.values())[-2:]:
            server.answers["POST", QUERY] = None
        asked = [self.begin_query(*users), *(self.begin_query(BOB) for _ in range(3))]
        for one in (self.begin_query(BOB), self.begin_claim(BOB)):
            found = self.net.wait(one).json
            self.assertEqual("M_LIMIT_EXCEEDED", found["failures"][FAR]["errcode"])
        self.net.settle()
        self.assertEqual(2, self.asked())
        for one in asked:
            self.assertNoResult(one)
        for one in asked:
            self.net.wait(one)
        self.assertIn(BOB, self.query()["device_keys"])

    def test_so_many_claims_at_a_time(self) -> None:
        users = self.strangers(5)
        found = self.net.wait(self.begin_claim(*users)).json
        self.assertEqual((set(users), {}), (set(found["one_time_keys"]), found["failures"]))
        self.assertEqual(5, self.asked(CLAIM))
        for server in list(self.net.strangers.values())[-5:]:
            server.answers["POST", CLAIM] = None
        claiming = self.begin_claim(*users)
        self.net.settle()
        self.assertEqual(5 + 2, self.asked(CLAIM))
        began_s = self.net.time.seconds()
        found = self.net.wait(claiming).json
        self.assertEqual(({}, 5), (found["one_time_keys"], len(found["failures"])))
        self.assertLess(self.net.time.seconds() - began_s, 2 * 3 + 1)

    def test_whoever_waits_for_a_place_asks_for_what_others_ask_for(self) -> None:
        """Nobody who has many questions keeps others from asking theirs: only one that is under way is shared."""
        for number in range(2):
            self.net.stranger(f"s{number}.example").answers["POST", QUERY] = None
        body: Any = {"device_keys": {"@x:s0.example": [], "@x:s1.example": [], BOB: []}, "timeout": 60_000}
        waiting = self.near.start("POST", f"{V3}/keys/query", body, self.alice)
        self.net.settle()
        other = self.near.register("dave")
        body = {"device_keys": {BOB: []}}
        found = self.net.wait(self.near.start("POST", f"{V3}/keys/query", body, other)).json
        self.assertEqual([BOB], list(found["device_keys"]))
        self.assertNoResult(waiting)
        self.net.advance(61)
        self.assertEqual(200, self.net.wait(waiting).status)

    def test_one_that_is_too_large(self) -> None:
        claims = {"one_time_keys": {BOB: {"PHONE": SIGNED}}}
        self.far.answers["POST", QUERY] = lambda _: (200, {**self.answer_query(), "x": 3 * _MIB})
        self.assertEqual(([BOB], {}), (list(self.query()["device_keys"]), self.query()["failures"]))
        self.far.answers["POST", QUERY] = lambda _: (200, {**self.answer_query(), "x": 5 * _MIB})
        self.assertEqual(({}, [FAR]), (self.query()["device_keys"], list(self.query()["failures"])))
        self.far.answers["POST", CLAIM] = lambda _: (200, {"one_time_keys": {}, "x": _MIB})
        claimed = self.net.wait(self.near.start("POST", f"{V3}/keys/claim", claims, self.alice)).json
        self.assertEqual([FAR], list(claimed["failures"]))

    def test_one_that_is_too_large_beside_others(self) -> None:
        """Others of its server are asked for without it."""
        others = {name: KeyDevice(name, "DESK").keys() for name in (CAROL, f"@dora:{FAR}", f"@eve:{FAR}")}

        def answer(request: PeerRequest) -> Any:
            users = json.loads(request.body or b"")["device_keys"]
            padding = 5 * _MIB if BOB in users else ""
            return 200, {
                "device_keys": {name: {"DESK": others[name]} for name in users if name != BOB},
                "x": padding,
            }

        self.far.answers["POST", QUERY] = answer
        found = self.query_all(BOB, *others)
        self.assertEqual((set(others), [FAR]), (set(found["device_keys"]), list(found["failures"])))
        self.assertEqual(5, self.asked())

    def test_room_for_large_lists(self) -> None:
        """Of those for which there is none the server is named; the others are told, kept or asked for."""
        carols = KeyDevice(CAROL, "DESK")
        devices = {BOB: self.devices, CAROL: {"DESK": carols.keys()}}
        self.far.answers["POST", QUERY] = lambda _: (200, {**self.answer_query(), "device_keys": devices})
        self.patch(types, "SMALL_LIST_BYTES", 0)
        self.patch(types, "LARGE_LISTS_BYTES", len(encode(carols.keys())))
        set_membership(self.near, self.share_room(), CAROL, "join")
        for _ in range(2):
            found = self.query_all(BOB, CAROL)
            self.assertEqual(([CAROL], [FAR]), (list(found["device_keys"]), list(found["failures"])))
            self.assertEqual(1, self.asked())
        self.patch(types, "SMALL_LIST_BYTES", 4_000)
        found = self.query_all(BOB, CAROL)
        self.assertEqual(({BOB, CAROL}, {}), (set(found["device_keys"]), found["failures"]))

    def test_room_for_large_lists_of_our_own(self) -> None:
        self.near.register("dave")
        dave = f"@dave:{NEAR}"
        for user_id in (ALICE, dave):
            log_in_with_keys(self.near, user_id, "DESK")
        self.patch(types, "SMALL_LIST_BYTES", 0)
        self.patch(types, "LARGE_LISTS_BYTES", len(encode(KeyDevice(ALICE, "DESK").keys())))
        found = self.query_all(ALICE, dave)
        self.assertEqual((1, [NEAR]), (len(found["device_keys"]), list(found["failures"])))
        status, told = self.far.ask(NEAR, "POST", QUERY, {"device_keys": {ALICE: [], dave: []}})
        self.assertEqual((200, 1), (status, len(told["device_keys"])))
