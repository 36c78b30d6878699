"""Keys of other servers' users: asked for, kept, told by EDUs; and what may be a lie of all that.

spec: server-server-api#device-management
spec: server-server-api#end-to-end-encryption
"""

from __future__ import annotations

import itertools
from typing import Any

from homeserver.e2ee.remote import RESYNC_WAITS_S
from homeserver.store import to_device as store
from homeserver.store.remote_lists import Fetched, store_list
from tests.api.rooms import V3
from tests.api.servers import set_membership
from tests.support.databases import SQLITE, DatabaseCase, on_each_database
from tests.support.federation import TestNet
from tests.support.keys import CrossKeys, KeyDevice

NEAR, FAR = "near.example", "far.example"
ALICE, BOB = f"@alice:{NEAR}", f"@bob:{FAR}"
QUERY, CLAIM = "/_matrix/federation/v1/user/keys/query", "/_matrix/federation/v1/user/keys/claim"
DEVICES = "/_matrix/federation/v1/user/devices"
SIGNED = "signed_curve25519"


class RemoteCase(DatabaseCase):
    """Alice at a server of ours; bob at one that does what the test says."""

    def setUp(self) -> None:
        self.net = TestNet(self)
        database = "sqlite::memory:" if self.dialect == SQLITE else self.new_database()
        self.near = self.net.server(NEAR, database=database)
        self.far = self.net.stranger(FAR)
        self.alice = self.near.register("alice")
        self.phone = KeyDevice(BOB, "PHONE")
        self.cross = CrossKeys(BOB)
        self.devices = {"PHONE": self.phone.keys()}
        self.stream_id = 5
        self.far.answers["POST", QUERY] = lambda _: (200, self.answer_query())
        self.far.answers["GET", DEVICES] = lambda _: (200, self.answer_devices())
        self.txn_ids = itertools.count()

    # --- what bob's server says --------------------------------------------------------------------------------

    def answer_query(self) -> Any:
        return {
            "device_keys": {BOB: self.devices},
            "master_keys": {BOB: self.cross.key("master")},
            "self_signing_keys": {BOB: self.cross.key("self_signing")},
        }

    def answer_devices(self) -> Any:
        return {
            "user_id": BOB,
            "stream_id": self.stream_id,
            "devices": [{"device_id": name, "keys": keys} for name, keys in self.devices.items()],
            "master_key": self.cross.key("master"),
            "self_signing_key": self.cross.key("self_signing"),
        }

    def edu(self, edu_type: str, **content: Any) -> None:
        """Bob's server sends one."""
        body = {
            "origin": FAR,
            "origin_server_ts": self.net.now_ms,
            "pdus": [],
            "edus": [{"edu_type": edu_type, "content": content}],
        }
        uri = f"/_matrix/federation/v1/send/{next(self.txn_ids)}"
        self.assertEqual(200, self.far.ask(NEAR, "PUT", uri, body)[0])

    def update(self, device: KeyDevice, *prev_id: int, **more: Any) -> None:
        """A device list update, the next one after the last."""
        self.stream_id += 1
        self.edu(
            "m.device_list_update",
            user_id=BOB,
            device_id=device.device_id,
            stream_id=self.stream_id,
            prev_id=list(prev_id),
            keys=device.keys(),
            **more,
        )

    # --- what alice does ---------------------------------------------------------------------------------------

    def share_room(self) -> str:
        """A room of alice and bob."""
        room_id: str = self.near.ok("POST", f"{V3}/createRoom", {"preset": "public_chat"}, self.alice)[
            "room_id"
        ]
        set_membership(self.near, room_id, BOB, "join")
        return room_id

    def query(self, *device_ids: str, **more: Any) -> Any:
        """What alice is told of bob."""
        body = {"device_keys": {BOB: list(device_ids)}, **more}
        response = self.net.wait(self.near.start("POST", f"{V3}/keys/query", body, self.alice))
        self.assertEqual(200, response.status, response.body)
        return response.json

    def told(self, since: str) -> list[str]:
        """Whose keys have changed."""
        query: Any = {"since": since, "timeout": 0}
        answer = self.near.ok("GET", f"{V3}/sync", None, self.alice, query)
        changed: list[str] = answer.get("device_lists", {}).get("changed", [])
        return changed

    def now(self) -> str:
        since: str = self.near.ok("GET", f"{V3}/sync", None, self.alice)["next_batch"]
        return since

    def asked(self, path: str = QUERY) -> int:
        """How often bob's server was asked."""
        return len(self.net.sent(path, origin=NEAR))


