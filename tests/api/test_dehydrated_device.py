"""Dehydrated devices (MSC3814)."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch
from urllib.parse import quote

from homeserver.e2ee import dehydration
from homeserver.store import devices as device_store
from homeserver.store import to_device
from tests.api.keys import KeysCase
from tests.api.rooms import ALICE, BOB, V3
from tests.support.databases import on_each_database
from tests.support.keys import CrossKeys, KeyDevice

ROOT = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"
DATA = {"algorithm": "org.matrix.msc3814.v2", "device_pickle": "pickle\0", "nonce": "n"}


class DehydratedCase(KeysCase):
    def setUp(self) -> None:
        super().setUp()
        self.token, self.phone = self.device("alice", "PHONE")
        self.dry = KeyDevice(ALICE, "dry/+device")

    def body(self, device: KeyDevice | None = None, **change: Any) -> dict[str, Any]:
        device = device or self.dry
        return {
            "device_id": device.device_id,
            "device_data": DATA,
            "initial_device_display_name": "Dehydrated device",
            "device_keys": device.key.sign({**device.keys(), "dehydrated": True}),
            "one_time_keys": device.one_time_keys("a", "b"),
            "fallback_keys": device.fallback_key("f"),
            **change,
        }

    def put(self, device: KeyDevice | None = None, **change: Any) -> Any:
        return self.app.ok("PUT", ROOT, self.body(device, **change), self.token)

    def refused(self, status: int, errcode: str, **change: Any) -> None:
        answer = self.app.call("PUT", ROOT, self.body(**change), self.token)
        self.assert_refused(answer, status, errcode)

    def events_path(self, device_id: str = "") -> str:
        return f"{ROOT}/{quote(device_id or self.dry.device_id, safe='')}/events"

    def get_events(self, **query: Any) -> Any:
        found = self.app.ok("GET", self.events_path(), None, self.token, query)
        self.assertLessEqual(set(found), {"events", "next_batch"})
        return [one["content"]["n"] for one in found["events"]], found.get("next_batch")

    def post_events(self, body: Any = None) -> Any:
        found = self.app.ok("POST", self.events_path(), body, self.token)
        return [one["content"]["n"] for one in found["events"]], found["next_batch"]

    def tell(self, *numbers: int) -> None:
        for n in numbers:
            messages = {ALICE: {self.dry.device_id: {"n": n}}}
            self.assertEqual(200, self.send_to(self.bob, messages, f"t{n}")[0])


@on_each_database
class DehydratedDevices(DehydratedCase):
    def test_none(self) -> None:
        for method in ("GET", "DELETE"):
            self.assert_refused(self.app.call(method, ROOT, None, self.token), 404, "M_NOT_FOUND")
        for method in ("GET", "POST"):
            answer = self.app.call(method, self.events_path(), None, self.token)
            self.assert_refused(answer, 403, "M_FORBIDDEN")
        self.assertEqual(401, self.app.call("GET", ROOT)[0])

    def test_kept_and_told(self) -> None:
        since = self.sync(self.bob)["next_batch"]
        room_id = self.create(preset="public_chat")
        self.ok(self.bob, f"/join/{room_id}")
        since = self.sync(self.bob, since)["next_batch"]
        self.assertEqual({"device_id": self.dry.device_id}, self.put())
        self.assertEqual(
            {"device_id": self.dry.device_id, "device_data": DATA}, self.app.ok("GET", ROOT, None, self.token)
        )
        # Others hear of it as of any device, and see what it is by its keys.
        self.assertEqual(([ALICE], []), self.lists(self.sync(self.bob, since)))
        keys = self.query(self.bob, ALICE)["device_keys"][ALICE]
        told = keys[self.dry.device_id]
        self.assertEqual(
            (True, "Dehydrated device"), (told["dehydrated"], told["unsigned"]["device_display_name"])
        )
        self.assertNotIn("dehydrated", keys["PHONE"])
        for _ in range(2):
            self.assertTrue(self.claim(self.bob, ALICE, self.dry.device_id))
        self.assertEqual(self.dry.fallback_key("f"), self.claim(self.bob, ALICE, self.dry.device_id))
        listed = self.app.ok("GET", f"{V3}/devices", None, self.token)["devices"]
        self.assertIn(self.dry.device_id, [one["device_id"] for one in listed])

    def test_a_new_one_takes_its_place(self) -> None:
        self.put()
        self.tell(1)
        other = KeyDevice(ALICE, "other")
        self.put(other)
        self.assertEqual("other", self.app.ok("GET", ROOT, None, self.token)["device_id"])
        self.assertEqual({"PHONE", "other"}, set(self.query(self.bob, ALICE)["device_keys"][ALICE]))
        self.assert_refused(self.app.call("GET", self.events_path(), None, self.token), 403, "M_FORBIDDEN")
        # The same again is a new one as well.
        self.put()
        self.assertEqual(([], None), self.get_events())
        self.tell(2)
        self.put()
        self.assertEqual(([], None), self.get_events())

    def test_deleted(self) -> None:
        self.put()
        self.assertEqual({"device_id": self.dry.device_id}, self.app.ok("DELETE", ROOT, None, self.token))
        self.assert_refused(self.app.call("GET", ROOT, None, self.token), 404, "M_NOT_FOUND")
        self.assertEqual({"PHONE"}, set(self.query(self.bob, ALICE)["device_keys"][ALICE]))
        # As one of all devices.
        self.put()
        self.ok(self.token, "/logout/all")
        self.assertEqual({}, self.query(self.bob, ALICE)["device_keys"][ALICE])
        token = self.device("alice", "PHONE")[0]
        self.assert_refused(self.app.call("GET", ROOT, None, token), 404, "M_NOT_FOUND")

    def test_one_who_logs_in_as_it_has_a_device_like_any_other(self) -> None:
        self.put()
        identifier = {"type": "m.id.user", "user": "alice"}
        body = {"type": "m.login.password", "identifier": identifier, "password": "correct horse"}
        token = self.app.ok("POST", f"{V3}/login", {**body, "device_id": self.dry.device_id})["access_token"]
        self.assert_refused(self.app.call("GET", ROOT, None, token), 404, "M_NOT_FOUND")
        self.assert_refused(self.app.call("DELETE", ROOT, None, self.token), 404, "M_NOT_FOUND")
        self.refused(400, "M_INVALID_PARAM")
        self.assertEqual(200, self.app.call("GET", f"{V3}/account/whoami", None, token)[0])

    def test_refused(self) -> None:
        change: Any
        for name in ("device_id", "device_data"):
            body = {key: value for key, value in self.body().items() if key != name}
            self.assert_refused(self.app.call("PUT", ROOT, body, self.token), 400, "M_BAD_JSON")
        for change in (
            {"device_id": 1},
            {"device_data": []},
            {"device_data": {}},
            {"device_data": {"algorithm": 1}},
            {"initial_device_display_name": 1},
            {"one_time_keys": []},
            {"device_keys": None},
        ):
            self.refused(400, "M_BAD_JSON", **change)
        for change in (
            {"device_id": ""},
            {"device_id": "x" * 256},
            {"device_id": "PHONE"},
            {"device_id": "x\0y"},
            {"initial_device_display_name": "x" * 256},
            {"initial_device_display_name": "x\0"},
            {"device_keys": self.phone.keys()},
            {"device_keys": KeyDevice(BOB, self.dry.device_id).keys()},
            {"fallback_keys": {**self.dry.fallback_key("f"), **self.dry.fallback_key("g")}},
            {"one_time_keys": {"x": "y"}},
        ):
            self.refused(400, "M_INVALID_PARAM", **change)
        # The name of a device that is logged in, with keys to fit.
        phone = KeyDevice(ALICE, "PHONE")
        self.refused(400, "M_INVALID_PARAM", device_id="PHONE", device_keys=phone.keys())
        # The name of a cross-signing key.
        cross = CrossKeys(ALICE)
        self.ok(self.token, "/keys/device_signing/upload", cross.body())
        taken = KeyDevice(ALICE, cross.master.public_key)
        self.refused(400, "M_INVALID_PARAM", device_id=taken.device_id, device_keys=taken.keys())
        large = {**DATA, "x": "x" * dehydration.MAX_DATA_BYTES}
        self.refused(413, "M_TOO_LARGE", device_data=large)
        with patch.object(device_store, "MAX_DEVICES_PER_USER", 2):
            self.refused(403, "M_USER_LIMIT_EXCEEDED")
        # And nothing of it stayed.
        self.assert_refused(self.app.call("GET", ROOT, None, self.token), 404, "M_NOT_FOUND")

    def test_a_failure_keeps_the_old_one(self) -> None:
        self.put()
        with patch("homeserver.store.one_time_keys.MAX_ONE_TIME_KEYS", 1):
            self.refused(413, "M_TOO_LARGE")
        self.assertEqual(self.dry.device_id, self.app.ok("GET", ROOT, None, self.token)["device_id"])


@on_each_database
class Messages(DehydratedCase):
    def setUp(self) -> None:
        super().setUp()
        self.put()

    def test_pages_that_may_be_read_again(self) -> None:
        self.assertEqual(([], None), self.get_events())
        self.tell(1, 2, 3)
        for _ in range(2):
            self.assertEqual(([1, 2, 3], None), self.get_events())
            first, token = self.get_events(limit=2)
            self.assertEqual([1, 2], first)
            self.assertEqual(([3], None), self.get_events(**{"from": token}))
            # A page that ends with the last message is the last one.
            self.assertEqual(([1, 2, 3], None), self.get_events(limit=3))
        self.app.restart()
        self.assertEqual(([1, 2, 3], None), self.get_events())

    def test_by_post_until_there_is_nothing(self) -> None:
        self.tell(1, 2, 3)
        token = ""
        with patch.object(dehydration, "MESSAGES_MOST", 2):
            for _ in range(2):
                first, token = self.post_events()
                second, token = self.post_events({"next_batch": token})
                third, again = self.post_events({"next_batch": token})
                self.assertEqual(([1, 2], [3], []), (first, second, third))
                self.assertEqual(token, again)
        # What comes after that is on the next page.
        self.tell(4)
        self.assertEqual([4], self.post_events({"next_batch": token})[0])

    def test_pages_are_bounded_by_bytes_too(self) -> None:
        self.tell(1, 2, 3)
        with patch.object(to_device, "PAGE_BYTES", 100):
            first, token = self.get_events()
            self.assertEqual([1], first)
            self.assertEqual([2], self.get_events(**{"from": token})[0])

    def test_refused(self) -> None:
        for token in ("x", "-1", "1" * 30, "", "१"):
            answer = self.app.call("GET", self.events_path(), None, self.token, {"from": token})
            self.assert_refused(answer, 400, "M_INVALID_PARAM")
            answer = self.app.call("POST", self.events_path(), {"next_batch": token}, self.token)
            self.assert_refused(answer, 400, "M_INVALID_PARAM")
        for limit in ("0", "x", "-1"):
            answer = self.app.call("GET", self.events_path(), None, self.token, {"limit": limit})
            self.assert_refused(answer, 400, "M_INVALID_PARAM")
        answer = self.app.call("POST", self.events_path(), {"next_batch": 1}, self.token)
        self.assert_refused(answer, 400, "M_BAD_JSON")
        # Nobody reads what another device waits for, and nobody that of another user.
        for token, device_id in ((self.token, "PHONE"), (self.bob, self.dry.device_id)):
            answer = self.app.call("GET", self.events_path(device_id), None, token)
            self.assert_refused(answer, 403, "M_FORBIDDEN")
