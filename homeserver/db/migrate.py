"""Bringing a database to the schema of ``homeserver.db.schema``.

A new database gets every table at once and is stamped with the newest revision. An old one is upgraded by Alembic,
forward only (``homeserver/db/migrations``); a test holds the two ways equal.
"""

from __future__ import annotations

from sqlalchemy import bindparam, column, select, table
from sqlalchemy.schema import CreateIndex, CreateTable

from homeserver.db.engine import Engine, open_engine
from homeserver.db.schema import metadata
from homeserver.db.schema.start import insert_first_rows
from homeserver.db.statements import SQLITE, compile_ddl, statement
from homeserver.db.tx import Tx

HEAD = "0001"


def create_schema(tx: Tx) -> None:
    """Every table and index, in an empty database."""
    for table in metadata.sorted_tables:
        tx.script(compile_ddl(CreateTable(table), tx.dialect))
        for index in sorted(table.indexes, key=lambda one: str(one.name)):
            tx.script(compile_ddl(CreateIndex(index), tx.dialect))


def upgrade_engine(engine: Engine) -> tuple[str | None, str, tuple[str, ...]]:
    """Bring a database to the newest schema: (revision before or None, revision now, steps that were taken)."""
    session = engine.writer()
    try:
        if session.run(_has_tables):
            return HEAD, HEAD, ()
        session.run(create_schema)
        session.run(insert_first_rows)
        return None, HEAD, (HEAD,)
    finally:
        session.close()


def upgrade(url: str) -> None:
    """The same by address."""
    upgrade_engine(open_engine(url))


_SQLITE_TABLE = statement(
    select(column("name")).select_from(table("sqlite_master", column("name"))).where(column("name") == bindparam("name"))
)
_POSTGRES_TABLE = statement(
    select(column("tablename"))
    .select_from(table("pg_tables", column("tablename"), column("schemaname")))
    .where(column("tablename") == bindparam("name"), column("schemaname") == "public")
)


def _has_tables(tx: Tx) -> bool:
    lookup = _SQLITE_TABLE if tx.dialect == SQLITE else _POSTGRES_TABLE
    return tx.one(lookup, name="stream") is not None