@on_each_database
class Queries(RemoteCase):
    def test_asked_for_and_kept_while_a_room_is_shared(self) -> None:
        self.share_room()
        expected = {
            "device_keys": {BOB: {"PHONE": {**self.phone.keys(), "unsigned": {}}}},
            "master_keys": {BOB: self.cross.key("master")},
            "self_signing_keys": {BOB: self.cross.key("self_signing")},
            "user_signing_keys": {},
            "failures": {},
        }
        self.assertEqual(expected, self.query())
        self.assertEqual({"device_keys": {BOB: []}}, self.net.sent(QUERY)[0].json)
        self.assertEqual(expected, self.query())
        self.assertEqual(1, self.asked())
        self.near.restart()
        self.assertEqual(expected, self.query("PHONE"))
        self.assertEqual({BOB: {}}, self.query("NONE")["device_keys"])
        self.assertEqual(1, self.asked())

    def test_not_kept_without_a_room(self) -> None:
        self.assertIn(BOB, self.query()["device_keys"])
        self.assertIn(BOB, self.query()["device_keys"])
        self.assertEqual(2, self.asked())
        # Nor while nobody told us of changes.
        room_id = self.share_room()
        self.query()
        self.query()
        self.assertEqual(3, self.asked())
        set_membership(self.near, room_id, BOB, "leave")
        self.query()
        set_membership(self.near, room_id, BOB, "join")
        self.query()
        self.query()
        self.assertEqual(5, self.asked())

    def test_not_kept_while_nobody_of_ours_was_in_the_room(self) -> None:
        room_id = self.share_room()
        self.query()
        set_membership(self.near, room_id, ALICE, "leave")
        set_membership(self.near, room_id, ALICE, "join")
        self.query()
        self.assertEqual(2, self.asked())

    def test_many_users_are_asked_for_in_some_questions(self) -> None:
        body: Any = {"device_keys": {f"@user{number}:{FAR}": [] for number in range(600)}}
        self.net.wait(self.near.start("POST", f"{V3}/keys/query", body, self.alice))
        self.assertEqual([250, 250, 100], [len(one.json["device_keys"]) for one in self.net.sent(QUERY)])

    def test_many_who_ask_at_once_make_one_question(self) -> None:
        body: Any = {"device_keys": {BOB: []}}
        asked = [self.near.start("POST", f"{V3}/keys/query", body, self.alice) for _ in range(5)]
        for one in asked:
            self.assertIn("PHONE", self.net.wait(one).json["device_keys"][BOB])
        self.assertEqual(1, self.asked())

    def test_a_server_that_does_not_answer_is_named(self) -> None:
        self.net.down("gone.example")
        self.far.answers["POST", QUERY] = None
        body: Any = {"device_keys": {ALICE: [], BOB: [], "@x:gone.example": []}, "timeout": 3_000}
        began_s = self.net.time.seconds()
        found = self.net.wait(self.near.start("POST", f"{V3}/keys/query", body, self.alice)).json
        self.assertLess(self.net.time.seconds() - began_s, 5)
        self.assertEqual({ALICE: {}}, found["device_keys"])
        self.assertEqual({FAR, "gone.example"}, set(found["failures"]))

    def test_an_error_is_named(self) -> None:
        self.far.answers["POST", QUERY] = lambda _: (403, {"errcode": "M_FORBIDDEN", "error": "no"})
        self.assertEqual("M_FORBIDDEN", self.query()["failures"][FAR]["errcode"])
        self.far.answers["POST", QUERY] = lambda _: (200, b"[]")
        self.assertIn(FAR, self.query()["failures"])

    def test_only_its_own_users_and_only_what_is_well_formed(self) -> None:
        room_id = self.share_room()
        good, other = self.phone.keys(), KeyDevice(ALICE, "PHONE")
        devices: Any
        for devices in (
            [],
            {"PHONE": []},
            {"PHONE": {**good, "user_id": ALICE}},
            {"DESK": good},
            {"PHONE": {**good, "keys": {"x": 1}}},
            {"PHONE": {**good, "x": "x" * 40_000}},
            {"PH\0NE": {**good, "device_id": "PH\0NE"}},
        ):
            answer: Any = {
                "device_keys": {BOB: devices, ALICE: {"PHONE": other.keys()}},
                "master_keys": {ALICE: CrossKeys(ALICE).key("master"), BOB: CrossKeys(ALICE).key("master")},
                "self_signing_keys": [],
                "user_signing_keys": {BOB: self.cross.key("user_signing")},
            }
            self.far.answers["POST", QUERY] = lambda _, answer=answer: (200, answer)  # type: ignore[misc]
            found = self.query()
            self.assertEqual({}, found["device_keys"].get(BOB, {}))
            self.assertEqual(({}, {}), (found["master_keys"], found["user_signing_keys"]))
            self.assertNotIn(ALICE, found["device_keys"])
            # Ask again.
            set_membership(self.near, room_id, BOB, "leave")
            set_membership(self.near, room_id, BOB, "join")

    def test_signatures_of_others_are_none_of_our_business(self) -> None:
        stranger = CrossKeys(f"@carol:{FAR}")
        signed = stranger.user_signing.sign(self.cross.key("master"))
        self.far.answers["POST", QUERY] = lambda _: (200, {"device_keys": {}, "master_keys": {BOB: signed}})
        self.assertEqual({**self.cross.key("master"), "signatures": {}}, self.query()["master_keys"][BOB])

    def test_what_alice_signed_is_told_to_her(self) -> None:
        self.share_room()
        self.query()
        own = CrossKeys(ALICE)
        self.near.ok("POST", f"{V3}/keys/device_signing/upload", own.body(), self.alice)
        signed = own.user_signing.sign(self.cross.key("master"))
        body = {BOB: {self.cross.master.public_key: signed}}
        self.assertEqual(
            {"failures": {}}, self.near.ok("POST", f"{V3}/keys/signatures/upload", body, self.alice)
        )
        self.assertEqual(signed, self.query()["master_keys"][BOB])
        # Where the list is not kept as well.
        self.update(self.phone)
        self.net.wait(self.near.start("GET", f"{V3}/versions"))
        self.assertEqual(signed["signatures"], self.query()["master_keys"][BOB]["signatures"])

    def test_claims(self) -> None:
        keys = self.phone.one_time_keys("a", "b")
        key = {f"{SIGNED}:a": keys[f"{SIGNED}:a"]}
        body = {"one_time_keys": {BOB: {"PHONE": SIGNED, "DESK": SIGNED}, f"@c:{FAR}": {"X": SIGNED}}}
        for answered, expected in (
            ({BOB: {"PHONE": key}}, {BOB: {"PHONE": key}}),
            ({BOB: {"PHONE": keys}}, {BOB: {"PHONE": key}}),
            ({BOB: {"PHONE": {"other:a": "x"}, "DESK": {f"{SIGNED}:a": 1}, "MORE": key}}, {}),
            ({ALICE: {"PHONE": key}}, {}),
            ([], {}),
            ({BOB: []}, {}),
        ):
            self.far.answers["POST", CLAIM] = lambda _, found=answered: (200, {"one_time_keys": found})  # type: ignore[misc]
            answer = self.net.wait(self.near.start("POST", f"{V3}/keys/claim", body, self.alice)).json
            self.assertEqual({"one_time_keys": expected, "failures": {}}, answer)
        self.assertEqual(body, self.net.sent(CLAIM)[0].json)
        self.net.down(FAR)
        answer = self.net.wait(self.near.start("POST", f"{V3}/keys/claim", body, self.alice)).json
        self.assertEqual(({}, [FAR]), (answer["one_time_keys"], list(answer["failures"])))

    def test_a_claim_is_given_up(self) -> None:
        """As at the end of a stop: it is no fault of ours, and nothing to log as one (see ``TestApp``)."""
        self.far.answers["POST", CLAIM] = lambda _: None
        body = {"one_time_keys": {BOB: {"PHONE": SIGNED}}}
        claiming = self.near.start("POST", f"{V3}/keys/claim", body, self.alice)
        self.net.settle()
        self.assertNoResult(claiming)
        claiming.cancel()
        self.assertEqual(503, self.net.wait(claiming).status)


