"""Bringing a database to the schema of ``homeserver.db.schema``.

A new database gets every table at once and is stamped with the newest revision. An old one is upgraded by Alembic,
forward only (``homeserver/db/migrations``); a test holds the two ways equal.
"""

from __future__ import annotations

from sqlalchemy.schema import CreateIndex, CreateTable

from homeserver.db.schema import metadata
from homeserver.db.statements import compile_ddl
from homeserver.db.tx import Tx


def create_schema(tx: Tx) -> None:
    """Every table and index, in an empty database."""
    for table in metadata.sorted_tables:
        tx.script(compile_ddl(CreateTable(table), tx.dialect))
        for index in sorted(table.indexes, key=lambda one: str(one.name)):
            tx.script(compile_ddl(CreateIndex(index), tx.dialect))
