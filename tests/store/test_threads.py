"""Which thread runs what: short units in the caller's, their commits and everything else in the writer's."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, cast

from sqlalchemy import select
from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

from homeserver.db.engine import SqliteEngine, open_engine
from homeserver.db.errors import DatabaseUnavailable, IntegrityViolation
from homeserver.db.migrate import upgrade_engine
from homeserver.db.schema.stream import followers
from homeserver.db.statements import rows, statement
from homeserver.db.threads import RESPITE, STANDSTILL_S, ThreadedDatabase
from homeserver.db.tx import Tx
from tests.support.databases import SQLITE, DatabaseCase, on_each_database

LIMIT_S = 60
_INSERT = rows(followers, "name", "pos")
_NAMES = statement(select(followers.c.name).order_by(followers.c.name))


class Turns:
    """A reactor of which the test is the loop."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Callable[..., object], tuple[Any, ...]]] = SimpleQueue()

    def callFromThread(self, function: Callable[..., object], *args: Any) -> None:
        self._calls.put((function, args))

    def turn(self) -> None:
        """Wait for a call, and make it."""
        function, args = self._calls.get(timeout=LIMIT_S)
        function(*args)


def _note(tx: Tx, name: str, *more: str) -> int:
    tx.insert(_INSERT, [(one, 0) for one in (name, *more)])
    return threading.get_ident()


class ThreadsCase(DatabaseCase):
    dialect = SQLITE

    def open(self, url: str) -> None:
        self.turns = Turns()
        self.time = task.Clock()
        self.database = ThreadedDatabase(
            open_engine(url), cast(IReactorFromThreads, self.turns), self.time.seconds, readers=1
        )
        self.addCleanup(self.database.stop)
        self.turns.turn()  # there is room

    def wait(self, result: Deferred[Any]) -> Any:
        """What comes of it, or its Failure; the reactor goes on until then."""
        found: list[Any] = []
        result.addBoth(found.append)
        while not found:
            self.turns.turn()
        return found[0]

    def read(self) -> Deferred[Any]:
        return self.database.read(lambda tx: tx.column(_NAMES))

    def names(self) -> Any:
        return self.wait(self.read())


@on_each_database
class Units(ThreadsCase):
    """The same on both databases."""

    def setUp(self) -> None:
        self.open(self.new_database())

    def test_units_are_written_in_the_order_of_the_calls(self) -> None:
        def see(tx: Tx, name: str) -> list[str]:
            seen = tx.column(_NAMES)
            _note(tx, name)
            return [one for one in seen if one.startswith("unit")]

        results = [
            self.database.write(see, "unit 1"),
            self.database.write_short(see, "unit 2"),
            self.database.write(see, "unit 3"),
        ]
        found = [self.wait(result) for result in results]
        self.assertEqual([[], ["unit 1"], ["unit 1", "unit 2"]], found)

    def test_what_a_short_unit_raises_is_told_later(self) -> None:
        self.wait(self.database.write_short(_note, "once"))
        for unit, error in ((_note, IntegrityViolation), (_fail, KeyError)):
            result: Deferred[Any] = self.database.write_short(unit, "once")
            self.assertFalse(result.called)
            failure = self.wait(result)
            self.assertIsInstance(failure, Failure)
            self.assertIsInstance(failure.value, error)
        self.wait(self.database.write_short(_note, "twice"))
        self.assertEqual({"once", "twice"}, {"once", "twice", "lost"} & set(self.names()))

    def test_nothing_is_taken_when_it_stops(self) -> None:
        accepted = self.database.write_short(_note, "accepted")
        self.database.stop()
        self.assertIsInstance(self.wait(self.database.write_short(_note, "late")).value, DatabaseUnavailable)
        self.assertNotIsInstance(self.wait(accepted), Failure)

    def test_what_was_accepted_is_done_after_it_refuses(self) -> None:
        self.wait(self.database.write_short(_note, "first"))
        accepted = [
            self.database.write_short(_note, "short"),
            self.database.write(_note, "other"),
            self.read(),
        ]
        self.database.refuse()
        for late in (self.database.write_short, self.database.write, self.database.read):
            self.assertIsInstance(self.wait(late(_note, "late")).value, DatabaseUnavailable)
        self.database.stop()
        self.assertFalse([one for one in map(self.wait, accepted) if isinstance(one, Failure)])


