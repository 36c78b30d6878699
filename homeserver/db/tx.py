"""A transaction as a function over it sees it.

Functions of ``homeserver.store`` take a ``Tx`` first and are otherwise ordinary functions: they may run any number
of statements in their one hop to a database thread. Rules:

1. A ``Tx`` MUST NOT outlive the function that it was given to.
2. ``run``, ``insert`` and ``require`` MAY be delayed until the next read or the commit (PostgreSQL sends them together, in
   one round trip), so an error of theirs shows there.
3. What carries a position MUST be written by ``WriteTx.claim``, never with a position taken earlier: positions are
   taken last in the transaction, under the lock of the ``stream`` row.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import msgspec
import psycopg2.errors

from homeserver.db.errors import Conflict, TakesLong
from homeserver.db.statements import (
    POSTGRESQL,
    REQUIRED,
    SQLITE,
    Rows,
    Statement,
    Text,
    Together,
    as_condition,
    prepared_form,
    together_name,
)

Row = tuple[Any, ...]
_decode_rows = msgspec.json.Decoder(list[tuple]).decode  # type: ignore[type-arg]


class Ask(NamedTuple):
    """A query with its parameters."""

    statement: Statement
    params: dict[str, Any]


class Tx:
    """Statements over one transaction; see the two dialects below."""

    dialect: str

    def all(self, statement: Statement, /, **params: Any) -> list[Row]:
        """Every row of the answer."""
        raise NotImplementedError

    def all_within(self, limit_ms: int, statement: Statement, /, **params: Any) -> list[Row] | None:
        """As :meth:`all`, or None where the database needs longer; the last statement of its unit.

        LIMIT(SQLite: within its text index it cannot be stopped, and takes the time that it takes.)
        """
        raise NotImplementedError

    def require(self, count: int, statement: Statement, /, **params: Any) -> None:
        """Go on only where a query finds so many rows, or an update returns them: else the transaction fails with ``Conflict``."""
        if len(self.all(statement, **params)) != count:
            raise Conflict("the database is not what this was built on")

    def run(self, statement: Statement, /, **params: Any) -> None:
        """Run for its effect."""
        raise NotImplementedError

    def insert(self, rows: Rows, values: Sequence[Row]) -> None:
        """Insert many rows."""
        raise NotImplementedError

    def load(self, rows: Rows, values: Sequence[Row]) -> None:
        """Insert hundreds of rows of integers, texts and None, none of which may be there already."""
        self.insert(rows, values)

    def script(self, sql: str) -> None:
        """Run a constant text without parameters (savepoints, pragmas)."""
        raise NotImplementedError

    def ask(self, ask: Ask) -> list[Row]:
        """Every row of the answer."""
        return self.all(ask.statement, **ask.params)

    def ahead(self, asks: Sequence[Ask]) -> None:
        """A hint: these are about to be asked, with these very parameters, before anything is written.

        PostgreSQL answers them in one round trip, and ``all`` then gives what it said. SQLite has no round trips.
        """

    def one(self, statement: Statement, /, **params: Any) -> Row | None:
        """The first row, if any."""
        found = self.all(statement, **params)
        return found[0] if found else None

    def value(self, statement: Statement, /, **params: Any) -> Any:
        """The first column of the first row, or None."""
        found = self.all(statement, **params)
        return found[0][0] if found else None

    def column(self, statement: Statement, /, **params: Any) -> list[Any]:
        """The first column of every row."""
        return [row[0] for row in self.all(statement, **params)]


StatementHook = Callable[[str], None]


class SqliteTx(Tx):
    """Statements on a sqlite3 connection. ``hook`` sees each text before it runs (faults in tests)."""

    def __init__(
        self, connection: Any, hook: StatementHook | None = None, is_late: Callable[[], bool] | None = None
    ) -> None:
        """Once ``is_late()`` the next statement raises ``TakesLong`` instead."""
        self.dialect = SQLITE
        self._connection = connection
        self._hook = hook
        self._is_late = is_late
        self.statements = 0

    def _execute(self, sql: str, arguments: Any = ()) -> Any:
        self.statements += 1
        if self._is_late is not None and self._is_late():
            raise TakesLong(f"{self.statements} statements")
        if self._hook is not None:
            self._hook(sql)
        return self._connection.execute(sql, arguments)

    def all(self, statement: Statement, /, **params: Any) -> list[Row]:
        text = statement.text(SQLITE)
        return self._execute(text.sql, text.arguments(params, SQLITE)).fetchall()  # type: ignore[no-any-return]

    def all_within(self, limit_ms: int, statement: Statement, /, **params: Any) -> list[Row] | None:  # noqa: ARG002
        return self.all(statement, **params)

    def run(self, statement: Statement, /, **params: Any) -> None:
        text = statement.text(SQLITE)
        self._execute(text.sql, text.arguments(params, SQLITE))

    def insert(self, rows: Rows, values: Sequence[Row]) -> None:
        for sql, arguments in rows.chunks(SQLITE, values):
            self._execute(sql, arguments)

    def script(self, sql: str) -> None:
        self._execute(sql)


class Prepared:
    """The statements that one connection has prepared: planning costs three times what running them does.

    Names are never used twice, so a PREPARE that may have failed is simply made again under another.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], tuple[str, tuple[str, ...]]] = {}
        self._fresh: list[tuple[Any, ...]] = []
        self._count = 0

    def queue(self, cursor: Any, text: Text, params: dict[str, Any]) -> list[bytes]:
        """What to send to run a statement with these parameters."""
        key = text.alike
        found = self._known.get(key)
        first: list[bytes] = []
        if found is None:
            sql, names = prepared_form(text, params, lambda value: cursor.mogrify("%s", (value,)).decode())
            self._count += 1
            execute = f"EXECUTE chaos_{self._count}"
            if names:
                execute += "(" + ",".join(["%s"] * len(names)) + ")"
            first.append(f"PREPARE chaos_{self._count} AS {sql}".encode())
            found = self._known[key] = (execute, names)
            self._fresh.append(key)
        execute, names = found
        values = tuple([list(params[name]) if name in text.lists else params[name] for name in names])
        return [*first, cursor.mogrify(execute, values)]

    def settle(self, *, made: bool) -> None:
        """What was queued has run, or has failed or was given up: then what was to be prepared with it may not be there.

        A transaction that is rolled back keeps the statements that were prepared in it.
        """
        if self._fresh and not made:
            for key in self._fresh:
                self._known.pop(key, None)
        self._fresh.clear()


