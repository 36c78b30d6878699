"""One test class, run on SQLite and on a real PostgreSQL, with a fresh database for whoever asks.

    @on_each_database
    class Commits(DatabaseCase):
        def test_order(self) -> None:
            engine = open_engine(self.new_database())

makes `CommitsOnSqlite` and `CommitsOnPostgresql` in the test's module. A fresh database holds the whole schema: it is
made once per process and dialect and then copied, a file for SQLite and `CREATE DATABASE … TEMPLATE` for PostgreSQL
(15 ms, against 200 ms or more for running the migrations). Without PostgreSQL the second class is skipped, with the
reason printed; `CHAOS_TEST_POSTGRES_REQUIRED=1` makes that a failure.

Contract: 1. Addresses are what the configuration's `database` takes. 2. `drop` is safe while connections are open.
3. Nothing is shared between two databases of one template.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import importlib.util
import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg2
from psycopg2 import sql
from twisted.trial import unittest

from homeserver.db.engine import open_engine
from homeserver.db.migrate import upgrade
from homeserver.db.tx import Tx
from tests.support import postgres

SQLITE = "sqlite"
POSTGRESQL = "postgresql"
DIALECTS = (SQLITE, POSTGRESQL)
REQUIRED_VARIABLE = "CHAOS_TEST_POSTGRES_REQUIRED"

Prepare = Callable[[str], None]


def apply_schema(url: str) -> None:
    """Bring the database at `url` to the current schema, as the server does at its start."""
    upgrade(url)


def problems_in(url: str) -> Sequence[object]:
    """What the consistency checker finds in a database."""
    # By name: the checker is younger than the tests that use it.
    if importlib.util.find_spec("homeserver.store.check") is None:
        return ()
    check: Callable[[Tx], Sequence[object]] = importlib.import_module("homeserver.store.check").check_db
    session = open_engine(url).reader()
    try:
        return session.run(check)
    finally:
        session.close()


def no_schema(url: str) -> None:
    """For tests of the migrations themselves: leave the database empty."""


@dataclass(frozen=True, slots=True)
class TestDatabase:
    """A database of one test."""

    dialect: str
    url: str
    release: Callable[[], None]

    # Not a test class, whatever a collector may think of its name.
    __test__ = False

    def drop(self) -> None:
        """Remove it; a second time does nothing."""
        self.release()


class PostgresServer:
    """The run's server, as one process sees it: templates, and databases made from them."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._names = itertools.count()
        self._templates: dict[Prepare, str] = {}
        self._connection = psycopg2.connect(url)
        self._connection.autocommit = True
        with self._connection.cursor() as cursor:
            cursor.execute("SHOW server_version_num")
            row = cursor.fetchone()
            version = int(row[0]) if row is not None else 0
        # A plain copy of files; since 15 that is no longer the default, and three times as fast for a small template.
        self._strategy = sql.SQL(" STRATEGY file_copy" if version >= 150000 else "")

    def _execute(self, text: str, *names: str) -> None:
        statement = sql.SQL(text).format(*map(sql.Identifier, names), strategy=self._strategy)
        with self._connection.cursor() as cursor:
            cursor.execute(statement)

    def _new_name(self, kind: str) -> str:
        return f"{kind}_{os.getpid()}_{next(self._names)}"

    def address(self, name: str) -> str:
        return urlunsplit(urlsplit(self._url)._replace(path=f"/{name}"))

    def _template(self, prepare: Prepare) -> str:
        known = self._templates.get(prepare)
        if known is None:
            known = self._new_name("template")
            self._execute("CREATE DATABASE {} TEMPLATE template0{strategy}", known)
            prepare(self.address(known))
            self._templates[prepare] = known
        return known

    def create(self, prepare: Prepare) -> TestDatabase:
        name = self._new_name("test")
        self._execute("CREATE DATABASE {} TEMPLATE {}{strategy}", name, self._template(prepare))
        return TestDatabase(POSTGRESQL, self.address(name), functools.partial(self.drop, name))

    def drop(self, name: str) -> None:
        self._execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)

    def close(self) -> None:
        """Drop the templates too: the server may be the developer's own."""
        for name in self._templates.values():
            self.drop(name)
        self._templates.clear()
        self._connection.close()


class SqliteFolder:
    """A folder of database files, copied from templates."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="chaos-sqlite-"))
        self._names = itertools.count()
        self._templates: dict[Prepare, Path] = {}

    def _template(self, prepare: Prepare) -> Path:
        known = self._templates.get(prepare)
        if known is None:
            known = self._folder / f"template-{next(self._names)}.db"
            prepare(f"sqlite:{known}")
            self._templates[prepare] = known
        return known

    def create(self, prepare: Prepare) -> TestDatabase:
        template = self._template(prepare)
        path = self._folder / f"test-{next(self._names)}.db"
        for suffix in ("", "-wal"):
            source = template.with_name(template.name + suffix)
            if source.exists():
                shutil.copyfile(source, path.with_name(path.name + suffix))
        return TestDatabase(SQLITE, f"sqlite:{path}", functools.partial(self.drop, path))

    def drop(self, path: Path) -> None:
        for suffix in ("", "-wal", "-shm", "-journal"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


@functools.cache
def _server() -> PostgresServer:
    server = PostgresServer(postgres.server_url())
    # Registered after the server's own end was, so it runs before it.
    atexit.register(server.close)
    return server


@functools.cache
def _folder() -> SqliteFolder:
    folder = SqliteFolder()
    atexit.register(folder.close)
    return folder


def make_database(dialect: str, prepare: Prepare = apply_schema) -> TestDatabase:
    """A fresh database of the dialect; PostgresUnavailable where it cannot be had. The caller drops it."""
    if dialect == SQLITE:
        return _folder().create(prepare)
    if dialect == POSTGRESQL:
        return _server().create(prepare)
    raise ValueError(f"no such dialect: {dialect}")


class DatabaseCase(unittest.TestCase):
    """A test case that runs on one dialect; decorate it with `on_each_database`."""

    dialect: str = SQLITE
    # A test that breaks its database on purpose says False.
    check_databases: bool = True

    def run(self, result: Any = None) -> Any:
        if self.dialect == POSTGRESQL:
            try:
                postgres.server_url()
            except postgres.PostgresUnavailable as error:
                if os.environ.get(REQUIRED_VARIABLE):
                    raise
                # trial reads it from the instance.
                self.skip = f"PostgreSQL: {error}"
        return super().run(result)

    def new_database(self, prepare: Prepare = apply_schema) -> str:
        """The address of a fresh database, checked for consistency and dropped when the test is over."""
        database = make_database(self.dialect, prepare)
        self.addCleanup(database.drop)
        if prepare is apply_schema and self.check_databases:
            self.addCleanup(self._check, database.url)
        return database.url

    def _check(self, url: str) -> None:
        problems = problems_in(url)
        if problems:
            self.fail("the test left an inconsistent database:\n" + "\n".join(map(str, problems)))


def on_each_database(case: type[DatabaseCase]) -> None:
    """Replace the decorated class by one per dialect, in its own module.

    The decorated name itself becomes None, so that no loader runs the class a third time.
    """
    module = sys.modules[case.__module__]
    for dialect in DIALECTS:
        name = f"{case.__name__}On{dialect.capitalize()}"
        members = {
            "dialect": dialect,
            "__module__": case.__module__,
            "__qualname__": name,
            "__doc__": case.__doc__,
        }
        setattr(module, name, type(name, (case,), members))
