"""Bringing a database to the schema of ``homeserver.db.schema``.

Rules:
1. A new database gets every table at once and is stamped with the newest revision; an old one is upgraded by Alembic,
   forward only, each step one transaction (``homeserver.db.migrations``). A test holds the two ways equal. Of several
   processes each step is made by one.
2. The database says of itself which revision it has (fact ``schema``) and the oldest program that may open it (fact
   ``oldest_reader``, a revision too). A program older than that refuses.
3. A server that finds the newest revision never loads Alembic: that would cost it 0.3 s of its start.
"""

from __future__ import annotations

import importlib

import psycopg2
from sqlalchemy import bindparam, column, func, select, table
from sqlalchemy.schema import CreateIndex, CreateTable

from homeserver.db.engine import Engine, first_line, open_engine
from homeserver.db.errors import DatabaseError
from homeserver.db.migrations import LOCK
from homeserver.db.schema import metadata
from homeserver.db.schema.search import DDL, derived
from homeserver.db.schema.start import insert_first_rows
from homeserver.db.schema.stream import server_facts
from homeserver.db.statements import POSTGRESQL, SQLITE, compile_ddl, rows, statement
from homeserver.db.tx import Tx

HEAD = "0010"
# The oldest program that understands a database of revision HEAD.
OLDEST_READER = "0003"

_SCHEMA_FACT, _READER_FACT = "schema", "oldest_reader"

_SQLITE_TABLE = statement(
    select(column("name"))
    .select_from(table("sqlite_master", column("name")))
    .where(column("name") == bindparam("name"))
)
# Where the search path leads, as for every other statement: an administrator may have chosen another schema than `public`.
_POSTGRES_TABLE = statement(select(func.to_regclass(bindparam("name"))))
_FACTS = statement(select(server_facts.c.name, server_facts.c.value))
_SET_FACTS = rows(server_facts, "name", "value", keys=("name",), update=("value",))


def create_schema(tx: Tx) -> None:
    """Every table and index, in an empty database, and what it then says of itself."""
    for one in [*metadata.sorted_tables, *derived.sorted_tables]:
        tx.script(compile_ddl(CreateTable(one), tx.dialect))
        for index in sorted(one.indexes, key=lambda index: str(index.name)):
            tx.script(compile_ddl(CreateIndex(index), tx.dialect))
    for text in DDL[tx.dialect]:
        tx.script(text)
    tx.insert(_SET_FACTS, [(_SCHEMA_FACT, HEAD), (_READER_FACT, OLDEST_READER)])


def upgrade_engine(engine: Engine) -> tuple[str | None, str, tuple[str, ...]]:
    """Bring a database to the newest schema: (revision before or None, revision now, steps that were taken)."""
    before = _look(engine)
    if before is None:
        return None, HEAD, (HEAD,)
    if before >= HEAD:
        return before, before, ()
    # By name, and only here: see rule 3.
    steps: tuple[str, ...] = importlib.import_module("homeserver.db.migrations.steps").run_steps(
        engine, before
    )
    # Where another process was at it too, it may be a newer program's.
    return before, _look(engine) or HEAD, steps


def _look(engine: Engine) -> str | None:
    session = engine.writer()
    try:
        return session.run(_find_or_create)
    except psycopg2.Error as error:
        # A role that may not create tables, a schema that is not there: the administrator's to mend.
        raise DatabaseError(f"PostgreSQL: {first_line(error)}") from error
    finally:
        session.close()


def upgrade(url: str) -> None:
    """The same by address."""
    upgrade_engine(open_engine(url))


def _find_or_create(tx: Tx) -> str | None:
    """The revision of the database; None for one that was empty, and has all tables now."""
    if tx.dialect == POSTGRESQL:
        tx.script(LOCK)
    revision = find_revision(tx)
    if revision is None:
        create_schema(tx)
        insert_first_rows(tx)
    return revision


def find_revision(tx: Tx) -> str | None:
    """The revision of the database; None for one that is empty. Raises DatabaseError where this program cannot open it."""
    lookup = _SQLITE_TABLE if tx.dialect == SQLITE else _POSTGRES_TABLE
    if tx.value(lookup, name=server_facts.name) is None:
        return None
    facts: dict[str, str] = dict(tx.all(_FACTS))
    revision = facts.get(_SCHEMA_FACT)
    if revision is None:
        raise DatabaseError(
            "this database was made by a program from before the first release: make a new one"
        )
    if facts.get(_READER_FACT, revision) > HEAD:
        raise DatabaseError(
            f"this database has schema {revision}, made by a newer program; this one knows {HEAD}: update it"
        )
    return revision