# What has a meaning in the text form of COPY.
_COPY_ESCAPES = str.maketrans(
    {"\\": r"\\", "\b": r"\b", "\f": r"\f", "\n": r"\n", "\r": r"\r", "\t": r"\t", "\v": r"\v"}
)


def copied(values: Sequence[Row]) -> bytes:
    """Rows in the text form of COPY."""
    lines = [
        "\t".join(
            [
                r"\N"
                if field is None
                else field.translate(_COPY_ESCAPES)
                if type(field) is str
                else str(field)
                for field in row
            ]
        )
        for row in values
    ]
    return "\n".join([*lines, ""]).encode()


_TOGETHER_FROM = 2
_GENERIC = b"SET LOCAL plan_cache_mode = force_generic_plan"
_BY_COST = b"SET LOCAL plan_cache_mode = auto"
# Rows of one prepared insert; more go in pieces.
_PREPARED_MOST = 256


@cache
def _as_one(parts: tuple[Statement, ...]) -> Together:
    """Bounded by the places in the code that ask ahead, times what each may leave out."""
    return Together(parts)


class PostgresTx(Tx):
    """Statements on a psycopg2 connection in autocommit mode, whose BEGIN and COMMIT are part of the queue.

    Writes wait in ``_queue`` and travel with the next read or the commit: a batch of one message costs one round trip
    and not ten.
    """

    def __init__(
        self, cursor: Any, begin: str, hook: StatementHook | None = None, prepared: Prepared | None = None
    ) -> None:
        self.dialect = POSTGRESQL
        self._prepared = prepared
        self._cursor = cursor
        self._hook = hook
        self._queue: list[bytes] = [begin.encode()]
        self._ahead: dict[Statement, list[tuple[dict[str, Any], list[Row]]]] = {}
        self._generic = False  # whether plans are made without looking at parameters
        self.begun = False  # whether the server has been told anything
        self.statements = 0

    def _put(self, sql: str, arguments: Any) -> None:
        self._ahead.clear()  # what was answered ahead may be otherwise after it
        self._see(sql)
        self._queue.append(self._spell(sql, arguments))

    def all(self, statement: Statement, /, **params: Any) -> list[Row]:
        for at, (asked, found) in enumerate(self._ahead.get(statement, ())):
            if asked == params:
                del self._ahead[statement][at]
                return found
        text = statement.text(POSTGRESQL)
        self._see(text.sql)
        return self._fetch(text, params)

    def require(self, count: int, statement: Statement, /, **params: Any) -> None:
        text = as_condition(statement)
        params = {**params, REQUIRED: count}
        self._see(statement.text(POSTGRESQL).sql)
        if self._prepared is None:
            self._queue.append(self._spell(text.sql, text.arguments(params, POSTGRESQL)))
        else:
            self._queue += self._prepared.queue(self._cursor, text, params)

    def _spell(self, sql: str, arguments: Any) -> bytes:
        return self._cursor.mogrify(sql, arguments) if arguments else sql.replace("%%", "%").encode()

    def _see(self, sql: str) -> None:
        self.statements += 1
        if self._hook is not None:
            self._hook(sql)

    def _fetch(self, text: Text, params: dict[str, Any], *, generic: bool = False) -> list[Row]:
        if self._prepared is None:
            self._queue.append(self._spell(text.sql, text.arguments(params, POSTGRESQL)))
        else:
            if generic is not self._generic:
                self._generic = generic
                self._queue.append(_GENERIC if generic else _BY_COST)
            self._queue += self._prepared.queue(self._cursor, text, params)
        self.flush()
        return self._cursor.fetchall()  # type: ignore[no-any-return]

    def all_within(self, limit_ms: int, statement: Statement, /, **params: Any) -> list[Row] | None:
        self.script(f"SAVEPOINT unhurried; SET LOCAL statement_timeout = {limit_ms:d}")
        try:
            return self.all(statement, **params)
        except psycopg2.errors.QueryCanceled:
            self._cursor.execute("ROLLBACK TO SAVEPOINT unhurried")
            self._generic = True  # or not: it is said anew
            return None

    def ahead(self, asks: Sequence[Ask]) -> None:
        if len(asks) < _TOGETHER_FROM:
            return
        parts = tuple(ask.statement for ask in asks)
        together = _as_one(parts)
        params: dict[str, Any] = {}
        for place, ask in enumerate(asks):
            self._see(ask.statement.text(POSTGRESQL).sql)
            params.update({together_name(place, name): value for name, value in ask.params.items()})
        # Its parts are found by their keys whatever the parameters say; planning them takes longer than running them.
        (answers,) = self._fetch(together.text, params, generic=True)
        for ask, answer in zip(asks, answers, strict=True):
            self._ahead.setdefault(ask.statement, []).append((ask.params, _decode_rows(answer)))

    def run(self, statement: Statement, /, **params: Any) -> None:
        text = statement.text(POSTGRESQL)
        self._put(text.sql, text.arguments(params, POSTGRESQL))

    def insert(self, rows: Rows, values: Sequence[Row]) -> None:
        if not values:
            return
        # Planned once for any number of rows: a list of values is parsed and planned each time.
        columnwise = None if self._prepared is None or len(values) > _PREPARED_MOST else rows.prepared(values)
        if columnwise is None or self._prepared is None:
            for sql, arguments in rows.chunks(POSTGRESQL, values):
                self._put(sql, arguments)
            return
        text, params = columnwise
        self._ahead.clear()
        self._see(text.sql)
        self._queue += self._prepared.queue(self._cursor, text, params)

    def load(self, rows: Rows, values: Sequence[Row]) -> None:
        # A statement of as many rows costs PostgreSQL three times that to parse.
        if not values:
            return
        copy = f"COPY {rows.table} ({', '.join(rows.columns)}) FROM STDIN"
        self._ahead.clear()
        self.statements += 1
        if self._hook is not None:
            self._hook(copy)
        self.flush()
        self._cursor.copy_expert(copy, io.BytesIO(copied(values)))

    def script(self, sql: str) -> None:
        self._put(sql, ())

    def flush(self) -> None:
        """Send what waits."""
        if self._queue:
            together = b";".join(self._queue)
            self._queue.clear()
            self.begun = True
            try:
                self._cursor.execute(together)
            except BaseException:
                if self._prepared is not None:
                    self._prepared.settle(made=False)
                raise
            if self._prepared is not None:
                self._prepared.settle(made=True)

    def finish(self, how: str) -> None:
        """COMMIT, with what waits before it."""
        self._queue.append(how.encode())
        self.flush()

    def abort(self) -> None:
        """ROLLBACK, without what waits."""
        self._queue.clear()
        if self._prepared is not None:
            # What was still to be prepared has not been sent.
            self._prepared.settle(made=False)
        self._cursor.execute("ROLLBACK")


