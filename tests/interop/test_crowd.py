"""Three CHAOS servers and a Synapse in one room, killed and restarted at random under load.

Nothing acknowledged is lost, nothing is there twice, and in the end all four have the same events and the same state.
`CHAOS_CROWD_SEED` repeats the choices of a run (not its timing, which is the machine's).
"""

from __future__ import annotations

import http.client
import os
import random
import secrets
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from twisted.trial import unittest

from homeserver.db.engine import open_engine
from homeserver.store.check import check_db
from tests.interop.authority import Authority
from tests.interop.client import Client, register
from tests.interop.pair import TARGET_VARIABLE, Side, agree, make_database, prepare_side

LOAD_S = 25.0
PATIENCE_S = 90.0
SEED_VARIABLE = "CHAOS_CROWD_SEED"
# Beside SQLite one of them on PostgreSQL, where there is one.
NAMES = ("chaos1", "chaos2", "chaos3", "synapse")


class Talker(threading.Thread):
    """Says one thing after the other; each as often as it takes until it is acknowledged, under one transaction id."""

    def __init__(self, client: Client, room_id: str, name: str) -> None:
        super().__init__(daemon=True)
        self._client = client
        self._room_id = room_id
        self._name = name
        self.stopping = threading.Event()
        self.acknowledged: dict[str, str] = {}  # event id -> text
        self.problem = ""

    def run(self) -> None:
        number = 0
        while not self.stopping.is_set() and not self.problem:
            text = f"{self._name} says {number}"
            if self._say(text, f"{self._name}-{number}"):
                number += 1
            self.stopping.wait(0.05)

    def _say(self, text: str, txn_id: str) -> bool:
        path = f"/_matrix/client/v3/rooms/{self._room_id}/send/m.room.message/{txn_id}"
        while not self.problem:
            try:
                status, answer = self._client.ask("PUT", path, {"msgtype": "m.text", "body": text})
            except (OSError, http.client.HTTPException, ValueError):
                status, answer = 0, None
            if status == 200:
                self.acknowledged[answer["event_id"]] = text
                return True
            if status not in (0, 429) and status < 500:
                self.problem = f"{text!r}: {status} {answer}"
            if self.stopping.wait(0.1):
                return False
        return False


class Crowd(unittest.TestCase):
    """See the module."""

    def setUp(self) -> None:
        self.seed = int(os.environ.get(SEED_VARIABLE) or secrets.randbelow(2**31))
        self.random = random.Random(self.seed)
        print(f"{SEED_VARIABLE}={self.seed}", flush=True)
        stack = ExitStack()
        self.addCleanup(stack.close)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-crowd-")))
        authority = Authority(folder / "authority")
        self.databases = dict.fromkeys(NAMES, "sqlite")
        try:
            self.databases["chaos2"] = make_database("postgresql", "crowd")
        except unittest.SkipTest as error:
            print(f"all on SQLite: {error}", flush=True)
        self.sides: list[Side] = []
        for number, name in enumerate(NAMES):
            target = "synapse" if name == "synapse" else os.environ.get(TARGET_VARIABLE, "chaos")
            wire = authority.issue(f"127.0.0.{40 + number}")
            side = prepare_side(name, target, folder, self.databases[name], wire)
            stack.callback(side.gate.end)
            stack.callback(side.process.kill)
            side.process.start()
            self.sides.append(side)

    def test_killed_at_random(self) -> None:
        clients = [register(side.process, f"user{number}") for number, side in enumerate(self.sides)]
        room_id = clients[0].create_room(preset="public_chat", room_version="11")
        for client in clients[1:]:
            client.join(room_id, via=self.sides[0].server_name)
        for client in clients:
            for other in clients:
                client.sees_member(room_id, other.user_id, "join")
        talkers = [
            Talker(Client(client.process, client.user_id, client.token), room_id, side.name)
            for client, side in zip(clients, self.sides, strict=True)
        ]
        for talker in talkers:
            talker.start()
        self._kill_at_random()
        for talker in talkers:
            talker.stopping.set()
            talker.join(120)
        for client in clients:
            client.close()
        self.assertEqual([talker.problem for talker in talkers if talker.problem], [])
        acknowledged = {key: text for talker in talkers for key, text in talker.acknowledged.items()}
        self.assertTrue(all(talker.acknowledged for talker in talkers), "everybody was heard at all")
        self._converge(room_id, clients, acknowledged)
        self._check_databases()

    def _kill_at_random(self) -> None:
        """One after the other, so that some are up at any time; the last kill leaves time to see it through."""
        until_s = time.monotonic() + LOAD_S
        while time.monotonic() < until_s:
            time.sleep(self.random.uniform(0.3, 2.0))
            victim = self.random.choice(self.sides)
            victim.process.kill()
            time.sleep(self.random.uniform(0.0, 1.0))
            victim.process.start()

    def _converge(self, room_id: str, clients: list[Client], acknowledged: dict[str, str]) -> None:
        # The last words are signs of life: Synapse tries a server again that it has heard of.
        for client in clients:
            client.send(room_id, f"{client.user_id} is still here")
        agree(room_id, *clients, patience_s=PATIENCE_S, history=False)
        # Four Synapses show holes after such a day: what one of them missed beyond its limits it does not look for.
        ours = [client for client, side in zip(clients, self.sides, strict=True) if not side.is_synapse]
        if ours:
            agree(room_id, *ours, patience_s=PATIENCE_S)
        for client in ours:
            events = {event["event_id"]: event for event in client.history(room_id)}
            lost = {key: text for key, text in acknowledged.items() if key not in events}
            self.assertEqual(lost, {}, f"acknowledged, and not at {client.user_id}'s server")
            bodies = Counter(
                event["content"].get("body") for event in events.values() if "state_key" not in event
            )
            self.assertEqual([body for body, count in bodies.items() if count > 1], [], "there twice")

    def _check_databases(self) -> None:
        for side in self.sides:
            if side.is_synapse:
                continue
            self.assertEqual(side.process.stop(), 0)
            address = self.databases[side.name]
            if address == "sqlite":
                address = f"sqlite:{side.process.command.working_folder / 'data' / 'chaos.sqlite3'}"
            session = open_engine(address).reader()
            try:
                self.assertEqual(session.run(check_db), [], side.name)
            finally:
                session.close()
