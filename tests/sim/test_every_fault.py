"""One conversation, with the k-th statement that is written failing: for k = 1, 2, … until it passes without a fault.

Twice: failing once, and failing from then on until the database is well again. Whatever the answer was meanwhile, the
client's retries bring about exactly the conversation, and the database is sound at every moment.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

from twisted.trial import unittest

from homeserver.accounts.passwords import Cost
from homeserver.store.check import check_db
from tests.support.app import TestApp

_MOST = 2_000
_TRIES = 5


class Breakable(TestApp):
    """A server whose database fails at one statement, or from it on."""

    def __init__(self, case: unittest.TestCase, fail_at: int, *, once: bool) -> None:
        self.count = 0
        self.failed = False
        self.fail_at = -1
        super().__init__(case)
        self.app.services.hasher._cost = Cost(1, 8192)
        self.once = once
        self.engine.hook = self._hook
        self.fail_at = fail_at

    def _hook(self, sql: str) -> None:
        self.count += 1
        if self.fail_at >= 0 and (
            self.count == self.fail_at or (not self.once and self.count > self.fail_at)
        ):
            self.failed = True
            raise sqlite3.OperationalError("disk I/O error (on purpose)")

    def heal(self) -> None:
        """From now on nothing fails."""
        self.fail_at = -1

    def insist(self, method: str, path: str, body: Any = None, token: str | None = None) -> tuple[int, Any]:
        """Call until the server can answer; 503 is the only thing that it may say before."""
        for attempt in range(_TRIES):
            status, json = self.call(method, path, body, token)
            if status != 503:
                return status, json
            if attempt == 1:
                self.heal()
        raise AssertionError(f"{method} {path} is not answered")

    def enter(self, name: str) -> str:
        """Register, or log in where that went through unnoticed."""
        body = {"username": name, "password": "correct horse", "auth": {"type": "m.login.dummy"}}
        status, json = self.insist("POST", "/_matrix/client/v3/register", body)
        if status == 400 and json["errcode"] == "M_USER_IN_USE":
            login = {
                "type": "m.login.password",
                "identifier": {"type": "m.id.user", "user": name},
                "password": "correct horse",
            }
            status, json = self.insist("POST", "/_matrix/client/v3/login", login)
        assert status == 200, json
        token: str = json["access_token"]
        return token


def converse(server: Breakable) -> list[str]:
    """Two people talk; what the second one sees in the end."""

    def ok(method: str, path: str, body: Any = None, token: str | None = None) -> Any:
        status, json = server.insist(method, path, body, token)
        assert status == 200, (method, path, status, json)
        return json

    client = "/_matrix/client/v3"
    alice, bob = server.enter("alice"), server.enter("bob")
    room = ok("POST", f"{client}/createRoom", {"preset": "public_chat", "name": "den"}, alice)["room_id"]
    ok("POST", f"{client}/rooms/{room}/join", {}, bob)
    ok("PUT", f"{client}/rooms/{room}/send/m.room.message/1", {"msgtype": "m.text", "body": "one"}, alice)
    sent = ok(
        "PUT", f"{client}/rooms/{room}/send/m.room.message/1", {"msgtype": "m.text", "body": "two"}, bob
    )
    ok("PUT", f"{client}/rooms/{room}/state/m.room.topic/", {"topic": "three"}, alice)
    ok("PUT", f"{client}/rooms/{room}/redact/{sent['event_id']}/2", {}, bob)
    ok("POST", f"{client}/rooms/{room}/receipt/m.read/{sent['event_id']}", {}, bob)
    ok("PUT", f"{client}/user/@bob:test.example/account_data/im.chaos.note", {"four": 4}, bob)
    server.heal()
    sync = server.ok("GET", f"{client}/sync", token=bob)
    joined = sync["rooms"]["join"][room]
    said = [event["content"].get("body", event["type"]) for event in joined["timeline"]["events"]]
    return [
        *said,
        *(event["type"] for event in sync["account_data"]["events"] if event["type"].startswith("im.")),
    ]


class FaultCase(unittest.TestCase):
    """A conversation, again and again."""

    def play(self, conversation: Callable[[Breakable], list[str]], *, once: bool, every: int) -> None:
        """With a fault at every statement, or at every so-manieth."""
        sound = conversation(Breakable(self, -1, once=True))
        fail_at = 1
        while fail_at < _MOST:
            server = Breakable(self, fail_at, once=once)
            try:
                said = conversation(server)
            except AssertionError as error:
                raise AssertionError(f"statement {fail_at}: {error}") from error
            problems = server.wait(server.database.read(check_db))
            self.assertEqual(problems, [], f"statement {fail_at}")
            self.assertEqual(
                _without_repeated_state(said), _without_repeated_state(sound), f"statement {fail_at}"
            )
            _forgive(server.log.entries)
            if not server.failed:
                return
            server.engine.hook = None
            fail_at += every
        self.fail("the conversation takes more statements than it should")


class EveryFault(FaultCase):
    """See the module."""

    def test_failing_once(self) -> None:
        self.play(converse, once=True, every=1)

    def test_failing_from_then_on(self) -> None:
        self.play(converse, once=False, every=2)


def _without_repeated_state(said: list[str]) -> list[str]:
    """Setting the same state twice makes two events, which is what a client that retries asks for."""
    return [one for place, one in enumerate(said) if place == 0 or one != said[place - 1]]


def _forgive(entries: list[Any]) -> None:
    """The server said that the database was unavailable, as it should."""
    entries[:] = [
        one for one in entries if one[1] not in ("database unavailable", "task failed, will restart")
    ]