class Claim(NamedTuple):
    """One position that a transaction will take, and the write that carries it."""

    kind: int
    topic: int
    ref: int
    write: Callable[[Tx, int], None] | None
    payload: Any


class WriteTx(Tx):
    """A ``Tx`` that may also claim positions in the log of changes. Only the committer makes one."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self.dialect = tx.dialect
        self.claims: list[Claim] = []

    def claim(
        self,
        kind: int,
        topic: int,
        ref: int = 0,
        write: Callable[[Tx, int], None] | None = None,
        payload: Any = None,
    ) -> None:
        """Take a position at the end of this transaction and log ``(kind, topic, ref)`` there.

        ``write(tx, pos)`` then stores the rows that carry the position. ``payload`` is handed to the followers in
        this process as it is, so that they need not read what was just written.
        """
        self.claims.append(Claim(kind, topic, ref, write, payload))

    def all(self, statement: Statement, /, **params: Any) -> list[Row]:
        return self._tx.all(statement, **params)

    def ahead(self, asks: Sequence[Ask]) -> None:
        self._tx.ahead(asks)

    def all_within(self, limit_ms: int, statement: Statement, /, **params: Any) -> list[Row] | None:
        return self._tx.all_within(limit_ms, statement, **params)

    def require(self, count: int, statement: Statement, /, **params: Any) -> None:
        self._tx.require(count, statement, **params)

    def run(self, statement: Statement, /, **params: Any) -> None:
        self._tx.run(statement, **params)

    def insert(self, rows: Rows, values: Sequence[Row]) -> None:
        self._tx.insert(rows, values)

    def load(self, rows: Rows, values: Sequence[Row]) -> None:
        self._tx.load(rows, values)

    def script(self, sql: str) -> None:
        self._tx.script(sql)
