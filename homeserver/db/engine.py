"""Connections to SQLite and PostgreSQL, and what their failures mean.

A ``Session`` is one connection that runs units of work, each in a transaction of its own. It opens its connection
when it is first needed and again after it broke, so a database that went away and came back needs no restart.

Every failure leaves as one of ``homeserver.db.errors``; anything else is a fault in our own code and passes as it is.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar

import psycopg2
import psycopg2.extensions

from homeserver.db.errors import (
    Conflict,
    DatabaseError,
    DatabaseUnavailable,
    IntegrityViolation,
    TakesLong,
    TooLong,
)
from homeserver.db.statements import POSTGRESQL, SQLITE
from homeserver.db.tx import PostgresTx, Prepared, SqliteTx, StatementHook, Tx

P = ParamSpec("P")
T = TypeVar("T")

_BUSY_STEPS = 5
_LOG_BYTES = 16 * 1024 * 1024
_CACHE = "PRAGMA cache_size=-8000"
_PATIENT = "PRAGMA busy_timeout=2000"
_IMPATIENT = "PRAGMA busy_timeout=0"

_WRITE_AHEAD, _IN_PLACE = "PRAGMA journal_mode=WAL", "PRAGMA journal_mode=DELETE"
_SQLITE_PRAGMAS = (
    # FULL: a commit that was acknowledged survives a power cut; federation cannot forgive its loss.
    "PRAGMA synchronous=FULL",
    _PATIENT,
    "PRAGMA temp_store=MEMORY",
    _CACHE,
    # Checkpoints run on a connection of their own beside the writer (``checkpoint``): a writer that makes them itself
    # stands still for as long as it takes to sync the whole file. This bounds the log where that one fails.
    "PRAGMA wal_autocheckpoint=50000",
)


class Session:
    """One connection, used by one thread at a time."""

    def run(self, unit: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``unit(tx, *args)`` in a transaction: committed when it returns, rolled back when it raises."""
        raise NotImplementedError

    def begin(
        self,
        unit: Callable[Concatenate[Tx, P], T],  # noqa: ARG002
        is_late: Callable[[], bool],  # noqa: ARG002
        /,
        *args: P.args,  # noqa: ARG002
        **kwargs: P.kwargs,  # noqa: ARG002
    ) -> Callable[[], T] | None:
        """Run the statements of ``unit(tx, *args)`` now, as ``run`` does; what comes back commits, in any thread, and returns.

        None where the caller would wait for more than processor time: for a server, a lock, or until ``is_late()``.
        Nothing is left of the unit then, and ``run`` is the way.
        """
        return None

    def make_room(self) -> None:
        """Prepare the ground for fast commits, where there is something to prepare. Never raises."""

    def settle(self) -> None:
        """End what ``run`` may have left open: called when its result is on its way."""

    def close(self) -> None:
        """Give the connection back."""
        raise NotImplementedError


class Engine:
    """Where a database is, and how to open it."""

    dialect: str
    hook: StatementHook | None = None

    def writer(self) -> Session:
        """The session of the one writer."""
        raise NotImplementedError

    def checkpointer(self) -> Checkpointer | None:
        """What keeps the database's log short beside the writer, where that is for us to do."""
        return None

    def reader(self) -> Session:
        """A session that only reads, each unit on one snapshot."""
        raise NotImplementedError


