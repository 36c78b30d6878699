"""Inserts of many rows have the text that SQLAlchemy would write, without its writing every row."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any
from unittest import TestCase

from sqlalchemy import BindParameter, bindparam, delete, func, select

from homeserver import store
from homeserver.db.schema.rooms import event_json, event_types, events
from homeserver.db.schema.sync import sliding_connections
from homeserver.db.statements import (
    POSTGRESQL,
    SQLITE,
    Rows,
    Statement,
    Together,
    any_of,
    compile_ddl,
    rows,
    statement,
)
from homeserver.db.tx import Ask, Tx
from tests.support.app import TestApp
from tests.support.databases import DatabaseCase, on_each_database

_COLUMNS = (
    "nid",
    "room_nid",
    "type_nid",
    "state_key_nid",
    "sender_nid",
    "event_id",
    "depth",
    "ts_ms",
    "auth_rank",
)
_TEXTS = statement(select(event_json.c.nid, event_json.c.json))
# Texts with what means something in one form of a statement or another.
_HARD = [
    "",
    "plain",
    "ü 🎂",
    "a\\b\\\\N",
    "\\N",
    "\t\n\r\b\f\v",
    "'\"%s%%\\.",
    "\\.\n",
    "{}",
    "NULL",
    '{"a",\\"}',
    " ",
]
_EVENTS = statement(select(*(events.c[name] for name in _COLUMNS)))


class RepeatedRows(TestCase):
    def test_the_text_is_that_of_the_compiler(self) -> None:
        found = 0
        for name, found_rows in _all_rows():
            for dialect in (SQLITE, POSTGRESQL):
                for size in (1, 2, 4):
                    template = [dict.fromkeys(found_rows.columns) for _ in range(size)]
                    ((text, arguments),) = found_rows.chunks(dialect, [(0,) * len(found_rows.columns)] * size)
                    self.assertEqual(compile_ddl(found_rows.build(dialect, template), dialect), text, name)
                    self.assertEqual(size * len(found_rows.columns), len(arguments))
            found += 1
        self.assertLess(30, found)


class _EnoughError(Exception):
    pass


@on_each_database
class Loaded(DatabaseCase):
    """What is loaded in bulk comes back as it was."""

    def setUp(self) -> None:
        self.app = TestApp(self, database=self.new_database())

    def read_back(self, query: Statement, write: Callable[[Tx], None]) -> list[Any]:
        """What is read in the transaction that wrote it; it is rolled back."""
        found: list[Any] = []

        def unit(tx: Tx) -> None:
            write(tx)
            found.extend(tx.all(query))
            raise _EnoughError

        with self.assertRaises(_EnoughError):
            self.app.wait(self.app.database.write(unit))
        return sorted(found)

    def loaded(self, inserted: Rows, values: list[tuple[Any, ...]], query: Statement) -> list[Any]:
        def write(tx: Tx) -> None:
            tx.load(inserted, [])
            tx.load(inserted, values)

        return self.read_back(query, write)

    def test_texts(self) -> None:
        values = [(number, text) for number, text in enumerate(_HARD, 1)]
        self.assertEqual(values, self.loaded(rows(event_json, "nid", "json"), values, _TEXTS))

    def test_inserts_of_every_size(self) -> None:
        """Whatever form the statement has: PostgreSQL is given arrays, by a prepared statement unless there are too many."""
        inserted = rows(event_json, "nid", "json")
        for count in (3, 64, 256, 341):
            values = [(number, _HARD[number % len(_HARD)]) for number in range(1, count + 1)]
            self.assertEqual(values, self.read_back(_TEXTS, lambda tx: tx.insert(inserted, values)))  # noqa: B023

    def test_one_row_at_a_time(self) -> None:
        """PostgreSQL is given its values; the second time the statement is prepared already."""
        texts: list[tuple[Any, ...]] = [(number, text) for number, text in enumerate(_HARD, 1)]
        numbers = [(-(2**62), 1, 2, None, 3, "$a", 4, -5, 6), (2**62, 1, 2, 7, 3, "$b", 0, 0, None)]
        for inserted, values, query in (
            (rows(event_json, "nid", "json"), texts, _TEXTS),
            (rows(events, *_COLUMNS), numbers, _EVENTS),
        ):

            def write(tx: Tx, inserted: Rows = inserted, values: list[tuple[Any, ...]] = values) -> None:
                for one in values:
                    tx.insert(inserted, [one])

            self.assertEqual(values, self.read_back(query, write))

    def test_what_was_given_up_before_it_was_sent(self) -> None:
        """PostgreSQL was then not told either what it was to prepare."""
        inserted = rows(event_json, "nid", "json")

        def give_up(tx: Tx) -> None:
            tx.insert(inserted, [(1, "x")])
            raise _EnoughError

        with self.assertRaises(_EnoughError):
            self.app.wait(self.app.database.write(give_up))
        self.assertEqual([(1, "x")], self.read_back(_TEXTS, lambda tx: tx.insert(inserted, [(1, "x")])))

    def test_many_numbers(self) -> None:
        values = [
            (number, 1, 2, number % 3 or None, 3, f"${number:03}", -(2**62), 2**62, number % 5 or None)
            for number in range(1, 101)
        ]
        inserted = rows(events, *_COLUMNS)
        self.assertEqual(values, self.read_back(_EVENTS, lambda tx: tx.insert(inserted, values)))

    def test_many_rows_that_are_there_already(self) -> None:
        first = [(number, "old") for number in range(1, 101)]
        second = [(number, f"new {number}") for number in range(51, 201)]
        replacing = rows(event_json, "nid", "json", keys=("nid",), update=("json",))
        leaving = rows(event_json, "nid", "json", ignore=True)
        for inserted, expected in (
            (replacing, {**dict(first), **dict(second)}),
            (leaving, {**dict(second), **dict(first)}),
        ):

            def write(tx: Tx, inserted: Rows = inserted) -> None:
                tx.insert(inserted, first)
                tx.insert(inserted, second)

            self.assertEqual(sorted(expected.items()), self.read_back(_TEXTS, write))

    def test_numbers(self) -> None:
        values = [
            (-(2**62), 1, 2, None, 3, "$a", 4, -5, 6),
            (2**62, 1, 2, 7, 3, "$b", 0, 0, None),
        ]
        self.assertEqual(values, self.loaded(rows(events, *_COLUMNS), values, _EVENTS))


def _all_rows() -> Iterator[tuple[str, Rows]]:
    for module in pkgutil.walk_packages(store.__path__, store.__name__ + "."):
        for name, value in vars(import_module(module.name)).items():
            if isinstance(value, Rows):
                yield f"{module.name}.{name}", value


_LONG = statement(select(func.count()).select_from(func.generate_series(1, bindparam("most"))))
_SHORT = statement(select(event_json.c.nid))


@on_each_database
class Limited(DatabaseCase):
    """Statements that may only take so long, where the database can be stopped."""

    def test_what_takes_too_long_is_none_and_the_unit_goes_on(self) -> None:
        app = TestApp(self, "sqlite::memory:" if self.dialect == SQLITE else self.new_database())

        def unit(tx: Tx) -> None:
            self.assertEqual([], tx.all_within(60_000, _SHORT))
            if self.dialect == POSTGRESQL:
                self.assertIsNone(tx.all_within(1, _LONG, most=10**9))
                self.assertEqual([], tx.all_within(60_000, _SHORT))

        for _ in range(2):  # the second time the statements are prepared already
            app.wait(app.database.read(unit))


_ROOM: BindParameter[int] = bindparam("room_nid")
_NO_EVENTS = statement(delete(events))
_IDS_IN = statement(
    select(events.c.nid, events.c.event_id).where(events.c.room_nid == _ROOM).order_by(events.c.nid)
)
_KEYS_IN = statement(select(events.c.state_key_nid).where(events.c.room_nid == _ROOM).order_by(events.c.nid))
_RANKS_OF = statement(select(events.c.auth_rank).where(any_of(events.c.nid, "nids")).order_by(events.c.nid))
_BYTES = statement(select(sliding_connections.c.state))


@on_each_database
class Alike(DatabaseCase):
    """Statements of one text, which two modules may well have, that differ in what is constant or in their names."""

    def test_each_is_answered_for_itself(self) -> None:
        app = TestApp(self, database=self.new_database())
        column = event_types.c.type
        first, second = (statement(select(column).where(event_types.c.nid == nid)) for nid in (1, 2))
        by_nid, by_number = (
            statement(select(column).where(event_types.c.nid == bindparam(name)))
            for name in ("nid", "number")
        )

        def ask(tx: Tx) -> list[str]:
            return [tx.value(first), tx.value(second), tx.value(by_nid, nid=3), tx.value(by_number, number=4)]

        for _ in range(2):
            expected = ["m.room.create", "m.room.member", "m.room.power_levels", "m.room.join_rules"]
            self.assertEqual(expected, app.wait(app.database.read(ask)))


@on_each_database
class Ahead(DatabaseCase):
    """Queries that are announced before they are asked."""

    def setUp(self) -> None:
        self.app = TestApp(self, "sqlite::memory:" if self.dialect == SQLITE else self.new_database())
        values = [(nid, nid % 2, 1, None, 1, f'"%\\ü{nid}', 1, 0, nid * 2**33) for nid in range(1, 6)]
        self.app.wait(self.app.database.write(lambda tx: tx.insert(rows(events, *_COLUMNS), values)))
        # They are events of no room: the invariants are looked at in the end.
        self.addCleanup(lambda: self.app.wait(self.app.database.write(lambda tx: tx.run(_NO_EVENTS))))

    def test_answers_are_the_same_as_without(self) -> None:
        def ask(tx: Tx) -> list[Any]:
            return [tx.ask(one) for one in self.asks()]

        def announce(tx: Tx) -> list[Any]:
            tx.ahead(self.asks())
            return ask(tx)

        for _ in range(2):  # the second time the statements are prepared already
            plain = self.app.wait(self.app.database.read(ask))
            self.assertEqual([(1, '"%\\ü1'), (3, '"%\\ü3'), (5, '"%\\ü5')], plain[0])
            self.assertEqual([(None,), (None,)], plain[1])
            self.assertEqual([(2**34,), (5 * 2**33,)], plain[2])
            self.assertEqual([], plain[3])
            self.assertEqual(plain, self.app.wait(self.app.database.read(announce)))

    def test_other_parameters_are_asked_for(self) -> None:
        def unit(tx: Tx) -> list[Any]:
            tx.ahead(self.asks())
            return [
                tx.column(_IDS_IN, room_nid=0),
                tx.column(_IDS_IN, room_nid=1),
                tx.column(_IDS_IN, room_nid=1),
            ]

        self.assertEqual([[2, 4], [1, 3, 5], [1, 3, 5]], self.app.wait(self.app.database.read(unit)))

    def test_what_is_written_meanwhile_is_seen(self) -> None:
        def unit(tx: Tx) -> list[int]:
            tx.ahead(self.asks())
            tx.insert(rows(events, *_COLUMNS), [(7, 1, 1, None, 1, "seven", 1, 0, None)])
            return tx.column(_IDS_IN, room_nid=1)

        self.assertEqual([1, 3, 5, 7], self.app.wait(self.app.database.write(unit)))

    def test_bytes_are_refused(self) -> None:
        with self.assertRaises(ValueError):
            Together([_BYTES, _IDS_IN])

    def asks(self) -> list[Ask]:
        return [
            Ask(_IDS_IN, {"room_nid": 1}),
            Ask(_KEYS_IN, {"room_nid": 0}),
            Ask(_RANKS_OF, {"nids": [2, 5]}),
            Ask(_IDS_IN, {"room_nid": 9}),
        ]