@on_each_database
class Updates(RemoteCase):
    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.share_room()
        self.query()

    def resynced(self) -> int:
        """How often the whole list was fetched."""
        self.net.settle()
        return self.asked(DEVICES)

    def known(self) -> list[str]:
        return sorted(self.query()["device_keys"].get(BOB, {}))

    def sync_up(self) -> None:
        """The first update makes the list be fetched with its stream id."""
        self.update(self.phone)
        self.assertEqual(1, self.resynced())

    def test_the_first_update_fetches_the_list(self) -> None:
        since = self.now()
        desk = KeyDevice(BOB, "DESK")
        self.devices["DESK"] = desk.keys()
        self.update(desk, 5)
        self.assertEqual([BOB], self.told(since))
        self.assertEqual(1, self.resynced())
        self.assertEqual(["DESK", "PHONE"], self.known())
        self.assertEqual(1, self.asked())

    def test_updates_in_order_need_no_question(self) -> None:
        self.sync_up()
        since = self.now()
        desk = KeyDevice(BOB, "DESK")
        self.update(desk, self.stream_id, device_display_name="Bob's desk")
        self.assertEqual([BOB], self.told(since))
        self.assertEqual(["DESK", "PHONE"], self.known())
        told = self.query()["device_keys"][BOB]["DESK"]
        self.assertEqual({**desk.keys(), "unsigned": {"device_display_name": "Bob's desk"}}, told)
        since = self.now()
        self.stream_id += 1
        self.edu(
            "m.device_list_update",
            user_id=BOB,
            device_id="PHONE",
            stream_id=self.stream_id,
            prev_id=[self.stream_id - 1],
            deleted=True,
        )
        self.assertEqual(["DESK"], self.known())
        self.assertEqual([BOB], self.told(since))
        self.assertEqual((1, 1), (self.resynced(), self.asked()))

    def test_again_and_old(self) -> None:
        self.sync_up()
        self.update(KeyDevice(BOB, "DESK"), self.stream_id)
        since = self.now()
        self.stream_id -= 1
        self.update(KeyDevice(BOB, "DESK", "other"), self.stream_id - 1)
        self.stream_id -= 3
        self.update(KeyDevice(BOB, "OLD"), self.stream_id)
        self.assertEqual([], self.told(since))
        self.assertEqual(["DESK", "PHONE"], self.known())
        self.assertEqual(1, self.resynced())

    def test_one_that_follows_nothing_fetches_the_list(self) -> None:
        # As Conduit and its descendants tell of each change.
        self.sync_up()
        for times, name in enumerate(("DESK", "ATTIC"), 2):
            self.devices[name] = KeyDevice(BOB, name).keys()
            since = self.now()
            self.edu("m.device_list_update", user_id=BOB, device_id="dummy", stream_id=1, prev_id=[])
            self.assertEqual([BOB], self.told(since))
            self.assertEqual((sorted(self.devices), times), (self.known(), self.resynced()))

    def test_a_gap_fetches_the_list(self) -> None:
        self.sync_up()
        self.devices = {"NEW": KeyDevice(BOB, "NEW").keys()}
        self.stream_id += 10
        since = self.now()
        self.update(KeyDevice(BOB, "NEW"), self.stream_id)
        self.assertEqual(2, self.resynced())
        self.assertEqual(["NEW"], self.known())
        self.assertEqual([BOB], self.told(since))
        self.update(KeyDevice(BOB, "NEXT"), self.stream_id)
        self.assertEqual((["NEW", "NEXT"], 2), (self.known(), self.resynced()))

    def test_a_gap_while_the_server_is_away(self) -> None:
        self.sync_up()
        self.devices = {"NEW": KeyDevice(BOB, "NEW").keys()}
        self.far.answers["GET", DEVICES] = lambda _: (500, {})
        self.stream_id += 10
        self.update(KeyDevice(BOB, "NEW"), self.stream_id)
        self.assertEqual(2, self.resynced())
        # Whoever asks meanwhile makes it be asked.
        self.assertEqual((["NEW"], 2), (self.known(), self.asked()))
        self.far.answers["GET", DEVICES] = lambda _: (200, self.answer_devices())
        self.net.advance(RESYNC_WAITS_S[0] + 1)
        self.assertEqual(3, self.resynced())
        self.assertEqual((["NEW"], 2), (self.known(), self.asked()))

    def test_fetching_is_given_up_at_last(self) -> None:
        self.far.answers["GET", DEVICES] = lambda _: (404, {})
        self.update(self.phone)
        self.update(self.phone)
        self.net.advance(sum(RESYNC_WAITS_S) + 60)
        self.assertEqual(len(RESYNC_WAITS_S) + 1, self.resynced())

    def test_an_answer_that_is_older_than_an_update_is_not_kept(self) -> None:
        self.sync_up()
        core = self.near.app.core
        bob = core.interner.known_user(BOB)
        assert bob is not None
        asked_pos = core.changes.position
        self.devices = {"NEW": KeyDevice(BOB, "NEW").keys()}
        self.update(KeyDevice(BOB, "NEW"), self.stream_id)
        late = Fetched(bob, self.stream_id - 1, asked_pos, [], [])
        self.assertFalse(self.near.wait(core.committer.work(store_list, late)))
        self.assertEqual((["NEW"], 2), (self.known(), self.asked()))

    def test_signing_keys(self) -> None:
        self.sync_up()
        since = self.now()
        second = CrossKeys(BOB, "second")
        keys = {"master_key": second.key("master"), "self_signing_key": second.key("self_signing")}
        self.edu("m.signing_key_update", user_id=BOB, **keys)
        self.assertEqual([BOB], self.told(since))
        found = self.query()
        self.assertEqual(second.key("master"), found["master_keys"][BOB])
        self.assertEqual(second.key("self_signing"), found["self_signing_keys"][BOB])
        self.assertEqual(1, self.asked())
        since = self.now()
        self.edu("m.signing_key_update", user_id=BOB, **keys)
        self.assertEqual([], self.told(since))

    def test_lies_and_nonsense(self) -> None:
        self.sync_up()
        since = self.now()
        good = {
            "user_id": BOB,
            "device_id": "DESK",
            "stream_id": self.stream_id + 1,
            "prev_id": [self.stream_id],
            "keys": KeyDevice(BOB, "DESK").keys(),
        }
        changes: list[dict[str, Any]] = [
            {"user_id": ALICE},
            {"user_id": f"@stranger:{FAR}"},
            {"user_id": "bob"},
            {"stream_id": -1},
            {"stream_id": "7"},
            {"stream_id": 2**60},
            {"prev_id": "x"},
            {"device_id": "D\0", "keys": {**KeyDevice(BOB, "D\0").keys()}},
            {"device_id": "x" * 300},
            {"keys": KeyDevice(BOB, "PHONE").keys()},
            {"keys": {**KeyDevice(BOB, "DESK").keys(), "algorithms": 1}},
            {"keys": {**KeyDevice(BOB, "DESK").keys(), "x": "x" * 40_000}},
        ]
        for change in changes:
            self.edu("m.device_list_update", **{**good, **change})
        stranger = CrossKeys(ALICE)
        self.edu("m.signing_key_update", user_id=ALICE, master_key=stranger.key("master"))
        self.edu("m.signing_key_update", user_id=BOB, master_key=stranger.key("master"))
        self.edu("m.signing_key_update", user_id=BOB, master_key={**self.cross.key("master"), "keys": {}})
        self.edu(
            "m.signing_key_update",
            user_id=f"@stranger:{FAR}",
            master_key=CrossKeys(f"@stranger:{FAR}").key("master"),
        )
        self.assertEqual([], self.told(since))
        self.assertEqual((["PHONE"], 1), (self.known(), self.resynced()))

    def test_a_sync_that_waits(self) -> None:
        query: Any = {"since": self.now(), "timeout": 30_000}
        waiting = self.near.start("GET", f"{V3}/sync", None, self.alice, query)
        self.update(self.phone)
        self.assertEqual({"changed": [BOB], "left": []}, self.net.wait(waiting).json["device_lists"])


