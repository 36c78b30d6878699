"""SIGKILL while delayed events become due: each of those that were scheduled is sent, and none twice."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from pathlib import Path
from random import Random

from sqlalchemy import func, select

from homeserver.db.engine import open_engine
from homeserver.db.schema.delayed import delayed_events
from homeserver.db.statements import statement
from tests.crash.load import CLIENT, Server, wait_until
from tests.crash.test_kill import SEED
from tests.support.databases import SQLITE, DatabaseCase, no_schema, on_each_database

LIVES = 3
_WAITING = statement(
    select(func.count()).select_from(delayed_events).where(delayed_events.c.ended_ts_ms.is_(None))
)


class Planner(threading.Thread):
    """Schedules messages that are due in a moment; each until it is acknowledged."""

    def __init__(self, server: Server, room_id: str, token: str) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._where = f"{CLIENT}/rooms/{room_id}/send/m.room.message"
        self._token = token
        self.stopping = threading.Event()
        self.planned: list[str] = []

    def run(self) -> None:
        while not self.stopping.is_set():
            text = f"later {len(self.planned)}"
            path = f"{self._where}/{text.replace(' ', '-')}?org.matrix.msc4140.delay=150"
            try:
                status, _ = self._server.call("PUT", path, {"msgtype": "m.text", "body": text}, self._token)
            except (OSError, http.client.HTTPException):
                status = 0
            if status == 200:
                self.planned.append(text)
            else:
                self.stopping.wait(0.02)


@on_each_database
class KillDelayed(DatabaseCase):
    """See the module."""

    def test_sent_exactly_once(self) -> None:
        moments = Random(SEED)
        database = "sqlite" if self.dialect == SQLITE else self.new_database(no_schema)
        server = Server(Path(self.mktemp()).absolute(), database)
        self.addCleanup(server.process.kill)
        server.process.start()
        token = server.register("alice")
        planner = Planner(server, server.create_room(token), token)
        planner.start()
        for _ in range(LIVES):
            before = len(planner.planned)
            wait_until("new plans", lambda before=before: len(planner.planned) > before + 30)
            time.sleep(moments.uniform(0.0, 0.3))
            server.process.kill()
            self.assertEqual(server.judge(), [])
            server.process.start()
        planner.stopping.set()
        planner.join()
        wait_until("all is sent", lambda: self._waiting(server) == 0)
        self.assertEqual(server.process.stop(), 0, "a clean end")
        self.assertEqual(server.judge(), [])
        sent = Counter(server.stored().values())
        self.assertEqual(dict.fromkeys(planner.planned, 1), {text: sent[text] for text in planner.planned})

    def _waiting(self, server: Server) -> int:
        session = open_engine(server.database).reader()
        try:
            return int(session.run(lambda tx: tx.value(_WAITING)))
        finally:
            session.close()
