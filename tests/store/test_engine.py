"""SQLite's write-ahead log: its size from the start, and how it is emptied beside the writer."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from twisted.trial import unittest

from homeserver.db.engine import Checkpointer, SqliteEngine
from homeserver.db.migrate import upgrade_engine
from homeserver.db.schema.stream import followers
from homeserver.db.statements import rows

_INSERT = rows(followers, "name", "pos")


class SqliteLog(unittest.TestCase):
    """One file."""

    def setUp(self) -> None:
        self.path = str(Path(self.mktemp()).absolute())
        self.engine = SqliteEngine(self.path)
        upgrade_engine(self.engine)
        self.session = self.engine.writer()
        self.addCleanup(self.session.close)

    def log_size(self) -> int:
        return os.path.getsize(self.path + "-wal")

    def test_room_is_made_without_a_trace(self) -> None:
        size = os.path.getsize(self.path)
        self.session.make_room()
        self.assertGreaterEqual(self.log_size(), 16 * 1024 * 1024)
        self.assertEqual(size, os.path.getsize(self.path))
        self.session.run(lambda tx: tx.insert(_INSERT, [("a", 1)]))
        self.assertLess(self.log_size(), 18 * 1024 * 1024, "commits write over what is there")
        other = sqlite3.connect(self.path)
        self.addCleanup(other.close)
        found = other.execute("SELECT name, pos FROM followers").fetchall()
        tables = {name for (name,) in other.execute("SELECT name FROM sqlite_master")}
        self.assertEqual([("a", 1)], found)
        self.assertNotIn("room_for_the_log", tables)
        self.assertEqual([("ok",)], other.execute("PRAGMA integrity_check").fetchall())

    def test_a_lock_does_not_stop_the_start(self) -> None:
        other = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(other.close)
        other.execute("BEGIN IMMEDIATE")
        self.session.make_room()
        other.execute("ROLLBACK")
        self.session.run(lambda tx: tx.insert(_INSERT, [("a", 1)]))

    def test_the_log_is_emptied_when_nothing_is_written(self) -> None:
        checkpointer = Checkpointer(self.path)
        self.addCleanup(checkpointer.close)
        self.session.run(lambda tx: tx.insert(_INSERT, [(f"follower {number}", 1) for number in range(200)]))
        before = os.stat(self.path).st_mtime_ns
        checkpointer.step()
        self.assertEqual(before, os.stat(self.path).st_mtime_ns, "the first look only takes note")
        checkpointer.step()
        database = Path(self.path).read_bytes()
        self.assertIn(b"follower 199", database)
