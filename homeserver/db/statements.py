"""SQLAlchemy Core constructs, compiled once per dialect and run as plain text afterwards.

Running a prebuilt construct through SQLAlchemy's execution layer costs ten times the query itself (24 µs against
2 µs), so it serves as the language in which statements are written, and not as the road they travel on:

- ``statement(construct)`` wraps any select, insert, update or delete with named bind parameters;
- ``rows(table, columns, ...)`` is a bulk insert: many rows in one statement, so that the writer thread gives the
  interpreter lock away once per statement and not once per row;
- ``any_of(column, "nids")`` is "column is in this list", with one text for every length of the list;
- ``any_pair(column, other, "pairs")`` is the same for pairs of texts or integers, given as ``pairs_text(...)``.

A module that needs SQL holds its statements as constants and hands them to a ``Tx``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

import msgspec
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    LargeBinary,
    SelectBase,
    Table,
    Update,
    bindparam,
    func,
    literal_column,
    select,
)
from sqlalchemy import cast as as_kind
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import ClauseElement
from sqlalchemy.sql.elements import BindParameter
from sqlalchemy.types import Boolean, TypeEngine

SQLITE = "sqlite"
POSTGRESQL = "postgresql"
REQUIRED = "rows_required"
"""The parameter of :func:`as_condition`; no query has one of this name."""

_DIALECTS: dict[str, Dialect] = {
    SQLITE: sqlite.dialect(paramstyle="qmark"),
    POSTGRESQL: postgresql.dialect(paramstyle="format"),  # type: ignore[no-untyped-call]
}
# LIMIT(SQLite refuses a statement with more than 32,766 parameters): rows go in chunks of these sizes.
_CHUNK_SIZES = (256, 64, 16, 4, 2, 1)
# PostgreSQL's have casts: `(%s::BIGINT, %s::VARCHAR)`.
_ONE_ROW = re.compile(r" VALUES (\([^()]*\))")
# From so many rows on PostgreSQL is given an array for each column: it parses and plans a VALUES list value by value,
# which takes three times as long.
_ARRAYS_FROM = 64
_CAST = re.compile(r"%s::(\w+)")
_INTEGERS = frozenset({"BIGINT", "INTEGER", "SMALLINT"})
_TEXTS = frozenset({"TEXT", "VARCHAR", "TSVECTOR"})
_encode_json = msgspec.json.Encoder().encode


class AnyOf(ColumnElement[bool]):
    """``column IN (list bound at run time)``; see :func:`any_of`."""

    inherit_cache = False
    _is_implicitly_boolean = True  # else SQLite's dialect compares it with 1
    type: TypeEngine[bool] = Boolean()

    def __init__(self, column: ColumnElement[Any], name: str) -> None:
        self.column = column
        self.name = name
        self.bind: BindParameter[Any] = bindparam(name)


def any_of(column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
    """True where ``column`` is one of the values of the list given as parameter ``name``."""
    return AnyOf(column, name)


def _note_list(compiler: Any, name: str) -> None:
    compiler.__dict__.setdefault("list_names", set()).add(name)


@compiles(AnyOf, SQLITE)
def _any_of_sqlite(element: AnyOf, compiler: Any, **kw: Any) -> str:
    column = compiler.process(element.column, **kw)
    values = compiler.process(element.bind, **kw)
    _note_list(compiler, element.name)
    return f"{column} IN (SELECT value FROM json_each({values}))"  # noqa: S608 (a compiler hook: no user's text)


@compiles(AnyOf, POSTGRESQL)
def _any_of_postgresql(element: AnyOf, compiler: Any, **kw: Any) -> str:
    column = compiler.process(element.column, **kw)
    values = compiler.process(element.bind, **kw)
    _note_list(compiler, element.name)
    kind = element.column.type.compile(dialect=_DIALECTS[POSTGRESQL])
    return f"{column} = ANY({values}::{kind}[])"


class AnyPair(ColumnElement[bool]):
    """``(column, other) IN (pairs bound at run time)``; see :func:`any_pair`."""

    inherit_cache = False
    _is_implicitly_boolean = True
    type: TypeEngine[bool] = Boolean()

    def __init__(self, column: ColumnElement[Any], other: ColumnElement[Any], name: str) -> None:
        self.columns_ = (column, other)
        self.bind: BindParameter[str] = bindparam(name)


def any_pair(column: ColumnElement[Any], other: ColumnElement[Any], name: str) -> ColumnElement[bool]:
    """True where two columns are one of the pairs given as parameter ``name``, in ``pairs_text``'s form."""
    return AnyPair(column, other, name)


