"""Runs Alembic revisions, each in one transaction together with the fact that the database now has it.

Alembic's own table of versions is not used: ``server_facts`` says the same, and says it without Alembic. Loaded only
where there is something to upgrade (``homeserver.db.migrate``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg2
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection, create_engine, event, exc, text
from sqlalchemy import Engine as SqlEngine
from sqlalchemy.pool import NullPool

from homeserver.db.engine import Engine, PostgresEngine, SqliteEngine
from homeserver.db.errors import DatabaseError
from homeserver.db.migrations import LOCK

_FOLDER = Path(__file__).parent
_REVISION = text("SELECT value FROM server_facts WHERE name = 'schema'")
_FORGET = text("DELETE FROM server_facts WHERE name IN ('schema', 'oldest_reader')")
_REMEMBER = text(
    "INSERT INTO server_facts (name, value) VALUES ('schema', :schema), ('oldest_reader', :oldest_reader)"
)


def scripts() -> ScriptDirectory:
    """Every revision."""
    return ScriptDirectory(str(_FOLDER), version_locations=[str(_FOLDER / "versions")])


def run_steps(engine: Engine, after: str | None, upto: str = "head") -> tuple[str, ...]:
    """Run the revisions after one (None: all of them, on an empty database); which they were.

    Those that another process has made meanwhile are passed over.
    """
    wanted: list[Script] = [
        step for step in scripts().iterate_revisions(upto, after or "base") if step.revision != after
    ]
    made: list[str] = []
    target = _connect(engine)
    try:
        for step in reversed(wanted):
            with target.begin() as connection:
                if isinstance(engine, PostgresEngine):
                    connection.exec_driver_sql(LOCK)
                if after is None or connection.scalar(_REVISION) < step.revision:
                    _run(connection, step)
                    made.append(step.revision)
    except exc.DBAPIError as error:
        raise DatabaseError(f"the database could not be upgraded: {error.orig}") from error
    finally:
        target.dispose()
    return tuple(made)


def _run(connection: Connection, step: Script) -> None:
    context = MigrationContext.configure(connection)
    with Operations.context(context):
        step.module.upgrade()
    connection.execute(_FORGET)
    connection.execute(_REMEMBER, {"schema": step.revision, "oldest_reader": step.module.oldest_reader})


def _connect(engine: Engine) -> SqlEngine:
    if isinstance(engine, PostgresEngine):
        return create_engine(
            "postgresql+psycopg2://", creator=lambda: psycopg2.connect(engine.dsn), poolclass=NullPool
        )
    if not isinstance(engine, SqliteEngine) or engine.path is None:
        raise DatabaseError("a database in memory cannot be upgraded")
    target = create_engine(f"sqlite:///{engine.path}", poolclass=NullPool)

    # sqlite3 would begin a transaction at the first INSERT, and let CREATE TABLE run outside.
    def opened(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    def begun(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(target, "connect", opened)
    event.listen(target, "begin", begun)
    return target
