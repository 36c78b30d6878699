"""Inserts of many rows have the text that SQLAlchemy would write, without its writing every row."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from unittest import TestCase

from homeserver import store
from homeserver.db.statements import POSTGRESQL, SQLITE, Rows, compile_ddl


class RepeatedRows(TestCase):
    def test_the_text_is_that_of_the_compiler(self) -> None:
        found = 0
        for name, rows in _all_rows():
            for dialect in (SQLITE, POSTGRESQL):
                for size in (1, 2, 4):
                    template = [dict.fromkeys(rows.columns) for _ in range(size)]
                    ((text, arguments),) = rows.chunks(dialect, [(0,) * len(rows.columns)] * size)
                    self.assertEqual(compile_ddl(rows.build(dialect, template), dialect), text, name)
                    self.assertEqual(size * len(rows.columns), len(arguments))
            found += 1
        self.assertLess(30, found)


def _all_rows() -> Iterator[tuple[str, Rows]]:
    for module in pkgutil.walk_packages(store.__path__, store.__name__ + "."):
        for name, value in vars(import_module(module.name)).items():
            if isinstance(value, Rows):
                yield f"{module.name}.{name}", value