def pairs_text(pairs: Sequence[tuple[str | int, str | int]]) -> str:
    """Pairs as the parameter of :func:`any_pair`. No text may hold NUL."""
    return _encode_json(pairs).decode()


@compiles(AnyPair, SQLITE)
def _any_pair_sqlite(element: AnyPair, compiler: Any, **kw: Any) -> str:
    columns = ", ".join(compiler.process(one, **kw) for one in element.columns_)
    values = compiler.process(element.bind, **kw)
    parts = "json_extract(value, '$[0]'), json_extract(value, '$[1]')"
    return f"({columns}) IN (SELECT {parts} FROM json_each({values}))"  # noqa: S608 (as above)


@compiles(AnyPair, POSTGRESQL)
def _any_pair_postgresql(element: AnyPair, compiler: Any, **kw: Any) -> str:
    columns = ", ".join(compiler.process(one, **kw) for one in element.columns_)
    values = compiler.process(element.bind, **kw)
    kinds = [one.type.compile(dialect=_DIALECTS[POSTGRESQL]) for one in element.columns_]
    parts = ", ".join(f"(pair->>{place})::{kind}" for place, kind in enumerate(kinds))
    rows_ = f"jsonb_array_elements({values}::jsonb) AS pairs(pair)"
    return f"({columns}) IN (SELECT {parts} FROM {rows_})"  # noqa: S608 (as above)


class Utf8(ColumnElement[Any]):
    """A text as it lies in the file; see :func:`utf8`."""

    inherit_cache = False

    def __init__(self, column: ColumnElement[str]) -> None:
        self.column = column


def utf8(column: ColumnElement[str]) -> ColumnElement[Any]:
    """A text that is only passed on: SQLite gives its bytes (a third of the time), PostgreSQL the text; see ``to_utf8``."""
    return Utf8(column)


def to_utf8(value: str | bytes) -> bytes:
    """What a column of :func:`utf8` gave, as bytes."""
    return value if isinstance(value, bytes) else value.encode()


@compiles(Utf8, SQLITE)
def _utf8_sqlite(element: Utf8, compiler: Any, **kw: Any) -> str:
    return f"CAST({compiler.process(element.column, **kw)} AS BLOB)"


@compiles(Utf8, POSTGRESQL)
def _utf8_postgresql(element: Utf8, compiler: Any, **kw: Any) -> str:
    text: str = compiler.process(element.column, **kw)
    return text


