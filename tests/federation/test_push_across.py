"""Notifications of what comes from other servers. spec: push-gateway-api#homeserver-behaviour"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from tests.federation.people import A, B, NetCase
from tests.support.databases import on_each_database
from tests.support.gateways import URL, FakeGateways

BOB = f"@bob:{B}"


@on_each_database
class FromElsewhere(NetCase):
    """bob has a telephone; alice and her rooms are on another server."""

    def setUp(self) -> None:
        super().setUp()
        self.gateways = FakeGateways()
        self.c = self.net.server("c.example", http=self.gateways)
        self.bob = self.c.register("bob")
        self.user_id = "@bob:c.example"
        body = {
            "app_id": "org.example",
            "pushkey": "key",
            "kind": "http",
            "app_display_name": "App",
            "device_display_name": "Telephone",
            "lang": "en",
            "data": {"url": URL},
        }
        self.ok(self.c, self.bob, "POST", "/pushers/set", body)
        self.net.settle()

    def invite(self, room_id: str) -> None:
        path = f"/rooms/{quote(room_id)}/invite"
        self.ok(self.a, self.alice, "POST", path, {"user_id": self.user_id})
        self.net.settle()

    def told(self) -> list[dict[str, Any]]:
        return self.gateways.take()

    def test_an_invite(self) -> None:
        room_id = self.create(self.a, self.alice, name="Far Away", preset="private_chat")
        self.invite(room_id)
        (told,) = self.told()
        self.assertEqual(
            (room_id, "Far Away", "invite", True, f"@alice:{A}"),
            tuple(told[key] for key in ("room_id", "room_name", "membership", "user_is_target", "sender")),
        )
        self.assertEqual({"sound": "default"}, told["devices"][0]["tweaks"])

    def test_an_invite_that_waits_outlasts_a_restart(self) -> None:
        self.gateways.say = lambda url, notification: (500, b"")
        room_id = self.create(self.a, self.alice, preset="private_chat")
        self.invite(room_id)
        self.assertEqual(1, len(self.told()))
        self.c.restart()
        self.gateways.say = lambda url, notification: (200, b"{}")
        self.net.advance(60)
        self.assertEqual([room_id], [one["room_id"] for one in self.told()])

    def test_an_invite_that_was_taken_back(self) -> None:
        self.gateways.say = lambda url, notification: (500, b"")
        room_id = self.create(self.a, self.alice, preset="private_chat")
        self.invite(room_id)
        self.told()
        path = f"/rooms/{quote(room_id)}/kick"
        self.ok(self.a, self.alice, "POST", path, {"user_id": self.user_id})
        self.gateways.say = lambda url, notification: (200, b"{}")
        self.net.advance(60)
        self.assertEqual([], [one for one in self.told() if "event_id" in one])

    def test_whom_one_ignores(self) -> None:
        ignored: dict[str, Any] = {"ignored_users": {f"@alice:{A}": {}}}
        path = f"/user/{self.user_id}/account_data/m.ignored_user_list"
        self.ok(self.c, self.bob, "PUT", path, ignored)
        self.invite(self.create(self.a, self.alice, preset="private_chat"))
        self.assertEqual([], self.told())

    def test_messages(self) -> None:
        room_id = self.create(self.a, self.alice, preset="public_chat")
        self.assertEqual(200, self.join(self.c, self.bob, room_id, A).status)
        self.net.settle()
        # Neither one's own join, nor what was said before it.
        self.assertEqual([], [one for one in self.told() if "event_id" in one])
        event_id = self.say(self.a, self.alice, room_id, "hello over there")
        self.net.settle()
        self.assertEqual([event_id], [one["event_id"] for one in self.told()])