@on_each_database
class Messages(RemoteCase):
    def setUp(self) -> None:
        super().setUp()
        self.device_id = self.near.ok("GET", f"{V3}/account/whoami", None, self.alice)["device_id"]

    def send(self, messages: Any, message_id: str = "m1", **more: Any) -> None:
        content = {"sender": BOB, "type": "m.dummy", "message_id": message_id, "messages": messages, **more}
        self.edu("m.direct_to_device", **content)

    def inbox(self) -> list[Any]:
        answer = self.near.ok("GET", f"{V3}/sync", None, self.alice)
        found: list[Any] = answer.get("to_device", {}).get("events", [])
        return found

    def test_each_once(self) -> None:
        for _ in range(2):
            self.send({ALICE: {self.device_id: {"n": 1, "nul": "\0"}}})
        self.near.restart()
        self.send({ALICE: {self.device_id: {"n": 2}}})
        self.send({ALICE: {"*": {"n": 3}}}, "m2")
        events = [{"sender": BOB, "type": "m.dummy", "content": {"n": 1, "nul": "\0"}}]
        events.append({"sender": BOB, "type": "m.dummy", "content": {"n": 3}})
        self.assertEqual(events, self.inbox())

    def test_ids_are_remembered_for_a_while_and_of_each_server_so_many(self) -> None:
        self.patch(store, "SEEN_MOST", 3)
        for number in range(5):
            self.send({ALICE: {"*": {"n": number}}}, f"m{number}")
            self.net.advance(1)
        work, now_ms = self.near.app.core.committer.work, self.net.now_ms
        self.net.wait(work(store.sweep_ids, 0, 100))
        for number in (4, 0):
            self.send({ALICE: {"*": {"again": number}}}, f"m{number}")
        self.assertEqual([0], [one["content"]["again"] for one in self.inbox() if "again" in one["content"]])
        self.net.wait(work(store.sweep_ids, now_ms, 100))
        self.send({ALICE: {"*": {"late": 3}}}, "m3")
        self.assertIn({"late": 3}, [one["content"] for one in self.inbox()])

    def test_the_ids_of_two_servers_are_apart(self) -> None:
        other = self.net.stranger("third.example")
        self.send({ALICE: {"*": {"n": 1}}}, "same")
        self.far, carol = other, "@carol:third.example"
        content = {"sender": carol, "type": "m.dummy", "message_id": "same"}
        body = {
            "origin": "third.example",
            "origin_server_ts": 1,
            "edus": [
                {"edu_type": "m.direct_to_device", "content": {**content, "messages": {ALICE: {"*": {}}}}}
            ],
            "pdus": [],
        }
        self.assertEqual(200, other.ask(NEAR, "PUT", "/_matrix/federation/v1/send/1", body)[0])
        self.assertEqual([BOB, carol], [one["sender"] for one in self.inbox()])

    def test_lies_and_nonsense(self) -> None:
        self.send({ALICE: {"*": {}}}, sender=ALICE)
        self.send({ALICE: {"*": 1}})
        self.send({ALICE: []})
        self.send({"alice": {"*": {}}})
        self.send({ALICE: {"*": {}}}, "m\0")
        self.send({ALICE: {"*": {}}}, "m" * 300)
        self.send({ALICE: {"*": {}}}, type=1)
        self.send({ALICE: {"x\0": {}, "NONE": {}}, f"@nobody:{NEAR}": {"*": {}}, f"@x:{FAR}": {"*": {}}})
        self.send({ALICE: {"*": {"x": "x" * 200_000}}}, "large")
        self.assertEqual([], self.inbox())
        # An id that delivered nothing is not used up.
        self.send({ALICE: {"*": {"n": 1}}}, "large")
        self.assertEqual([{"n": 1}], [one["content"] for one in self.inbox()])


