"""The databases that tests get: fresh, apart from each other, and gone afterwards."""

from __future__ import annotations

import os
import sqlite3
import sys

import psycopg2
from twisted.trial import unittest

from homeserver.db.schema import metadata
from tests.support import databases, postgres


def _statements(url: str, *statements: str) -> list[tuple[object, ...]]:
    connection = (
        sqlite3.connect(url.removeprefix("sqlite:")) if url.startswith("sqlite") else psycopg2.connect(url)
    )
    try:
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        rows = cursor.fetchall() if statements[-1].startswith("SELECT") else []
        connection.commit()
    finally:
        connection.close()
    return list(rows)


def _one_table(url: str) -> None:
    _statements(
        url, "CREATE TABLE thing (name VARCHAR(20) PRIMARY KEY)", "INSERT INTO thing VALUES ('made once')"
    )


@databases.on_each_database
class FreshDatabase(databases.DatabaseCase):
    """A database from a template."""

    def test_has_the_template_and_shares_nothing(self) -> None:
        first, second = self.new_database(_one_table), self.new_database(_one_table)
        _statements(first, "INSERT INTO thing VALUES ('mine')")
        self.assertEqual(
            _statements(first, "SELECT name FROM thing ORDER BY name"), [("made once",), ("mine",)]
        )
        self.assertEqual(_statements(second, "SELECT name FROM thing"), [("made once",)])
        self.assertEqual(first.split(":", 1)[0], self.dialect)

    def test_has_the_whole_schema(self) -> None:
        url = self.new_database()
        names = (
            "SELECT name FROM sqlite_master"
            if self.dialect == databases.SQLITE
            else "SELECT tablename FROM pg_tables"
        )
        tables = {str(name) for (name,) in _statements(url, names)}
        self.assertEqual(set(metadata.tables) - tables, set())

    def test_is_dropped_under_an_open_connection(self) -> None:
        database = databases.make_database(self.dialect, databases.no_schema)
        _statements(database.url, "CREATE TABLE thing (name INTEGER)")
        if self.dialect == databases.POSTGRESQL:
            held = psycopg2.connect(database.url)
            self.addCleanup(held.close)
            database.drop()
            self.assertRaises(psycopg2.OperationalError, psycopg2.connect, database.url)
        else:
            database.drop()
            self.assertFalse(os.path.exists(database.url.removeprefix("sqlite:")))


class Decorator(unittest.TestCase):
    """What `on_each_database` leaves in a module."""

    def test_two_classes_and_no_third(self) -> None:
        module = sys.modules[__name__]
        names = [name for name in dir(module) if name.startswith("FreshDatabase") and getattr(module, name)]
        self.assertEqual(names, ["FreshDatabaseOnPostgresql", "FreshDatabaseOnSqlite"])

    def test_unknown_dialect(self) -> None:
        self.assertRaises(ValueError, databases.make_database, "oracle")


class Unavailable(unittest.TestCase):
    """No PostgreSQL: the reason reaches whoever asks."""

    def test_reason_from_the_runner(self) -> None:
        postgres._outcome.cache_clear()
        self.addCleanup(postgres._outcome.cache_clear)
        self.patch(os, "environ", {**os.environ, postgres.ADDRESS_VARIABLE: "none: not today"})
        for _ in range(2):
            error = self.assertRaises(postgres.PostgresUnavailable, postgres.server_url)
            self.assertEqual(str(error), "not today")
