"""Messages to devices of users that several are told of: who is told, and for whom they are kept."""

from __future__ import annotations

from typing import Any

from homeserver.appservices import bundles
from homeserver.config.registrations import AppserviceRegistration, Namespace, Pattern
from tests.api.test_appservice_ephemeral import ALICE, TO_DEVICE, EphemeralCase
from tests.api.test_appservice_transactions import V3
from tests.support.app import SERVER_NAME
from tests.support.appservices import registration
from tests.support.databases import on_each_database
from tests.support.keys import KeyDevice


@on_each_database
class Watched(EphemeralCase):
    """A bridge, and a watcher that is told what concerns anybody, and whose users are not its own."""

    def registrations(self) -> list[AppserviceRegistration]:
        everybody = (Namespace(Pattern(f"@.*:{SERVER_NAME}"), False),)
        loose = (Namespace(Pattern(f"@_loose_.*:{SERVER_NAME}"), False),)
        wants: dict[str, Any] = {"receive_ephemeral": True, "encryption": True}
        return [
            registration(**wants),
            registration("watcher", users=everybody, **wants),
            registration("loose", users=loose, **wants),
        ]

    def told_to(self, name: str) -> list[int]:
        """What the messages were that an application service was told of."""
        return [
            message["content"]["number"]
            for one in self.http.asked
            if one.headers["Authorization"].endswith(name) and "/transactions/" in one.path
            for message in one.body.get(TO_DEVICE, ())
        ]

    def test_people(self) -> None:
        """Neither a device without a token, as dehydrated ones are, nor one that has many."""
        device_id = self.app.ok("GET", f"{V3}/account/whoami", None, self.alice)["device_id"]
        self.patch(bundles, "KEPT_FOR_SYNC", 2)
        dehydrated = KeyDevice(ALICE, "DRY")
        keys = dehydrated.key.sign({**dehydrated.keys(), "dehydrated": True})
        body = {"device_id": "DRY", "device_data": {"algorithm": "m.test"}, "device_keys": keys}
        root = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"
        self.app.ok("PUT", root, body, self.alice)
        self.settle(1)
        for number in range(4):
            self.send_message(number, "DRY", ALICE)
        for number in range(4, 8):
            self.send_message(number, device_id, ALICE)
        self.settle(1)
        self.assertEqual(list(range(8)), self.told_to("watcher"))
        events = self.app.ok("GET", f"{root}/DRY/events", None, self.alice)["events"]
        self.assertEqual([0, 1, 2, 3], [one["content"]["number"] for one in events])
        events = self.app.ok("GET", f"{V3}/sync", None, self.alice)["to_device"]["events"]
        self.assertEqual([4, 5, 6, 7], [one["content"]["number"] for one in events])

    def test_ghosts_of_another(self) -> None:
        """They wait for their bridge, which is away; with it they are gone."""
        self.make_device()
        self.settle(1)
        self.http.answer = lambda one: (200, {}) if "watcher" in one.headers["Authorization"] else None
        for number in range(3):
            self.send_message(number)
        self.settle(1)
        self.assertEqual(([0, 1, 2], 3), (self.told_to("watcher"), self.inbox()))
        self.http.answer = lambda _: (200, {})
        for _ in range(3):
            self.settle(400)
        self.assertEqual([0, 1, 2], list(dict.fromkeys(self.told_to("bridge"))))
        self.assertEqual(0, self.inbox())

    def test_ghosts_that_a_bridge_made_in_a_namespace_of_all(self) -> None:
        user_id = f"@_loose_bob:{SERVER_NAME}"
        token = "as-token-of-loose"
        body = {"type": "m.login.application_service", "username": "_loose_bob", "inhibit_login": True}
        self.app.ok("POST", f"{V3}/register", body, token)
        self.app.call("PUT", f"{V3}/devices/PHONE", {}, token, {"user_id": user_id})
        self.send_message(1, "PHONE", user_id)
        self.settle(1)
        self.assertEqual(([1], 0), (self.told_to("loose"), self.inbox()))