def _fail(tx: Tx, _: str) -> None:
    _note(tx, "lost")
    raise KeyError


class ShortUnitsOnSqlite(ThreadsCase):
    """Statements here, the commit there."""

    def setUp(self) -> None:
        self.path = str(Path(self.mktemp()).absolute())
        engine = SqliteEngine(self.path)
        upgrade_engine(engine)
        self.open(f"sqlite:{self.path}")
        self.here = threading.get_ident()

    def outside(self) -> sqlite3.Connection:
        other = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(other.close)
        return other

    def test_statements_run_in_the_callers_thread(self) -> None:
        self.assertEqual(self.here, self.wait(self.database.write_short(_note, "short")))
        self.assertNotEqual(self.here, self.wait(self.database.write(_note, "other")))

    def test_it_is_told_after_the_commit(self) -> None:
        held, go_on = threading.Event(), threading.Event()

        def hold(sql: str) -> None:
            if sql == "COMMIT":
                held.set()
                assert go_on.wait(LIMIT_S)
                self.assertNotEqual(self.here, threading.get_ident())

        self.database.engine.hook = hold
        result = self.database.write_short(_note, "held")
        self.assertTrue(held.wait(LIMIT_S))
        other = self.outside()
        found = "SELECT count(*) FROM followers WHERE name = 'held'"
        self.assertEqual(([(0,)], False), (other.execute(found).fetchall(), result.called))
        go_on.set()
        self.wait(result)
        self.assertEqual([(1,)], other.execute(found).fetchall())

    def test_a_commit_that_fails_is_told(self) -> None:
        def break_down(sql: str) -> None:
            if sql == "COMMIT":
                raise sqlite3.OperationalError("disk I/O error")

        self.database.engine.hook = break_down
        self.assertIsInstance(self.wait(self.database.write_short(_note, "lost")).value, DatabaseUnavailable)
        self.database.engine.hook = None
        self.wait(self.database.write_short(_note, "kept"))
        self.assertEqual(["kept"], [one for one in self.names() if one in ("lost", "kept")])

    def test_nobody_stands_still_for_somebody_elses_lock(self) -> None:
        other = self.outside()
        other.execute("BEGIN IMMEDIATE")
        result = self.database.write_short(_note, "patient")  # would wait for two seconds, and raise
        other.execute("ROLLBACK")
        self.assertNotEqual(self.here, self.wait(result))
        self.assertEqual(["patient"], [one for one in self.names() if one == "patient"])

    def test_what_takes_long_is_made_again_elsewhere(self) -> None:
        """And so are the next ones, for the disk may be to blame."""

        def slow(tx: Tx) -> int:
            _note(tx, "slow")
            self.time.advance(2 * STANDSTILL_S)
            return _note(tx, "after that")

        self.assertNotEqual(self.here, self.wait(self.database.write_short(slow)))
        where = [
            self.wait(self.database.write_short(_note, f"unit {number:02}")) for number in range(RESPITE + 2)
        ]
        self.assertEqual([False] * RESPITE + [True] * 2, [thread == self.here for thread in where])
        names = self.names()
        self.assertEqual(["after that", "slow"], [one for one in names if one in ("after that", "slow")])
        self.assertEqual(RESPITE + 2, len([one for one in names if one.startswith("unit")]))

    def test_a_file_that_vanished(self) -> None:
        os.rename(self.path, self.path + ".away")
        failure = self.wait(self.database.write_short(_note, "lost"))
        self.assertIsInstance(failure.value, DatabaseUnavailable)
        os.rename(self.path + ".away", self.path)
        self.wait(self.database.write_short(_note, "kept"))
        self.assertEqual(["kept"], [one for one in self.names() if one in ("lost", "kept")])
