"""PushCase: two people and a room, and push gateways that say what a test wants."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from tests.support.app import TestApp
from tests.support.databases import DatabaseCase
from tests.support.gateways import URL, FakeGateways
from tests.support.mail import FakeMailer

V3 = "/_matrix/client/v3"


def user(name: str) -> str:
    return f"@{name}:test.example"


class PushCase(DatabaseCase):
    """Alice writes; bob has telephones."""

    def setUp(self) -> None:
        self.gateways = FakeGateways()
        self.mailer = FakeMailer()
        self.app = TestApp(self, database=self.new_database(), http=self.gateways, mailer=self.mailer)
        self.app.app.begin()
        self.tokens = {name: self.app.register(name) for name in ("alice", "bob", "carol")}
        self.number = 0
        self.room_id = self.make_room("alice", "bob", "carol")
        self.settle()

    def restart(self) -> None:
        self.app.restart()
        self.app.app.begin()
        self.settle()

    def settle(self, seconds: float = 0) -> None:
        """Until the follower has seen everything, and what was to be sent has been."""
        self.app.advance(seconds)
        for _ in range(50):
            self.app.advance(0)
        self.assertTrue(self.app.app.outgoing.followers.settled)

    def wait_for(self, seconds: float, steps: int = 10) -> None:
        """Let time pass in steps."""
        for _ in range(steps):
            self.settle(seconds / steps)

    # --- people ---------------------------------------------------------------------------------------

    def ok(self, name: str, method: str, path: str, body: Any = None, **query: str) -> Any:
        return self.app.ok(method, V3 + path, body, self.tokens[name], query or None)

    def make_room(self, creator: str, *others: str, **options: Any) -> str:
        body = {"preset": "public_chat", **options}
        room_id: str = self.ok(creator, "POST", "/createRoom", body)["room_id"]
        for name in others:
            self.ok(name, "POST", f"/join/{room_id}", {})
        return room_id

    def set_pusher(
        self,
        name: str = "bob",
        pushkey: str = "key",
        url: str = URL,
        data: Mapping[str, Any] = MappingProxyType({}),
        changes: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        body = {
            "app_id": "org.example",
            "pushkey": pushkey,
            "kind": "http",
            "app_display_name": "App",
            "device_display_name": "Telephone",
            "lang": "en",
            "data": {"url": url, **data},
            "append": True,
            **changes,
        }
        self.ok(name, "POST", "/pushers/set", body)
        self.settle()

    def pushers(self, name: str = "bob") -> list[str]:
        return [one["pushkey"] for one in self.ok(name, "GET", "/pushers")["pushers"]]

    def send(
        self,
        name: str = "alice",
        body: str = "hello",
        room_id: str | None = None,
        type_: str = "m.room.message",
        content: Mapping[str, Any] = MappingProxyType({}),
    ) -> str:
        self.number += 1
        full = {"msgtype": "m.text", "body": body, **content}
        path = f"/rooms/{quote(room_id or self.room_id)}/send/{type_}/{self.number}"
        event_id: str = self.ok(name, "PUT", path, full)["event_id"]
        self.settle()
        return event_id

    def state(self, type_: str, content: Any, name: str = "alice", key: str = "") -> None:
        self.ok(name, "PUT", f"/rooms/{quote(self.room_id)}/state/{type_}/{key}", content)
        self.settle()

    def read(self, name: str, event_id: str, thread: str | None = None, room_id: str | None = None) -> None:
        body = {} if thread is None else {"thread_id": thread}
        path = f"/rooms/{quote(room_id or self.room_id)}/receipt/m.read/{quote(event_id)}"
        self.ok(name, "POST", path, body)
        self.settle()

    def told(self) -> list[str]:
        """The event ids of what gateways were told since the last look; of plain counts the count."""
        return [one.get("event_id") or str(one["counts"]["unread"]) for one in self.gateways.take()]
