"""SIGKILL while keys are claimed and messages go to a device: no key is given out twice, each message comes once."""

from __future__ import annotations

import http.client
import threading
from pathlib import Path
from random import Random
from time import sleep
from typing import Any

from tests.crash.load import CLIENT, Server, wait_until
from tests.crash.test_kill import SEED
from tests.support.databases import SQLITE, DatabaseCase, no_schema, on_each_database

LIVES = 3
CLAIMANTS = 6
WHISPERERS = 2
KEYS = 900
_ALGORITHM = "signed_curve25519"


class Client(threading.Thread):
    """Does one request after the other; each again until it is answered."""

    def __init__(self, server: Server, token: str, target: tuple[str, str], number: int) -> None:
        super().__init__(daemon=True)
        self.server = server
        self.token = token
        self.target = target
        self.number = number
        self.stopping = threading.Event()
        self.answers: list[Any] = []

    def request(self) -> tuple[str, str, Any]:
        """The next request."""
        raise NotImplementedError

    def run(self) -> None:
        while not self.stopping.is_set():
            try:
                status, answer = self.server.call(*self.request(), self.token)
            except (OSError, http.client.HTTPException):
                status, answer = 0, None
            if status == 200:
                self.answers.append(answer)
            else:
                self.stopping.wait(0.02)


class Claimant(Client):
    """Claims keys of a device."""

    def request(self) -> tuple[str, str, Any]:
        user_id, device_id = self.target
        return "POST", f"{CLIENT}/keys/claim", {"one_time_keys": {user_id: {device_id: _ALGORITHM}}}

    def names(self) -> list[str]:
        """The keys that came."""
        user_id, device_id = self.target
        return [
            name
            for answer in self.answers
            for name in answer["one_time_keys"].get(user_id, {}).get(device_id, {})
        ]


class Whisperer(Client):
    """Sends messages to a device."""

    def request(self) -> tuple[str, str, Any]:
        user_id, device_id = self.target
        count = len(self.answers)
        body = {"messages": {user_id: {device_id: {"from": self.number, "count": count}}}}
        return "PUT", f"{CLIENT}/sendToDevice/m.dummy/{self.number}-{count}", body


@on_each_database
class KillWhispers(DatabaseCase):
    """See the module; `CHAOS_CRASH_SEED` draws other moments."""

    def test_once(self) -> None:
        moments = Random(SEED)
        database = "sqlite" if self.dialect == SQLITE else self.new_database(no_schema)
        server = Server(Path(self.mktemp()).absolute(), database)
        self.addCleanup(server.process.kill)
        server.process.start()
        alice, bob = server.register("alice"), server.register("bob")
        me = server.ok("GET", f"{CLIENT}/account/whoami", None, alice)
        self.upload(server, alice)
        target = (me["user_id"], me["device_id"])
        claimants = [Claimant(server, bob, target, number) for number in range(CLAIMANTS)]
        whisperers = [Whisperer(server, bob, target, number) for number in range(WHISPERERS)]
        clients = [*claimants, *whisperers]
        for client in clients:
            client.start()

        def done() -> int:
            return min(len(client.answers) for client in clients)

        for _ in range(LIVES):
            before = done()
            wait_until("answers", lambda before=before: done() > before + 5)
            sleep(moments.uniform(0.0, 0.2))
            server.process.kill()
            self.assertEqual(server.judge(), [])
            server.process.start()
        before = done()
        wait_until("answers after the last crash", lambda: done() > before + 5)
        for client in clients:
            client.stopping.set()
        for client in clients:
            client.join()
        names = [name for claimant in claimants for name in claimant.names()]
        self.assertEqual(len(names), len(set(names)), "a key was given out twice")
        self.assertLessEqual(len(names), KEYS)
        self.check_messages(self.receive(server, alice), whisperers)
        self.assertEqual(server.process.stop(), 0, "a clean end")
        self.assertEqual(server.judge(), [])

    def upload(self, server: Server, token: str) -> None:
        keys = {
            f"{_ALGORITHM}:k{number:03}": {"key": f"{number}", "signatures": {}} for number in range(KEYS)
        }
        server.ok("POST", f"{CLIENT}/keys/upload", {"one_time_keys": keys}, token)

    def receive(self, server: Server, token: str) -> list[Any]:
        """Everything that waits for the device."""
        found: list[Any] = []
        query = ""
        while True:
            answer = server.ok("GET", f"{CLIENT}/sync?timeout=0{query}", None, token)
            part = answer.get("to_device", {}).get("events", [])
            if not part:
                return found
            found += [event["content"] for event in part]
            query = f"&since={answer['next_batch']}"

    def check_messages(self, found: list[Any], whisperers: list[Whisperer]) -> None:
        for whisperer in whisperers:
            counts = [one["count"] for one in found if one["from"] == whisperer.number]
            acknowledged = len(whisperer.answers)
            # The last one may be there although nobody could say so any more.
            self.assertIn(counts, (list(range(acknowledged)), list(range(acknowledged + 1))))