@on_each_database
class Answers(RemoteCase):
    """What this server tells the other one of alice."""

    def setUp(self) -> None:
        super().setUp()
        body = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}}
        login = {**body, "password": "correct horse", "device_id": "A1", "initial_device_display_name": "One"}
        self.token = self.near.ok("POST", f"{V3}/login", login)["access_token"]
        self.device = KeyDevice(ALICE, "A1")
        uploaded = {
            "device_keys": self.device.keys(),
            "one_time_keys": self.device.one_time_keys("a"),
            "fallback_keys": self.device.fallback_key("f"),
        }
        self.near.ok("POST", f"{V3}/keys/upload", uploaded, self.token)
        self.own = CrossKeys(ALICE)
        self.near.ok("POST", f"{V3}/keys/device_signing/upload", self.own.body(), self.token)

    def test_query(self) -> None:
        users: Any = {ALICE: [], BOB: [], f"@nobody:{NEAR}": [], "nonsense": []}
        status, found = self.far.ask(NEAR, "POST", QUERY, {"device_keys": users})
        keys = {**self.device.keys(), "unsigned": {"device_display_name": "One"}}
        expected = {
            "device_keys": {ALICE: {"A1": keys}},
            "master_keys": {ALICE: self.own.key("master")},
            "self_signing_keys": {ALICE: self.own.key("self_signing")},
        }
        self.assertEqual((200, expected), (status, found))
        status, found = self.far.ask(NEAR, "POST", QUERY, {"device_keys": {ALICE: ["NONE"]}})
        self.assertEqual({}, found["device_keys"])
        body: Any
        for body in ({}, {"device_keys": []}, {"device_keys": {ALICE: 1}}):
            self.assertEqual(400, self.far.ask(NEAR, "POST", QUERY, body)[0])

    def test_query_with_null_for_every_device(self) -> None:
        """So Dendrite asks: in Go a list without anything in it is null."""
        status, found = self.far.ask(NEAR, "POST", QUERY, {"device_keys": {ALICE: None}})
        self.assertEqual((200, ["A1"]), (status, list(found["device_keys"][ALICE])))

    def test_claim(self) -> None:
        body = {"one_time_keys": {ALICE: {"A1": SIGNED, "NONE": SIGNED}, BOB: {"PHONE": SIGNED}}}
        for key in (self.device.one_time_keys("a"), self.device.fallback_key("f")):
            status, found = self.far.ask(NEAR, "POST", CLAIM, body)
            self.assertEqual((200, {"one_time_keys": {ALICE: {"A1": key}}}), (status, found))
        for bad in ({}, {"one_time_keys": {ALICE: {"A1": 1}}}):
            self.assertEqual(400, self.far.ask(NEAR, "POST", CLAIM, bad)[0])

    def test_devices(self) -> None:
        status, found = self.far.ask(NEAR, "GET", f"{DEVICES}/{ALICE}")
        self.assertEqual(200, status)
        stream_id = found.pop("stream_id")
        expected = {
            "user_id": ALICE,
            "devices": [{"device_id": "A1", "keys": self.device.keys(), "device_display_name": "One"}],
            "master_key": self.own.key("master"),
            "self_signing_key": self.own.key("self_signing"),
        }
        self.assertEqual(expected, found)
        self.near.ok("PUT", f"{V3}/devices/A1", {"display_name": "Two"}, self.token)
        later = self.far.ask(NEAR, "GET", f"{DEVICES}/{ALICE}")[1]
        self.assertGreater(later["stream_id"], stream_id)
        self.assertEqual("Two", later["devices"][0]["device_display_name"])
        self.assertEqual(404, self.far.ask(NEAR, "GET", f"{DEVICES}/{BOB}")[0])
        self.assertEqual(400, self.far.ask(NEAR, "GET", f"{DEVICES}/alice")[0])

    def test_devices_of_nobody(self) -> None:
        """Who has no account has none, and that is no error: Dendrite would not ask this server again for an hour."""
        nobody = f"@nobody:{NEAR}"
        expected = {"user_id": nobody, "stream_id": 0, "devices": []}
        self.assertEqual((200, expected), self.far.ask(NEAR, "GET", f"{DEVICES}/{nobody}"))

    def test_unsigned_requests(self) -> None:
        for method, path in (("POST", QUERY), ("POST", CLAIM), ("GET", f"{DEVICES}/{ALICE}")):
            self.assertEqual(
                401, self.far.ask(NEAR, method, path, {} if method == "POST" else None, authorization="")[0]
            )
