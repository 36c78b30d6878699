"""Typing notifications. spec: client-server-api#typing-notifications"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import TestCase

from homeserver.ephemeral import typing as module
from homeserver.ephemeral.ticker import Ticker
from homeserver.ephemeral.typing import Typing
from tests.support.app import TestApp

V3 = "/_matrix/client/v3"


class TypingInRooms(TestCase):
    def setUp(self) -> None:
        self.app = TestApp(self)
        self.alice, self.bob, self.carol = (self.app.register(name) for name in ("alice", "bob", "carol"))
        created = self.app.ok("POST", f"{V3}/createRoom", {"preset": "public_chat"}, self.alice)
        self.room_id: str = created["room_id"]
        self.app.ok("POST", f"{V3}/join/{self.room_id}", {}, self.bob)

    def put(self, token: str, name: str, body: Any) -> tuple[int, Any]:
        return self.app.call("PUT", f"{V3}/rooms/{self.room_id}/typing/@{name}:test.example", body, token)

    def sync(self, token: str, **query: Any) -> Any:
        return self.app.ok("GET", f"{V3}/sync", None, token, {key: str(one) for key, one in query.items()})

    def typers(self, answer: Any) -> Any:
        room = answer.get("rooms", {}).get("join", {}).get(self.room_id, {})
        found = [one for one in room.get("ephemeral", {}).get("events", []) if one["type"] == "m.typing"]
        return found[0]["content"]["user_ids"] if found else None

    def test_told_and_over(self) -> None:
        since = self.sync(self.bob)["next_batch"]
        self.assertEqual((200, {}), self.put(self.alice, "alice", {"typing": True, "timeout": 5_000}))
        answer = self.sync(self.bob, since=since)
        self.assertEqual(["@alice:test.example"], self.typers(answer))
        self.assertIsNone(self.typers(self.sync(self.bob, since=answer["next_batch"])))
        self.assertEqual(["@alice:test.example"], self.typers(self.sync(self.bob)))
        self.app.advance(5.1)
        self.assertEqual([], self.typers(self.sync(self.bob, since=answer["next_batch"])))

    def test_wakes_a_waiting_sync(self) -> None:
        since = self.sync(self.bob)["next_batch"]
        waiting = self.app.start("GET", f"{V3}/sync", None, self.bob, {"since": since, "timeout": "30000"})
        self.app.advance(1)
        self.assertNoResult(waiting)
        self.put(self.alice, "alice", {"typing": True})
        self.assertEqual(["@alice:test.example"], self.typers(self.app.wait(waiting).json))

    def test_stopping_and_leaving(self) -> None:
        self.put(self.alice, "alice", {"typing": True})
        self.put(self.bob, "bob", {"typing": True, "timeout": 60_000})
        self.put(self.alice, "alice", {"typing": False})
        answer = self.sync(self.alice)
        self.assertEqual(["@bob:test.example"], self.typers(answer))
        self.app.ok("POST", f"{V3}/rooms/{self.room_id}/leave", {}, self.bob)
        self.assertEqual([], self.typers(self.sync(self.alice, since=answer["next_batch"])))

    def test_refusals(self) -> None:
        for token, name, body, status, errcode in (
            (self.alice, "bob", {"typing": True}, 403, "M_FORBIDDEN"),
            (self.carol, "carol", {"typing": True}, 403, "M_FORBIDDEN"),
            (self.alice, "alice", {}, 400, "M_BAD_JSON"),
            (self.alice, "alice", {"typing": "yes"}, 400, "M_BAD_JSON"),
            (self.alice, "alice", {"typing": True, "timeout": -1}, 400, "M_INVALID_PARAM"),
            (self.alice, "alice", {"typing": True, "timeout": "long"}, 400, "M_BAD_JSON"),
        ):
            found, json = self.put(token, name, body)
            self.assertEqual((status, errcode), (found, json["errcode"]), body)
        self.room_id = "!unknown:test.example"
        self.assertEqual(403, self.put(self.alice, "alice", {"typing": True})[0])


class Bounds(TestCase):
    def setUp(self) -> None:
        self.app = TestApp(self)
        self.woken: list[int] = []
        self.typing = Typing(self.app.app.core.around.clock, Ticker(), self.woken.append)

    def test_again_changes_nothing_but_the_end(self) -> None:
        self.typing.start(1, "@a:x", 10_000)
        self.app.advance(8)
        self.typing.start(1, "@a:x", 10_000)
        self.app.advance(8)
        self.assertEqual((["@a:x"], 1, [1]), (self.typing.users_in(1), self.typing.counter, self.woken))
        self.typing.start(1, "@a:x", 1_000)
        self.app.advance(1.1)
        self.assertEqual(([], 2), (self.typing.users_in(1), self.typing.counter))

    def test_longest_time(self) -> None:
        self.typing.start(1, "@a:x", 10**12)
        self.app.advance(module.MAX_TIMEOUT_MS / 1000 + 1)
        self.assertEqual([], self.typing.users_in(1))

    def test_users_of_a_room(self) -> None:
        for number in range(module.MAX_PER_ROOM + 5):
            self.typing.start(1, f"@{number}:x")
        self.assertEqual(module.MAX_PER_ROOM, len(self.typing.users_in(1)))

    def test_changed_since(self) -> None:
        self.typing.start(1, "@a:x")
        self.typing.start(2, "@a:x")
        self.typing.stop(1, "@a:x")
        rooms = [1, 2, 3]
        self.assertEqual([[1, 2], [1, 2], [1], []], [
            sorted(self.typing.changed_since(rooms, counter)) for counter in range(4)
        ])  # fmt: skip
        self.assertEqual([2], list(self.typing.changed_since([2], 0)))

    def test_forgotten_changes_count_as_changes(self) -> None:
        self.patch(module, "MAX_ROOMS", 2)
        for room_nid in (1, 2, 3):
            self.typing.start(room_nid, "@a:x")
        self.assertEqual([1, 2, 3], sorted(self.typing.changed_since([1, 2, 3], 0)))
        self.assertEqual([2, 3], sorted(self.typing.changed_since([1, 2, 3], 1)))