class Checkpointer:
    """Moves SQLite's write-ahead log into the database file, without ever standing in a writer's way.

    Its own writes and syncs still share the disk with the writer's, so it prefers moments without them: it works when
    nothing has been written since the last step, and under a load that never pauses every ``_BUSY_STEPS``.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._seen = self._done = (0, 0)  # size and time of the log, when looked at and when last emptied
        self._busy = 0

    def step(self) -> None:
        """Call about once a second."""
        try:
            found = os.stat(self._path + "-wal")
        except OSError:
            return
        stamp = (found.st_size, found.st_mtime_ns)
        if not found.st_size or stamp == self._done:
            return
        if stamp != self._seen:
            self._seen = stamp
            self._busy += 1
            if self._busy < _BUSY_STEPS:
                return
        self._busy = 0
        try:
            if self._connection is None:
                self._connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            self._done = stamp
        except sqlite3.Error:
            self.close()  # the writer meets the same fault and says so

    def close(self) -> None:
        """Give the connection back."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class SqliteEngine(Engine):
    """A database file, or (``path=None``) one in memory that writer and readers share."""

    dialect = SQLITE

    def __init__(
        self,
        path: str | None,
        hook: StatementHook | None = None,
        *,
        power_loss_safe: bool = True,
        write_ahead: bool = True,
    ) -> None:
        self.path = path
        self.hook = hook
        # Else what was committed is in the file itself. From a log it is moved there later, and where that fails (a full
        # disk) SQLite does not say so.
        self.write_ahead = write_ahead
        # Else synchronous=NORMAL: the last commits may be lost with the power, not with the process.
        self.power_loss_safe = power_loss_safe
        self.inode = 0  # of the file, once it has been opened
        self._shared: SqliteSession | None = None

    def check_same_file(self) -> None:
        """A file that was open is opened again only where it is that file: SQLite would make an empty one."""
        if not self.inode or self.path is None:
            return
        try:
            inode = os.stat(self.path).st_ino
        except OSError:
            raise DatabaseUnavailable(f"the database file {self.path} has vanished") from None
        if inode != self.inode:
            raise DatabaseUnavailable(f"the database file {self.path} was replaced: restart the server")

    def writer(self) -> Session:
        if self.path is None:
            if self._shared is None:
                self._shared = SqliteSession(self, write=True)
            return self._shared
        return SqliteSession(self, write=True)

    def checkpointer(self) -> Checkpointer | None:
        return Checkpointer(self.path) if self.path is not None else None

    def reader(self) -> Session:
        return self.writer() if self.path is None else SqliteSession(self, write=False)


