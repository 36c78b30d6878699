"""Inserts of many rows have the text that SQLAlchemy would write, without its writing every row."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from typing import Any
from unittest import TestCase

from sqlalchemy import select

from homeserver import store
from homeserver.db.schema.rooms import event_json, events
from homeserver.db.statements import POSTGRESQL, SQLITE, Rows, Statement, compile_ddl, rows, statement
from homeserver.db.tx import Tx
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

    def loaded(self, inserted: Rows, values: list[tuple[Any, ...]], query: Statement) -> list[Any]:
        """What is read in the transaction that loaded it; it is rolled back."""
        found: list[Any] = []

        def unit(tx: Tx) -> None:
            tx.load(inserted, [])
            tx.load(inserted, values)
            found.extend(tx.all(query))
            raise _EnoughError

        with self.assertRaises(_EnoughError):
            self.app.wait(self.app.database.write(unit))
        return sorted(found)

    def test_texts(self) -> None:
        texts = ["", "plain", "ü 🎂", "a\\b\\\\N", "\\N", "\t\n\r\b\f\v", "'\"%s%%\\.", "\\.\n", "{}"]
        values = [(number, text) for number, text in enumerate(texts, 1)]
        self.assertEqual(values, self.loaded(rows(event_json, "nid", "json"), values, _TEXTS))

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
