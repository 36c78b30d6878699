"""Whole tables as rows, in a form that both databases read: for backups.

Tables are read page by page in the order of their primary keys, all of them in one transaction, so that what is read
is the database of one moment while the server goes on writing. A page is bounded in rows and in size: users decide how
large many rows are, and 500 of the largest would not fit into a small machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import LargeBinary, Table, Text, bindparam, delete, func, literal, select, tuple_

from homeserver.db.schema import metadata
from homeserver.db.schema.accounts import accounts
from homeserver.db.schema.rooms import rooms as rooms_table
from homeserver.db.statements import Rows, Statement, rows, statement
from homeserver.db.tx import Row, Tx

PAGE_ROWS = 500
PAGE_LENGTH = 4 * 1024 * 1024
"""In characters and bytes; a page ends with the row that reaches it."""

_ANY_ACCOUNT = statement(select(accounts.c.user_nid).limit(1))
_ANY_ROOM = statement(select(rooms_table.c.nid).limit(1))


def table_names() -> tuple[str, ...]:
    """Every table."""
    return tuple(str(table.name) for table in metadata.sorted_tables)


def column_names(table_name: str) -> tuple[str, ...]:
    """The columns of a table in the order of its rows."""
    return tuple(str(column.name) for column in metadata.tables[table_name].c)


def is_row(table_name: str, row: Row) -> bool:
    """Whether values from a file have the number and the kinds of this table's columns."""
    kinds = _kinds(table_name)
    return len(row) == len(kinds) and all(
        type(value) is kind or value is None for value, kind in zip(row, kinds, strict=True)
    )


def read_table(tx: Tx, table_name: str) -> Iterator[list[Row]]:
    """Every row, a page at a time."""
    page, following, key_places = _statements(table_name)
    after: dict[str, Any] = {}
    # Lengths first: an answer is in memory before anybody can say that it is too much. And each of them once: to tell it,
    # the database reads the whole value.
    while lengths := tx.column(page.lengths, most=PAGE_ROWS, **after):
        for count in _cut(lengths):
            found = tx.all(page.rows, most=count, **after)
            yield found
            page = following
            after = {f"after_{number}": found[-1][place] for number, place in enumerate(key_places)}


def _cut(lengths: Sequence[int]) -> Iterator[int]:
    """How many rows to read at a time: each time up to the one that fills a page."""
    count = length = 0
    for one in lengths:
        count, length = count + 1, length + one
        if length >= PAGE_LENGTH:
            yield count
            count = length = 0
    if count:
        yield count


def clear_tables(tx: Tx) -> None:
    """Take away what a new database starts with."""
    for name in table_names():
        tx.run(_delete(name))


def insert_rows(tx: Tx, table_name: str, values: Sequence[Row]) -> None:
    """Add rows to a table, and wait until they are there."""
    tx.insert(_insert(table_name), values)
    # A question: it keeps PostgreSQL's writes from piling up in memory.
    tx.value(_ANY_ACCOUNT)


def is_used(tx: Tx) -> bool:
    """Whether anybody has an account here or is in a room."""
    return tx.value(_ANY_ACCOUNT) is not None or tx.value(_ANY_ROOM) is not None


class _Page(NamedTuple):
    """What asks for the rows of a page, and for the length of each."""

    rows: Statement
    lengths: Statement


@cache
def _statements(table_name: str) -> tuple[_Page, _Page, tuple[int, ...]]:
    """The first page, a following page, and which columns are the key."""
    table = metadata.tables[table_name]
    keys = list(table.primary_key.columns)
    columns = list(table.c)
    long = [column for column in columns if isinstance(column.type, Text | LargeBinary)]
    length = sum((func.coalesce(func.length(column), 0) for column in long), literal(0))
    rows_of, lengths_of = (
        asked.order_by(*keys).limit(bindparam("most"))
        for asked in (select(*columns), select(length).select_from(table))
    )
    bounds = [bindparam(f"after_{number}", type_=key.type) for number, key in enumerate(keys)]
    beyond = keys[0] > bounds[0] if len(keys) == 1 else tuple_(*keys) > tuple_(*bounds)
    first = _Page(statement(rows_of), statement(lengths_of))
    following = _Page(statement(rows_of.where(beyond)), statement(lengths_of.where(beyond)))
    return first, following, tuple(columns.index(key) for key in keys)


@cache
def _kinds(table_name: str) -> tuple[type, ...]:
    return tuple(column.type.python_type for column in metadata.tables[table_name].c)


@cache
def _insert(table_name: str) -> Rows:
    return rows(metadata.tables[table_name], *column_names(table_name))


@cache
def _delete(table_name: str) -> Statement:
    table: Table = metadata.tables[table_name]
    return statement(delete(table))