@dataclass(frozen=True, slots=True)
class Text:
    """A compiled statement: its text, the names of its parameters in order, and its literals' values."""

    sql: str
    names: tuple[str, ...]
    lists: frozenset[str]
    literals: dict[str, Any]
    alike: tuple[Any, ...] = field(init=False)
    """What PostgreSQL prepares is the same where this is: constants are written into it, and parameters go by name."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "alike", (self.sql, self.names, tuple(self.literals.values())))

    def arguments(self, params: dict[str, Any], dialect: str) -> tuple[Any, ...]:
        if not self.lists and not self.literals:
            return tuple([params[name] for name in self.names])
        as_list = _sqlite_list if dialect == SQLITE else list
        values = {**self.literals, **params} if self.literals else params
        return tuple([as_list(values[name]) if name in self.lists else values[name] for name in self.names])


def prepared_form(
    text: Text, params: dict[str, Any], literal: Callable[[Any], str]
) -> tuple[str, tuple[str, ...]]:
    """A PostgreSQL statement with $1, $2… for its parameters, and their names in order.

    What is constant in the statement is written into it (by ``literal``), so that an index with a condition still fits.
    ``params`` are those of the first run: an integer where the text names no type would be taken for text.
    """
    pieces = text.sql.split("%s")
    parts = [pieces[0]]
    names: list[str] = []
    for name, piece in zip(text.names, pieces[1:], strict=True):
        if name in text.literals:
            parts.append(literal(text.literals[name]))
        else:
            names.append(name)
            untyped = isinstance(params[name], int) and not piece.startswith("::")
            parts.append(f"${len(names)}::BIGINT" if untyped else f"${len(names)}")
        parts.append(piece)
    return "".join(parts).replace("%%", "%"), tuple(names)


def _sqlite_list(values: Sequence[Any]) -> str:
    return _encode_json(list(values)).decode()


class Statement:
    """One statement with named parameters. ``build`` makes the construct for a dialect."""

    __slots__ = ("_texts", "build")

    def __init__(self, build: Callable[[str], ClauseElement]) -> None:
        self.build = build
        self._texts: dict[str, Text] = {}

    def text(self, dialect: str) -> Text:
        text = self._texts.get(dialect)
        if text is None:
            text = self._texts[dialect] = _compile(self.build(dialect), dialect)
        return text


class Together:
    """Several queries as one, each of whose columns is the answer of one of them as JSON: for PostgreSQL, where a round
    trip costs more than most queries. They may select integers, texts, booleans and NULL."""

    def __init__(self, parts: Sequence[Statement]) -> None:
        columns: list[str] = []
        names: list[str] = []
        lists: set[str] = set()
        literals: dict[str, Any] = {}
        for place, part in enumerate(parts):
            text = part.text(POSTGRESQL)
            selected = cast(SelectBase, part.build(POSTGRESQL)).selected_columns
            if any(isinstance(column.type, LargeBinary) for column in selected):
                raise ValueError(f"bytes do not travel as JSON: {text.sql}")
            fields = ", ".join(f"c{number}" for number in range(len(selected)))
            # The order of the rows is that of the query, and so that of the array.
            columns.append(
                f"(SELECT coalesce(json_agg(json_build_array({fields})), '[]')::text "  # noqa: S608 (no user's text)
                f"FROM ({text.sql}) AS answer ({fields}))"
            )
            names += [together_name(place, name) for name in text.names]
            lists.update(together_name(place, name) for name in text.lists)
            literals.update({together_name(place, name): value for name, value in text.literals.items()})
        # Compiled texts, and nobody else's.
        self.text = Text(" ".join(("SELECT", ", ".join(columns))), tuple(names), frozenset(lists), literals)


@cache
def as_condition(query: Statement) -> Text:
    """A query that fails (by a division) where a statement does not find, or change, ``REQUIRED`` rows: for PostgreSQL,
    see ``Tx.require``."""
    found = cast(SelectBase | Update, query.build(POSTGRESQL)).cte("found")
    is_met = as_kind(func.count() == bindparam(REQUIRED, type_=BigInteger), Integer)
    return _compile(select(literal_column("1", Integer) // is_met).select_from(found), POSTGRESQL)


def together_name(place: int, name: str) -> str:
    """What a parameter of one of several queries is called where they are one."""
    return f"{name}_of_{place}"


class Rows:
    """A bulk insert of tuples in the order of ``columns``; see :func:`rows`."""

    __slots__ = ("_arrays", "_columnwise", "_single", "_texts", "build", "columns", "table")

    def __init__(
        self,
        build: Callable[[str, list[dict[str, Any]]], ClauseElement],
        table: str,
        columns: tuple[str, ...],
    ) -> None:
        self.build = build
        self.table = table
        self.columns = columns
        self._texts: dict[tuple[str, int], str] = {}
        self._arrays: tuple[str, tuple[str, ...]] | None = None
        self._columnwise: Text | None = None
        self._single: Text | None = None

    def chunks(self, dialect: str, values: Sequence[tuple[Any, ...]]) -> list[tuple[str, list[Any]]]:
        """The statements that insert ``values``: texts and their flat arguments."""
        result: list[tuple[str, list[Any]]] = []
        start, left = 0, len(values)
        for size in _CHUNK_SIZES:
            while left >= size:
                part = values[start : start + size]
                if dialect == POSTGRESQL and size >= _ARRAYS_FROM and (arrays := self._as_arrays())[0]:
                    columns = zip(arrays[1], zip(*part, strict=True), strict=True)
                    result.append((arrays[0], [_array(kind, fields) for kind, fields in columns]))
                else:
                    result.append((self._text(dialect, size), [field for row in part for field in row]))
                start += size
                left -= size
        return result

    def _text(self, dialect: str, size: int) -> str:
        text = self._texts.get((dialect, size))
        if text is None:
            text = self._texts[(dialect, size)] = self._repeated(dialect, size)
        return text

    def _repeated(self, dialect: str, size: int) -> str:
        """SQLAlchemy takes 30 ms for a statement of 256 rows: it writes one row, which is repeated."""
        one = _compile(self.build(dialect, [dict.fromkeys(self.columns)]), dialect).sql
        found = _ONE_ROW.search(one)
        mark = "?" if dialect == SQLITE else "%s"
        if found is None or not one.count(mark) == found[1].count(mark) == len(self.columns):
            raise ValueError(f"not an insert of rows: {one}")
        return f"{one[: found.start(1)]}{', '.join([found[1]] * size)}{one[found.end(1) :]}"

    def prepared(self, values: Sequence[tuple[Any, ...]]) -> tuple[Text, dict[str, Any]] | None:
        """A statement to be prepared, and its parameters (PostgreSQL).

        Those of a single row are its values. Of any other number of rows they are an array for each column.
        """
        sql, kinds = self._as_arrays()
        if not sql:
            return None
        if len(values) == 1:
            if self._single is None:
                self._single = Text(self._text(POSTGRESQL, 1), self.columns, frozenset(), {})
            return self._single, dict(zip(self.columns, values[0], strict=True))
        if self._columnwise is None:
            self._columnwise = Text(sql, self.columns, frozenset(), {})
        columns = zip(self.columns, kinds, zip(*values, strict=True), strict=True)
        return self._columnwise, {name: _array(kind, fields) for name, kind, fields in columns}

    def _as_arrays(self) -> tuple[str, tuple[str, ...]]:
        """The statement that takes an array for each column, and their types; empty where a type has no such form."""
        if self._arrays is None:
            one = self._text(POSTGRESQL, 1)
            found = _ONE_ROW.search(one)
            kinds = tuple(_CAST.findall(found[1])) if found is not None else ()
            if (
                found is None
                or len(kinds) != len(self.columns)
                or not _INTEGERS.union(_TEXTS).issuperset(kinds)
            ):
                self._arrays = ("", ())
            else:
                source = ", ".join(f"%s::{kind}[]" for kind in kinds)
                text = f"{one[: found.start()]} SELECT * FROM unnest({source}){one[found.end() :]}"  # noqa: S608 (no user's text)
                self._arrays = (text, kinds)
        return self._arrays


def _array(kind: str, fields: Sequence[Any]) -> str:
    """A column's values in PostgreSQL's text form of arrays."""
    if kind in _INTEGERS:
        return "{" + ",".join(["NULL" if field is None else f"{field:d}" for field in fields]) + "}"
    quoted = [
        "NULL" if field is None else '"' + field.replace("\\", r"\\").replace('"', r"\"") + '"'
        for field in fields
    ]
    return "{" + ",".join(quoted) + "}"


def _compile(construct: ClauseElement, dialect: str) -> Text:
    compiled: Any = construct.compile(dialect=_DIALECTS[dialect])
    names = tuple(compiled.positiontup or ())
    params = compiled.params  # built anew at each access: with thousands of parameters, seconds
    literals = {name: params[name] for name in names if params[name] is not None}
    return Text(compiled.string, names, frozenset(getattr(compiled, "list_names", ())), literals)


def statement(construct: ClauseElement) -> Statement:
    """A statement that reads the same on both databases, with ``bindparam("name")`` for what changes."""
    return Statement(lambda _: construct)


def rows(
    table: Table, *columns: str, ignore: bool = False, keys: Sequence[str] = (), update: Sequence[str] = ()
) -> Rows:
    """An insert of many rows, each a tuple in the order of ``columns``.

    ``ignore=True`` leaves a row alone that is already there (with ``keys``: that has these columns already; of any other
    conflict the insert fails). ``keys`` and ``update`` name the columns of the conflict and those that then take the new
    row's values.
    """

    in_order = tuple(column.name for column in table.columns if column.name in columns)
    if columns != in_order:
        # Values are bound in the order of the table's columns, whatever order the template has.
        raise ValueError(f"the columns of {table.name} must be named in the table's order: {in_order}")

    def build(dialect: str, template: list[dict[str, Any]]) -> ClauseElement:
        # The two dialects' inserts have one interface and no common base that carries it.
        insert: Any = (sqlite.insert if dialect == SQLITE else postgresql.insert)(table).values(template)
        if ignore:
            return insert.on_conflict_do_nothing(index_elements=list(keys) or None)  # type: ignore[no-any-return]
        if keys:
            new = {name: insert.excluded[name] for name in update}
            return insert.on_conflict_do_update(index_elements=list(keys), set_=new)  # type: ignore[no-any-return]
        return insert  # type: ignore[no-any-return]

    return Rows(build, table.name, columns)


def compile_ddl(element: ClauseElement, dialect: str) -> str:
    """The text of a CREATE statement."""
    return str(element.compile(dialect=_DIALECTS[dialect]))
