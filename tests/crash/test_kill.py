"""SIGKILL at drawn moments under load: every acknowledged event is there exactly once, and the database is sound."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

from tests.crash.load import Server, Talker, wait_until
from tests.support.databases import SQLITE, DatabaseCase, no_schema, on_each_database

LIVES = 4
TALKERS = 4
SEED = int(os.environ.get("CHAOS_CRASH_SEED", "20261122"))


@on_each_database
class Kill(DatabaseCase):
    """See the module; `CHAOS_CRASH_SEED` draws other moments."""

    def test_nothing_acknowledged_is_lost_and_nothing_is_there_twice(self) -> None:
        moments = random.Random(SEED)
        database = "sqlite" if self.dialect == SQLITE else self.new_database(no_schema)
        server = Server(Path(self.mktemp()).absolute(), database)
        self.addCleanup(server.process.kill)
        server.process.start()
        token = server.register("alice")
        rooms = [server.create_room(token) for _ in range(2)]
        talkers = [
            Talker(server, rooms[number % len(rooms)], token, f"talker {number}") for number in range(TALKERS)
        ]
        for talker in talkers:
            talker.start()
        for _ in range(LIVES):
            before = len(server.acknowledged)
            wait_until("new messages", lambda before=before: len(server.acknowledged) > before + 20)
            time.sleep(moments.uniform(0.0, 0.3))
            server.process.kill()
            self.assertEqual(server.judge(), [])
            server.process.start()
        before = len(server.acknowledged)
        wait_until("messages after the last crash", lambda: len(server.acknowledged) > before + 20)
        for talker in talkers:
            talker.stopping.set()
        for talker in talkers:
            talker.join()
        self.assertEqual(server.process.stop(), 0, "a clean end")
        self.assertEqual(server.judge(), [])
        refused = {text for talker in talkers for text in talker.refused}
        self.assertTrue(refused <= {"0 cut off"}, f"nothing else was said: {refused}")
