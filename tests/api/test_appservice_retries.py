"""What application services are told where the follower that tells them fails in the midst of it."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from homeserver.config.registrations import AppserviceRegistration
from homeserver.store.aliases import load_room_aliases
from homeserver.store.device_lists import load_joined
from tests.api.test_appservice_transactions import GHOST, V3, BridgeCase, Failing
from tests.support.app import SERVER_NAME
from tests.support.appservices import AS_TOKEN, registration
from tests.support.databases import on_each_database

ALICE = f"@alice:{SERVER_NAME}"


@on_each_database
class Retries(BridgeCase):
    def registrations(self) -> list[AppserviceRegistration]:
        return [registration(encryption=True)]

    def break_off(self, unit: Any) -> None:
        """The follower cannot read this, until ``go_on``."""
        telling = self.app.app.outgoing.telling
        assert telling is not None
        self.following, self.real = telling.following, telling.following._database
        self.following._database = Failing(self.real, unit)  # type: ignore[assignment]  # what it reads with

    def go_on(self) -> None:
        self.following._database = self.real
        self.settle(10)
        errors = [one[1] for one in self.app.log.entries if one[0] == "error"]
        self.assertEqual({"follower failed, will go on"}, set(errors))
        self.app.log.entries.clear()

    def test_each_event_once(self) -> None:
        room_id = self.portal()
        self.forget()
        self.break_off(load_room_aliases)
        # Both before the follower goes on: a message, and an alias that it must read.
        path = f"{V3}/rooms/{room_id}/send/m.room.message/one"
        said = self.app.start("PUT", path, {"msgtype": "m.text", "body": "one"}, self.alice)
        alias = quote(f"#some:{SERVER_NAME}")
        named = self.app.start("PUT", f"{V3}/directory/room/{alias}", {"room_id": room_id}, self.alice)
        self.assertEqual([200, 200], [self.app.wait(one).status for one in (said, named)])
        for _ in range(10):
            self.settle(1)
        self.go_on()
        self.assertEqual(["one"], self.told())

    def test_each_membership_once(self) -> None:
        """It is owed before the follower fails with the keys of who is there."""
        room_id = self.app.ok("POST", f"{V3}/createRoom", {"preset": "public_chat"}, self.alice)["room_id"]
        self.forget()
        self.http.answer = self.http.silence
        self.break_off(load_joined)
        self.as_ghost("POST", f"{V3}/join/{room_id}", {})
        for _ in range(10):
            self.settle(1)
        self.http.answer = lambda _: (200, {})
        self.go_on()
        self.settle(60)
        self.assertEqual(["join"], [event["content"]["membership"] for event in self.http.events()])

    def test_who_is_there_when_the_first_ghost_comes(self) -> None:
        room_id = self.app.ok("POST", f"{V3}/createRoom", {"preset": "public_chat"}, self.alice)["room_id"]
        self.settle(1)
        for path, told in (("join", ([ALICE], [])), ("leave", ([], [ALICE]))):
            self.forget()
            self.break_off(load_joined)
            self.app.ok("POST", f"{V3}/rooms/{room_id}/{path}", {}, AS_TOKEN, {"user_id": GHOST})
            self.settle(3)
            self.go_on()
            lists = [body["device_lists"] for body in self.http.transactions() if "device_lists" in body]
            self.assertEqual([told], [(one["changed"], one["left"]) for one in lists])
            self.assertEqual([path], [event["content"]["membership"] for event in self.http.events()])