class SqliteSession(Session):
    """A sqlite3 connection in autocommit mode; we say BEGIN ourselves."""

    def __init__(self, engine: SqliteEngine, *, write: bool) -> None:
        self._engine = engine
        self._write = write
        self._connection: sqlite3.Connection | None = None
        self._inode = 0

    def connection(self) -> sqlite3.Connection:
        """The open connection."""
        path = self._engine.path
        if self._connection is None:
            if path is not None:
                self._engine.check_same_file()
            self._connection = sqlite3.connect(
                path or ":memory:", isolation_level=None, check_same_thread=False, cached_statements=512
            )
            for pragma in (_WRITE_AHEAD if self._engine.write_ahead else _IN_PLACE, *_SQLITE_PRAGMAS):
                self._connection.execute(pragma)
            if not self._engine.power_loss_safe:
                self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute(_IMPATIENT if self._write else "PRAGMA query_only=1")
            if path is not None:
                self._inode = self._engine.inode = os.stat(path).st_ino
        elif path is not None and self._write:
            self._check_still_there(path)
        return self._connection

    def _check_still_there(self, path: str) -> None:
        # SQLite goes on writing into a file that was deleted or replaced under it, and the commit would be lost
        # with the process: so the writer looks before each transaction (1 µs).
        try:
            same = os.stat(path).st_ino == self._inode
        except OSError:
            same = False
        if not same:
            self.close()
            self._engine.check_same_file()
            raise DatabaseUnavailable(f"the database file {path} had vanished for a moment")

    def run(self, unit: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            connection = self.connection()
            self._lock(connection)
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise _sqlite_error(error) from error
        return self._commit(connection, self._carry_out(connection, None, unit, *args, **kwargs))

    def begin(
        self,
        unit: Callable[Concatenate[Tx, P], T],
        is_late: Callable[[], bool],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Callable[[], T] | None:
        connection = self._connection
        if not self._write or connection is None or self._engine.path is None:
            return None
        self._check_still_there(self._engine.path)
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error:
            return None  # `run` waits for the lock, or says what is wrong
        try:
            result = self._carry_out(connection, is_late, unit, *args, **kwargs)
        except TakesLong:
            return None
        return partial(self._commit, connection, result)

    def _lock(self, connection: sqlite3.Connection) -> None:
        if not self._write:
            connection.execute("BEGIN")
            return
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            # Another process writes (a command, say). Only here does a writer wait: `begin` must not.
            connection.execute(_PATIENT)
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(_IMPATIENT)

    def _carry_out(
        self,
        connection: sqlite3.Connection,
        is_late: Callable[[], bool] | None,
        unit: Callable[Concatenate[Tx, P], T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        with self._nothing_left():
            return unit(SqliteTx(connection, self._engine.hook, is_late), *args, **kwargs)

    def _commit(self, connection: sqlite3.Connection, result: T) -> T:
        with self._nothing_left():
            if self._write and self._engine.hook is not None:
                self._engine.hook("COMMIT")
            connection.execute("COMMIT")
        return result

    @contextmanager
    def _nothing_left(self) -> Iterator[None]:
        """Roll back what raises, and say it in our own words."""
        try:
            yield
        except sqlite3.Error as error:
            self._roll_back()
            raise _sqlite_error(error) from error
        except BaseException:
            self._roll_back()
            raise

    def make_room(self) -> None:
        """Let the write-ahead log have its size from the start.

        A commit that makes the file grow waits for the file system's journal as well: 0.41 ms against 0.24 ms where the
        log is overwritten, and twice that at the 99th percentile. What a transaction that is rolled back has spilled
        stays in the file, beyond the log's end, and the database itself does not grow.
        """
        try:
            connection = self.connection()
            path = self._engine.path
            if path is None:
                return
            log = path + "-wal"  # made by the first transaction
            if os.path.exists(log) and os.path.getsize(log) >= _LOG_BYTES:
                return
            connection.execute("PRAGMA cache_size=-256")  # so that it spills
            self._lock(connection)
            connection.execute("CREATE TABLE room_for_the_log (filler BLOB)")
            for _ in range(_LOG_BYTES // 2**20 + 1):
                connection.execute("INSERT INTO room_for_the_log VALUES (zeroblob(1048576))")
        except (sqlite3.Error, OSError, DatabaseUnavailable):
            # A full disk, a lock, no database: the first real transaction meets it and says so, on a connection that is
            # opened anew. This one may have been left halfway.
            self.close()
        finally:
            self._roll_back()
            if self._connection is not None:
                self._connection.execute(_CACHE)

    def _roll_back(self) -> None:
        if self._connection is not None and self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error:
                self.close()

    def close(self) -> None:
        if self._connection is not None and self._engine.path is not None:
            connection, self._connection = self._connection, None
            connection.close()


def _sqlite_error(error: Exception) -> Exception:
    if isinstance(error, sqlite3.IntegrityError):
        return IntegrityViolation(str(error))
    if isinstance(error, sqlite3.OperationalError | OSError) and not _is_our_fault(str(error)):
        return DatabaseUnavailable(f"SQLite: {error}")
    if isinstance(error, sqlite3.DatabaseError) and (
        "malformed" in str(error) or "not a database" in str(error)
    ):
        return DatabaseUnavailable(f"SQLite: {error}")
    return error


def _is_our_fault(message: str) -> bool:
    return "syntax error" in message or "no such" in message or "has no column" in message


class PostgresEngine(Engine):
    """A PostgreSQL database by its address (``postgresql://user:password@host/db``)."""

    dialect = POSTGRESQL

    def __init__(self, dsn: str, hook: StatementHook | None = None, *, prepare: bool = True) -> None:
        self.dsn = dsn
        self.prepare = prepare
        self.hook = hook

    def writer(self) -> Session:
        return PostgresSession(self, "BEGIN")

    def reader(self) -> Session:
        return PostgresSession(self, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")


class PostgresSession(Session):
    """A psycopg2 connection in autocommit mode, so that BEGIN and COMMIT travel with the statements."""

    def __init__(self, engine: PostgresEngine, begin: str) -> None:
        self._engine = engine
        self._begin = begin
        self._connection: Any = None
        self._cursor: Any = None
        self._prepared: Prepared | None = None
        self._reads = begin != "BEGIN"
        self._left_open = False

    def _open(self) -> Any:
        if self._cursor is None or self._connection.closed:
            self._connection = psycopg2.connect(
                self._engine.dsn, connect_timeout=5, application_name="chaos", keepalives_idle=30
            )
            self._connection.autocommit = True
            self._prepared = Prepared() if self._engine.prepare else None
            self._cursor = self._connection.cursor()
            psycopg2.extensions.register_type(_BYTEA, self._connection)
            if not self._reads:
                self._cursor.execute(_SAFE_COMMITS)
        return self._cursor

    def run(self, unit: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        used_before = self._cursor is not None
        try:
            return self._run(unit, *args, **kwargs)
        except DatabaseUnavailable:
            # A connection from before the server's restart: a unit that only reads may simply run again.
            if not (self._reads and used_before and self._cursor is None):
                raise
            return self._run(unit, *args, **kwargs)

    def _run(self, unit: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        self.settle()
        try:
            cursor = self._open()
        except psycopg2.Error as error:
            self.close()
            raise DatabaseUnavailable(f"PostgreSQL: {first_line(error)}") from error
        tx = PostgresTx(cursor, self._begin, self._engine.hook, self._prepared)
        try:
            result = unit(tx, *args, **kwargs)
            if self._reads:
                # Nothing depends on a reader's COMMIT: the result need not wait for its round trip.
                self._left_open = tx.begun
                return result
            if self._engine.hook is not None and self._begin == "BEGIN":
                self._engine.hook("COMMIT")
            tx.finish("COMMIT")
            return result
        except psycopg2.Error as error:
            self._roll_back(tx)
            raise _postgres_error(error, lost=self._cursor is None) from error
        except BaseException:
            self._roll_back(tx)
            raise

    def settle(self) -> None:
        if self._left_open:
            self._left_open = False
            try:
                self._cursor.execute("COMMIT")
            except psycopg2.Error:
                self.close()

    def _roll_back(self, tx: PostgresTx) -> None:
        try:
            tx.abort()
        except psycopg2.Error:
            self.close()

    def close(self) -> None:
        if self._connection is not None:
            with suppress(psycopg2.Error):  # it is broken already, which is why we close it
                self._connection.close()
            self._connection = self._cursor = None


# A server that is set to answer before its log is on the disk would let us acknowledge what a crash takes away. A
# stricter setting (a standby that must have it too) stays as it is.
_SAFE_COMMITS = (
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
)


def _read_bytea(value: str | bytes | None, _: Any) -> bytes | None:
    return None if value is None else bytes.fromhex(str(value)[2:])


_BYTEA = psycopg2.extensions.new_type((17,), "CHAOS_BYTEA", _read_bytea)


def first_line(error: BaseException) -> str:
    """What a server says first; what follows is its advice."""
    return str(error).strip().split("\n", 1)[0]


def _postgres_error(error: psycopg2.Error, *, lost: bool) -> Exception:
    if isinstance(error, psycopg2.IntegrityError):
        return IntegrityViolation(first_line(error))
    if isinstance(error, psycopg2.errors.ProgramLimitExceeded):
        # No fault of the server's, although the driver counts it among those.
        return TooLong(first_line(error))
    if isinstance(error, psycopg2.errors.DivisionByZero):
        # ``Tx.require``: SQL has no other way to fail by what it finds, and nothing else of ours divides.
        return Conflict("the database is not what this was built on")
    if isinstance(error, psycopg2.extensions.TransactionRollbackError):
        # Two transactions wait for each other, and the server let the other one go on.
        return Conflict(f"PostgreSQL: {first_line(error)}")
    if lost or isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError):
        return DatabaseUnavailable(f"PostgreSQL: {first_line(error)}")
    if isinstance(error, psycopg2.errors.ReadOnlySqlTransaction):
        return DatabaseUnavailable(f"PostgreSQL: {first_line(error)}")
    return error


def open_engine(url: str, data_dir: str = ".", hook: StatementHook | None = None) -> Engine:
    """The engine of a configured database.

    ``sqlite`` is the file ``chaos.db`` in ``data_dir``; ``sqlite:PATH`` another file; ``sqlite::memory:`` none;
    ``postgresql://…`` a server.
    """
    if url == "sqlite":
        return SqliteEngine(os.path.join(data_dir, "chaos.db"), hook)
    if url == "sqlite::memory:":
        return SqliteEngine(None, hook)
    if url.startswith("sqlite:"):
        return SqliteEngine(url.removeprefix("sqlite:"), hook)
    if url.startswith(("postgresql://", "postgres://")):
        return PostgresEngine(url, hook)
    raise DatabaseError(f"no such kind of database: {url.split(':', 1)[0]}")
