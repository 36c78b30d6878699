"""Identity keys, one-time keys, fallback keys. spec: client-server-api#key-distribution"""

from __future__ import annotations

from typing import Any

from federation.canonical import encode
from homeserver.e2ee import assembly, claims, queries
from homeserver.e2ee.shapes import MAX_KEYS_BYTES, MAX_ONE_TIME_KEY_BYTES
from homeserver.store import device_keys, one_time_keys
from homeserver.store.one_time_keys import MAX_ONE_TIME_KEYS
from tests.api.keys import KeysCase
from tests.api.rooms import ALICE, BOB, V3
from tests.support.databases import on_each_database
from tests.support.keys import KeyDevice

SIGNED = "signed_curve25519"


@on_each_database
class IdentityKeys(KeysCase):
    def test_uploaded_keys_are_what_is_told(self) -> None:
        token, device = self.device("alice", "PHONE")
        found = self.query(self.bob, ALICE)
        self.assertEqual({"PHONE": {**device.keys(), "unsigned": {}}}, found["device_keys"][ALICE])
        self.assertEqual({}, found["failures"])
        # Her other device has none.
        self.app.ok("PUT", f"{V3}/devices/PHONE", {"display_name": "Her phone"}, token)
        found = self.query(self.bob, ALICE)
        self.assertEqual(
            {"device_display_name": "Her phone"}, found["device_keys"][ALICE]["PHONE"]["unsigned"]
        )

    def test_what_a_client_adds_to_its_keys_is_kept_but_not_unsigned(self) -> None:
        token, device = self.device("alice", "PHONE")
        keys = {
            **device.keys(),
            "org.example.more": {"deep": [1, "x\0y", None]},
            "unsigned": {"device_display_name": "I"},
        }
        self.ok(token, "/keys/upload", {"device_keys": keys})
        told = self.query(self.bob, ALICE)["device_keys"][ALICE]["PHONE"]
        self.assertEqual({"deep": [1, "x\0y", None]}, told["org.example.more"])
        self.assertEqual({}, told["unsigned"])

    def test_some_devices(self) -> None:
        self.device("alice", "PHONE")
        self.device("alice", "DESK")
        asked = {"device_keys": {ALICE: ["DESK", "NONE"], "@nobody:test.example": [], "no user": []}}
        found = self.ok(self.bob, "/keys/query", asked)
        self.assertEqual([ALICE], list(found["device_keys"]))
        self.assertEqual(["DESK"], list(found["device_keys"][ALICE]))
        self.assertEqual({}, found["failures"])

    def test_users_without_keys_are_known_all_the_same(self) -> None:
        self.assertEqual({BOB: {}}, self.query(self.alice, BOB)["device_keys"])

    def test_keys_go_with_the_device(self) -> None:
        token, device = self.device("alice", "PHONE")
        self.ok(
            token,
            "/keys/upload",
            {"one_time_keys": device.one_time_keys("a"), "fallback_keys": device.fallback_key("f")},
        )
        self.ok(token, "/logout")
        self.assertEqual({ALICE: {}}, self.query(self.bob, ALICE)["device_keys"])
        self.assertEqual({}, self.claim(self.bob, ALICE, "PHONE"))
        self.device("alice", "PHONE")
        self.assertEqual({}, self.claim(self.bob, ALICE, "PHONE"))

    def test_refused(self) -> None:
        token, device = self.device("alice", "PHONE")
        good = device.keys()
        change: Any
        value: Any
        for change in (
            {"user_id": BOB},
            {"device_id": "DESK"},
            {"algorithms": "m.olm"},
            {"algorithms": [1]},
            {"keys": []},
            {"keys": {"curve25519:PHONE": 1}},
            {"keys": {"curve25519:DESK": "x"}},
            {"signatures": None},
            {"signatures": {ALICE: "x"}},
            {"signatures": {ALICE: {"ed25519:PHONE": 1}}},
        ):
            answer = self.post(token, "/keys/upload", {"device_keys": {**good, **change}})
            errcode = "M_INVALID_PARAM" if list(change) in (["user_id"], ["device_id"]) else "M_BAD_JSON"
            self.assert_refused(answer, 400, errcode)
        for value in ([], "x", 1):
            self.assert_refused(self.post(token, "/keys/upload", {"device_keys": value}), 400, "M_BAD_JSON")
        answer = self.post(token, "/keys/upload", {"device_keys": {**good, "float": 1.5}})
        self.assert_refused(answer, 400, "M_BAD_JSON")
        answer = self.post(token, "/keys/upload", {"device_keys": {**good, "x": "x" * MAX_KEYS_BYTES}})
        self.assert_refused(answer, 413, "M_TOO_LARGE")
        self.assertEqual(good, _bare(self.query(self.bob, ALICE)["device_keys"][ALICE]["PHONE"]))

    def test_so_many_bytes_for_all_devices(self) -> None:
        token, device = self.device("alice", "D1")
        self.patch(device_keys, "MAX_LIST_LENGTH", len(encode(device.keys())) + 20)
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": "alice"},
            "password": "correct horse",
            "device_id": "D2",
        }
        second = self.app.ok("POST", f"{V3}/login", body)["access_token"]
        keys = {"device_keys": KeyDevice(ALICE, "D2").keys()}
        self.assert_refused(self.post(second, "/keys/upload", keys), 413, "M_TOO_LARGE")
        # The keys of the device that has some may change, and when it is gone there is room.
        self.ok(token, "/keys/upload", {"device_keys": KeyDevice(ALICE, "D1", "other").keys()})
        self.ok(token, "/logout")
        self.ok(second, "/keys/upload", keys)
        self.assertEqual(["D2"], list(self.query(self.bob, ALICE)["device_keys"][ALICE]))

    def test_bad_questions(self) -> None:
        body: Any
        for body in ({}, {"device_keys": []}, {"device_keys": {ALICE: "x"}}, {"device_keys": {ALICE: [1]}}):
            self.assert_refused(self.post(self.bob, "/keys/query", body), 400, "M_BAD_JSON")
        answer = self.post(self.bob, "/keys/query", {"device_keys": {ALICE: []}, "timeout": -1})
        self.assert_refused(answer, 400, "M_INVALID_PARAM")
        for body in ({}, {"one_time_keys": []}, {"one_time_keys": {ALICE: {"PHONE": 1}}}):
            self.assert_refused(self.post(self.bob, "/keys/claim", body), 400, "M_BAD_JSON")


