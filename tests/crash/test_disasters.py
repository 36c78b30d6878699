"""The disk is full, the file is gone, another process holds the lock, PostgreSQL stops.

Each time: clear refusals with 503, nothing acknowledged that is not stored, and work that goes on without a restart
when the cause is gone.
"""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

from twisted.trial import unittest

from tests.crash.load import Server, wait_until
from tests.support import postgres
from tests.support.databases import REQUIRED_VARIABLE

_CLEAR = "The database is not available at the moment. Nothing was stored."


class _Case(unittest.TestCase):
    """A server with a room."""

    def begin(self, database: str = "sqlite") -> None:
        self.server = Server(Path(self.mktemp()).absolute(), database)
        self.addCleanup(self.server.process.kill)
        self.server.process.start()
        self.token = self.server.register("alice")
        self.room_id = self.server.create_room(self.token)
        self.number = 0
        self.say(200)

    def say(self, wanted: int) -> Any:
        """Send one message, and compare the status."""
        self.number += 1
        status, answer = self.server.send(self.room_id, self.token, f"message {self.number}")
        self.assertEqual(status, wanted, answer)
        return answer

    def refused(self) -> None:
        """A message is refused clearly."""
        answer = self.say(503)
        self.assertEqual((answer["errcode"], answer["error"]), ("M_UNKNOWN", _CLEAR))

    def recovered(self) -> None:
        """Work goes on in the same process: soon, and then always."""
        pid = self.server.process.pid

        def works() -> bool:
            self.number += 1
            return self.server.send(self.room_id, self.token, f"message {self.number}")[0] == 200

        wait_until("the server works again", works)
        for _ in range(3):
            self.say(200)
        self.assertEqual(self.server.process.pid, pid)
        # A connection that broke while it was idle is found out by its next use, and refuses that one.
        wait_until("reading works again", self.reads)
        sync = self.server.ok("GET", "/_matrix/client/v3/sync", token=self.token)
        last = sync["rooms"]["join"][self.room_id]["timeline"]["events"][-1]["content"]["body"]
        self.assertEqual(last, f"message {self.number}")

    def reads(self) -> bool:
        """Whether every reader of the server answers, as far as a few requests tell."""
        found = [self.server.call("GET", "/_matrix/client/v3/sync", token=self.token)[0] for _ in range(8)]
        self.assertTrue(set(found) <= {200, 503}, found)
        return 503 not in found

    def end(self) -> None:
        """The database holds what was acknowledged, and nothing else is wrong."""
        self.assertEqual(self.server.process.stop(), 0)
        self.assertEqual(self.server.judge(), [])


class Sqlite(_Case):
    """What can happen to a file."""

    def test_the_disk_is_full(self) -> None:
        self.begin()
        unlimited = resource.prlimit(self.server.process.pid, resource.RLIMIT_FSIZE)
        # No file may be written to beyond this: the log soon has to.
        resource.prlimit(self.server.process.pid, resource.RLIMIT_FSIZE, (65_536, unlimited[1]))
        statuses = set()
        for _ in range(30):
            self.number += 1
            statuses.add(self.server.send(self.room_id, self.token, f"message {self.number}")[0])
        self.assertTrue(503 in statuses and statuses <= {200, 503}, statuses)
        self.refused()
        resource.prlimit(self.server.process.pid, resource.RLIMIT_FSIZE, unlimited)
        self.recovered()
        self.end()

    def test_the_file_vanished_and_came_back(self) -> None:
        self.begin()
        away = self.server.database_file.with_name("away.db")
        self.server.database_file.rename(away)
        self.refused()
        self.refused()
        self.assertFalse(self.server.database_file.exists(), "no empty database was made in its place")
        away.rename(self.server.database_file)
        self.recovered()
        self.end()

    def test_another_process_holds_the_lock(self) -> None:
        self.begin()
        other = sqlite3.connect(self.server.database_file, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        self.refused()
        sync = self.server.ok("GET", "/_matrix/client/v3/sync", token=self.token)
        self.assertIn(self.room_id, sync["rooms"]["join"], "reading goes on")
        other.execute("ROLLBACK")
        other.close()
        self.recovered()
        self.end()


class Postgresql(_Case):
    """A server that stops and starts again under us."""

    def test_it_stops_and_starts_again(self) -> None:
        try:
            cluster = postgres.start_cluster()
        except postgres.PostgresUnavailable as error:
            if os.environ.get(REQUIRED_VARIABLE):
                raise
            raise unittest.SkipTest(f"PostgreSQL: {error}") from error
        self.addCleanup(cluster.stop)
        self.begin(cluster.url)
        command = cluster.process.args
        assert isinstance(command, list)
        for sign in (
            signal.SIGINT,
            signal.SIGQUIT,
        ):  # a fast shutdown, and one that is a crash to its clients
            cluster.process.send_signal(sign)
            cluster.process.wait(postgres.STOP_TIMEOUT_S)
            self.refused()
            self.refused()
            cluster.process = _start_again(command, cluster.folder)
            wait_until("PostgreSQL is up", lambda: postgres._is_ready(cluster.folder / "data"))
            self.recovered()
        self.end()


def _start_again(command: list[Any], folder: Path) -> subprocess.Popen[bytes]:
    arguments = [str(part) for part in command]
    return postgres._spawn(arguments, folder, postgres._server_account(), folder / "log")
