"""A server under load from threads, each an honest client: one message at a time, repeated until it is answered."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
from sqlalchemy import select

from homeserver.db.engine import open_engine
from homeserver.db.schema.rooms import event_json, events, timeline
from homeserver.db.statements import statement
from homeserver.db.tx import Tx
from homeserver.store.check import check_db
from tests.bench.targets import prepare_chaos
from tests.interop.authority import Wire
from tests.interop.synapse import SERVER_NAME

CLIENT = "/_matrix/client/v3"
TIMEOUT_S = 20.0
PATIENCE_S = 60.0
_TIMELINE = statement(
    select(events.c.event_id, event_json.c.json)
    .select_from(
        timeline.join(events, events.c.nid == timeline.c.event_nid).join(
            event_json, event_json.c.nid == events.c.nid
        )
    )
    .order_by(timeline.c.pos)
)


class Server:
    """A `chaos serve` process in a folder, and what is in its database."""

    def __init__(self, folder: Path, database: str = "sqlite", wire: Wire | None = None) -> None:
        self.folder = folder
        self.process = prepare_chaos(folder, database, wire=wire)
        self.database = f"sqlite:{folder / 'data' / 'chaos.sqlite3'}" if database == "sqlite" else database
        self.name = wire.server_name if wire is not None else SERVER_NAME
        self.acknowledged: dict[str, str] = {}  # event id -> body

    @property
    def database_file(self) -> Path:
        """SQLite's."""
        return self.folder / "data" / "chaos.sqlite3"

    def call(self, method: str, path: str, body: Any = None, token: str | None = None) -> tuple[int, Any]:
        """One request on a connection of its own; OSError or HTTPException where it was cut off."""
        connection = http.client.HTTPConnection("127.0.0.1", self.process.port, timeout=TIMEOUT_S)
        try:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, body=data, headers=headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def ok(self, method: str, path: str, body: Any = None, token: str | None = None) -> Any:
        """The JSON of a request that succeeds."""
        status, answer = self.call(method, path, body, token)
        assert status == 200, (method, path, status, answer)
        return answer

    def register(self, name: str) -> str:
        """An account's token."""
        body = {"username": name, "password": "correct horse", "auth": {"type": "m.login.dummy"}}
        token: str = self.ok("POST", f"{CLIENT}/register", body)["access_token"]
        return token

    def create_room(self, token: str) -> str:
        """A public room."""
        room_id: str = self.ok("POST", f"{CLIENT}/createRoom", {"preset": "public_chat"}, token)["room_id"]
        return room_id

    def send(self, room_id: str, token: str, text: str) -> tuple[int, Any]:
        """Send a message whose transaction id is its text; what is acknowledged is noted."""
        path = f"{CLIENT}/rooms/{quote(room_id, safe='')}/send/m.room.message/{quote(text, safe='')}"
        status, answer = self.call("PUT", path, {"msgtype": "m.text", "body": text}, token)
        if status == 200:
            self.acknowledged[answer["event_id"]] = text
        return status, answer

    # --- what is stored ------------------------------------------------------------------------------

    def stored(self) -> dict[str, str]:
        """The texts in the timelines, by event id."""
        session = open_engine(self.database).reader()
        try:
            return session.run(_bodies)
        finally:
            session.close()

    def judge(self) -> list[str]:
        """What is wrong with the database of a server that does not run: damage, losses, repetitions."""
        session = open_engine(self.database).reader()
        try:
            problems = session.run(check_db)
            stored = session.run(_bodies)
        finally:
            session.close()
        for event_id, text in self.acknowledged.items():
            if stored.get(event_id) != text:
                problems.append(
                    f"{text!r} was acknowledged as {event_id}, and that is {stored.get(event_id)!r}"
                )
        counts = Counter(stored.values())
        problems += [f"{text!r} is there {count} times" for text, count in counts.items() if count > 1]
        return problems

    def complaints(self) -> list[str]:
        """What the server has logged that nobody should have to read."""
        text = (self.folder / "output.log").read_text(errors="replace")
        return [line for line in text.splitlines() if '"level": "error"' in line or "Traceback" in line]


def _bodies(tx: Tx) -> dict[str, str]:
    found = {}
    for event_id, text in tx.all(_TIMELINE):
        event = msgspec.json.decode(text)
        body = event["content"].get("body")
        # A room that is replaced says so in a body as well.
        if body is not None and event["type"] == "m.room.message":
            found[event_id] = body
    return found


class Talker(threading.Thread):
    """Sends until told to stop; each message until it is acknowledged."""

    def __init__(self, server: Server, room_id: str, token: str, name: str) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._room_id = room_id
        self._token = token
        self._name = name
        self.stopping = threading.Event()
        self.sent = 0
        self.refused: Counter[str] = Counter()

    def run(self) -> None:
        while not self.stopping.is_set():
            text = f"{self._name} {self.sent}"
            while True:
                try:
                    status, answer = self._server.send(self._room_id, self._token, text)
                except (OSError, http.client.HTTPException):
                    status, answer = 0, None
                if status == 200:
                    self.sent += 1
                    break
                self.refused[f"{status} {answer['error'] if answer else 'cut off'}"] += 1
                if self.stopping.wait(0.02):
                    return


def wait_until(what: str, done: Any) -> None:
    """Poll; for what another process does."""
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {PATIENCE_S} s: {what}")
        time.sleep(0.02)