def _bare(keys: Any) -> Any:
    return {name: value for name, value in keys.items() if name != "unsigned"}


@on_each_database
class OneTimeKeys(KeysCase):
    def setUp(self) -> None:
        super().setUp()
        self.token, self.phone = self.device("alice", "PHONE")

    def upload(self, **body: Any) -> Any:
        return self.ok(self.token, "/keys/upload", body)["one_time_key_counts"]

    def left(self) -> tuple[Any, Any]:
        answer = self.sync(self.token)
        return answer["device_one_time_keys_count"], answer["device_unused_fallback_key_types"]

    def test_each_is_given_out_once_the_oldest_first(self) -> None:
        first, second = self.phone.one_time_keys("z1", "z2"), self.phone.one_time_keys("a1")
        self.assertEqual({SIGNED: 2}, self.upload(one_time_keys=first))
        self.assertEqual({SIGNED: 3}, self.upload(one_time_keys=second))
        self.assertEqual({SIGNED: 3}, self.upload())
        found: dict[str, Any] = {}
        for number in range(3):
            claimed = self.claim(self.bob, ALICE, "PHONE")
            self.assertEqual(1, len(claimed))
            self.assertEqual(number < 2, next(iter(claimed)) in first)
            found.update(claimed)
        self.assertEqual({**first, **second}, found)
        self.assertEqual({}, self.claim(self.bob, ALICE, "PHONE"))
        self.assertEqual(({SIGNED: 0}, []), self.left())

    def test_the_count_of_none_is_told(self) -> None:
        """Whoever is not told keeps the last count that they were told, and uploads no more keys."""
        self.assertEqual({SIGNED: 0}, self.upload())
        self.upload(one_time_keys={**self.phone.one_time_keys("a"), "curve25519:x": "x"})
        since = self.sync(self.token)["next_batch"]
        self.claim(self.bob, ALICE, "PHONE")
        self.claim(self.bob, ALICE, "PHONE", "curve25519")
        self.assertEqual({SIGNED: 0}, self.sync(self.token, since)["device_one_time_keys_count"])
        self.app.restart()
        self.assertEqual({SIGNED: 0}, self.sync(self.token, since)["device_one_time_keys_count"])
        self.assertEqual({SIGNED: 0}, self.upload())

    def test_once_across_restarts(self) -> None:
        self.upload(one_time_keys=self.phone.one_time_keys("a", "b"))
        first = self.claim(self.bob, ALICE, "PHONE")
        self.app.restart()
        second = self.claim(self.bob, ALICE, "PHONE")
        self.assertEqual(2, len({*first, *second}))
        self.app.restart()
        self.assertEqual({}, self.claim(self.bob, ALICE, "PHONE"))

    def test_once_under_load(self) -> None:
        names = [f"k{number}" for number in range(30)]
        self.upload(one_time_keys=self.phone.one_time_keys(*names))
        body = {"one_time_keys": {ALICE: {"PHONE": SIGNED}}}
        asked = [self.app.start("POST", f"{V3}/keys/claim", body, self.bob) for _ in range(40)]
        found: list[str] = []
        for one in asked:
            found += self.app.wait(one).json["one_time_keys"].get(ALICE, {}).get("PHONE", {})
        self.assertEqual(sorted(f"{SIGNED}:{name}" for name in names), sorted(found))

    def test_several_devices_in_one_request(self) -> None:
        self.upload(one_time_keys=self.phone.one_time_keys("a"))
        token, desk = self.device("alice", "DESK")
        self.ok(token, "/keys/upload", {"one_time_keys": desk.one_time_keys("d")})
        wanted = {ALICE: {"PHONE": SIGNED, "DESK": SIGNED, "NONE": SIGNED, "x\0": SIGNED}, BOB: {"x": "y\0"}}
        found = self.ok(self.bob, "/keys/claim", {"one_time_keys": wanted})
        expected = {ALICE: {"PHONE": self.phone.one_time_keys("a"), "DESK": desk.one_time_keys("d")}}
        self.assertEqual({"one_time_keys": expected, "failures": {}}, found)

    def test_many_in_one_request(self) -> None:
        """More than are taken, or read, at a time; and more than may be."""
        names = [f"k{number}" for number in range(7)]
        self.upload(one_time_keys=self.phone.one_time_keys(*names))
        more = [self.device("alice", f"D{number}") for number in range(5)]
        for token, device in more:
            self.ok(token, "/keys/upload", {"one_time_keys": device.one_time_keys("a")})
        self.patch(claims, "AT_ONCE", 2)
        self.patch(assembly, "USERS_AT_ONCE", 1)
        wanted = {device.device_id: SIGNED for _, device in more} | {"PHONE": SIGNED}
        found = self.ok(self.bob, "/keys/claim", {"one_time_keys": {ALICE: wanted}})["one_time_keys"][ALICE]
        self.assertEqual(set(wanted), set(found))
        self.assertEqual({ALICE, BOB}, set(self.query(self.bob, ALICE, BOB)["device_keys"]))
        self.patch(queries, "MAX_CLAIMS", 5)
        self.patch(queries, "MAX_USERS", 1)
        answer = self.post(self.bob, "/keys/claim", {"one_time_keys": {ALICE: wanted}})
        self.assert_refused(answer, 413, "M_TOO_LARGE")
        self.assertEqual(({SIGNED: 6}, []), self.left())
        answer = self.post(self.bob, "/keys/query", {"device_keys": {ALICE: [], BOB: []}})
        self.assert_refused(answer, 413, "M_TOO_LARGE")

    def test_everybody_in_a_large_room(self) -> None:
        """Some clients ask for all devices and users in one request, and for the same once more if that is refused."""
        self.upload(one_time_keys=self.phone.one_time_keys("a"))
        names = [f"@somebody.with.a.name{number}:test.example" for number in range(9_999)]
        wanted = {name: {"DEVICEAAAA": SIGNED, "DEVICEBBBB": SIGNED} for name in names} | {
            ALICE: {"PHONE": SIGNED}
        }
        found = self.ok(self.bob, "/keys/claim", {"one_time_keys": wanted})
        self.assertEqual({ALICE: {"PHONE": self.phone.one_time_keys("a")}}, found["one_time_keys"])
        users: dict[str, list[str]] = {name: [] for name in (*names, ALICE)}
        answer = self.ok(self.bob, "/keys/query", {"device_keys": users})
        self.assertEqual([ALICE], [name for name, devices in answer["device_keys"].items() if devices])

    def test_algorithms_are_apart(self) -> None:
        self.upload(one_time_keys={"curve25519:AAAA": "plain+key", **self.phone.one_time_keys("a")})
        self.assertEqual(({"curve25519": 1, SIGNED: 1}, []), self.left())
        self.assertEqual({"curve25519:AAAA": "plain+key"}, self.claim(self.bob, ALICE, "PHONE", "curve25519"))
        self.assertEqual({}, self.claim(self.bob, ALICE, "PHONE", "curve25519"))
        self.assertEqual(({SIGNED: 1}, []), self.left())

    def test_the_same_key_again_is_one_and_another_of_its_name_is_refused(self) -> None:
        keys = self.phone.one_time_keys("a")
        self.upload(one_time_keys=keys)
        self.assertEqual({SIGNED: 1}, self.upload(one_time_keys=keys))
        other = KeyDevice(ALICE, "PHONE", "other").one_time_keys("a")
        answer = self.post(self.token, "/keys/upload", {"one_time_keys": {**other, "curve25519:x": "x"}})
        self.assert_refused(answer, 400, "M_INVALID_PARAM")
        self.assertTrue(answer[1]["error"].startswith(f"One time key {SIGNED}:a already exists"))
        # All of it or nothing.
        self.assertEqual({SIGNED: 1}, self.upload())

    def test_an_upload_that_comes_again_gives_no_key_out_twice(self) -> None:
        """Its answer was lost, and a key of it was claimed meanwhile."""
        keys = self.phone.one_time_keys("a", "b")
        self.upload(one_time_keys=keys)
        first = self.claim(self.bob, ALICE, "PHONE")
        for _ in range(2):
            self.assertEqual({SIGNED: 1}, self.upload(one_time_keys=keys))
        self.assertEqual(({SIGNED: 1}, []), self.left())
        self.assertEqual(keys, {**first, **self.claim(self.bob, ALICE, "PHONE")})
        self.assertEqual({}, self.claim(self.bob, ALICE, "PHONE"))
        self.assertEqual({SIGNED: 0}, self.upload(one_time_keys=keys))
        # The name of a key that was given out is free for another one.
        other = KeyDevice(ALICE, "PHONE", "other").one_time_keys("a")
        self.assertEqual({SIGNED: 1}, self.upload(one_time_keys=other))
        self.assertEqual(other, self.claim(self.bob, ALICE, "PHONE"))

    def test_fallback_keys(self) -> None:
        self.upload(one_time_keys=self.phone.one_time_keys("a"), fallback_keys=self.phone.fallback_key("f1"))
        self.assertEqual(({SIGNED: 1}, [SIGNED]), self.left())
        self.assertEqual(self.phone.one_time_keys("a"), self.claim(self.bob, ALICE, "PHONE"))
        self.assertEqual(({SIGNED: 0}, [SIGNED]), self.left())
        for _ in range(2):
            self.assertEqual(self.phone.fallback_key("f1"), self.claim(self.bob, ALICE, "PHONE"))
            self.assertEqual(({SIGNED: 0}, []), self.left())
        # A retry of the upload does not make it unused; another key does.
        self.upload(fallback_keys=self.phone.fallback_key("f1"))
        self.assertEqual(({SIGNED: 0}, []), self.left())
        self.upload(fallback_keys=self.phone.fallback_key("f2"))
        self.assertEqual(({SIGNED: 0}, [SIGNED]), self.left())
        self.app.restart()
        self.assertEqual(({SIGNED: 0}, [SIGNED]), self.left())
        self.assertEqual(self.phone.fallback_key("f2"), self.claim(self.bob, ALICE, "PHONE"))

    def test_what_is_left_is_the_same_after_a_restart(self) -> None:
        self.upload(
            one_time_keys={**self.phone.one_time_keys("a", "b"), "curve25519:x": "x", "curve25519:y": "y"},
            fallback_keys=self.phone.fallback_key("f"),
        )
        for algorithm in ("curve25519", SIGNED, SIGNED, "curve25519", SIGNED, "curve25519", SIGNED):
            self.left()  # it is in memory now
            self.claim(self.bob, ALICE, "PHONE", algorithm)
            left = self.left()
            self.app.restart()
            self.assertEqual(left, self.left())
        self.assertEqual(({SIGNED: 0}, []), self.left())

    def test_claims_that_come_together(self) -> None:
        """Of one device and of several, of both kinds of keys, some of them for nothing."""
        token, desk = self.device("alice", "DESK")
        self.ok(token, "/keys/upload", {"one_time_keys": desk.one_time_keys("d")})
        self.upload(
            one_time_keys=self.phone.one_time_keys("a", "b", "c"), fallback_keys=self.phone.fallback_key("f")
        )
        wanted = {"one_time_keys": {ALICE: {"PHONE": SIGNED, "DESK": SIGNED, "NOWHERE": SIGNED}}}
        asked = [self.app.start("POST", f"{V3}/keys/claim", wanted, self.bob) for _ in range(5)]
        found = [self.app.wait(one).json["one_time_keys"][ALICE] for one in asked]
        given = [name for one in found for name in one["PHONE"]]
        expected = [f"{SIGNED}:{key_id}" for key_id in ("a", "b", "c", "f", "f")]
        self.assertEqual(expected, sorted(given))
        self.assertEqual(1, sum("DESK" in one for one in found))
        self.assertFalse(any("NOWHERE" in one for one in found))
        self.assertEqual(({SIGNED: 0}, []), self.left())

    def test_a_sync_that_waits_hears_of_a_claim(self) -> None:
        self.upload(one_time_keys=self.phone.one_time_keys("a", "b"))
        since = self.sync(self.token)["next_batch"]
        waiting = self.app.start("GET", f"{V3}/sync", None, self.token, {"since": since, "timeout": 30_000})
        self.assertFalse(waiting.called)
        self.claim(self.bob, ALICE, "PHONE")
        self.assertEqual({SIGNED: 1}, self.app.wait(waiting).json["device_one_time_keys_count"])

    def test_refused(self) -> None:
        good = self.phone.one_time_keys("a")[f"{SIGNED}:a"]
        for name, key in (
            ("nocolon", good),
            (":a", good),
            (f"{SIGNED}:", good),
            (f"{SIGNED}:a\0", good),
            (f"{SIGNED}:{'a' * 256}", good),
            (f"{'a' * 256}:a", good),
            (f"{SIGNED}:b", 1),
            (f"{SIGNED}:b", None),
            (f"{SIGNED}:b", {"key": 1, "signatures": {}}),
            (f"{SIGNED}:b", {"key": "x"}),
            (f"{SIGNED}:b", {"key": "x", "signatures": {ALICE: []}}),
        ):
            for where in ("one_time_keys", "fallback_keys"):
                answer = self.post(self.token, "/keys/upload", {where: {name: key}})
                self.assert_refused(answer, 400, "M_INVALID_PARAM")
        value: Any
        for value in ([], "x"):
            self.assert_refused(
                self.post(self.token, "/keys/upload", {"one_time_keys": value}), 400, "M_BAD_JSON"
            )
        large = {**good, "x": "x" * MAX_ONE_TIME_KEY_BYTES}
        answer = self.post(self.token, "/keys/upload", {"one_time_keys": {f"{SIGNED}:b": large}})
        self.assert_refused(answer, 413, "M_TOO_LARGE")
        two = {**self.phone.fallback_key("f"), **self.phone.fallback_key("g")}
        answer = self.post(self.token, "/keys/upload", {"fallback_keys": two})
        self.assert_refused(answer, 400, "M_INVALID_PARAM")
        self.assertEqual(({SIGNED: 0}, []), self.left())

    def test_newer_keys_take_the_place_of_the_oldest(self) -> None:
        """matrix-js-sdk 41 uploads fifty keys after each message from device to device, however many there are. A
        device that is refused tries again with every sync, and its new fallback key waits in the same request."""
        self.patch(one_time_keys, "MAX_ONE_TIME_KEYS", 3)
        self.upload(one_time_keys=self.phone.one_time_keys("a"))
        self.upload(one_time_keys=self.phone.one_time_keys("b", "c"))
        newest = self.phone.one_time_keys("d", "e")
        counts = self.upload(one_time_keys=newest, fallback_keys=self.phone.fallback_key("f"))
        self.assertEqual({SIGNED: 3}, counts)
        self.assertEqual(({SIGNED: 3}, [SIGNED]), self.left())
        # The same again, as after an answer that was lost.
        self.assertEqual({SIGNED: 3}, self.upload(one_time_keys=newest))
        claimed = [name for _ in range(3) for name in self.claim(self.bob, ALICE, "PHONE")]
        self.assertEqual([f"{SIGNED}:{name}" for name in "cde"], claimed)

    def test_a_key_that_was_given_out_makes_no_room(self) -> None:
        self.patch(one_time_keys, "MAX_ONE_TIME_KEYS", 3)
        given = self.phone.one_time_keys("a")
        self.upload(one_time_keys=given)
        self.claim(self.bob, ALICE, "PHONE")
        for names, count in (("xy", 2), ("zw", 3)):
            more = {f"curve25519:{name}": name for name in names}
            self.assertEqual({"curve25519": count, SIGNED: 0}, self.upload(one_time_keys={**given, **more}))
        claimed = [name for _ in range(4) for name in self.claim(self.bob, ALICE, "PHONE", "curve25519")]
        self.assertEqual(["curve25519:y", "curve25519:w", "curve25519:z"], claimed)

    def test_so_many_and_no_more(self) -> None:
        keys = {f"curve25519:{number}": "x" for number in range(MAX_ONE_TIME_KEYS)}
        answer = self.post(self.token, "/keys/upload", {"one_time_keys": {**keys, "curve25519:more": "x"}})
        self.assert_refused(answer, 413, "M_TOO_LARGE")
        self.assertEqual({"curve25519": MAX_ONE_TIME_KEYS, SIGNED: 0}, self.upload(one_time_keys=keys))
        for number in range(10):
            self.upload(fallback_keys={f"a{number}:x": "x"})
        answer = self.post(self.token, "/keys/upload", {"fallback_keys": {"b:x": "x"}})
        self.assert_refused(answer, 413, "M_TOO_LARGE")
