"""What a database says of itself, for `chaos doctor`."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import text

from homeserver.db.statements import SQLITE, statement
from homeserver.db.tx import Tx
from homeserver.store.facts import load_fact

_JOURNAL = statement(text("PRAGMA journal_mode"))
_SYNCHRONOUS = statement(text("PRAGMA synchronous"))
_VERSION = statement(text("SHOW server_version_num"))
_FSYNC = statement(text("SHOW fsync"))
_COMMIT = statement(text("SHOW synchronous_commit"))

OLDEST_POSTGRES = 130_000


@dataclass(frozen=True, slots=True)
class Soundness:
    """`schema` and `server_name` are None in a database that no server has opened yet."""

    schema: str | None
    server_name: str | None
    worries: tuple[str, ...]


def look_at_database(tx: Tx) -> Soundness:
    """What it holds, and settings under which something that was acknowledged can be lost."""
    worries = _sqlite_worries(tx) if tx.dialect == SQLITE else _postgres_worries(tx)
    return Soundness(load_fact(tx, "schema"), load_fact(tx, "server_name"), tuple(worries))


def _sqlite_worries(tx: Tx) -> list[str]:
    worries = []
    if tx.value(_JOURNAL) != "wal":
        worries.append("it cannot use a write-ahead log here: is the folder on a network share?")
    if int(tx.value(_SYNCHRONOUS)) < 2:
        worries.append("the last messages may be lost with the power (database_pool.power_loss_safe is off)")
    return worries


def _postgres_worries(tx: Tx) -> list[str]:
    worries = []
    version = int(tx.value(_VERSION))
    if version < OLDEST_POSTGRES:
        worries.append(
            f"PostgreSQL {version // 10_000} is too old: take {OLDEST_POSTGRES // 10_000} or newer"
        )
    if tx.value(_FSYNC) != "on":
        worries.append("fsync is off: a crash of the machine can destroy the database")
    if tx.value(_COMMIT) == "off":
        worries.append("synchronous_commit is off: the last messages may be lost in a crash")
    return worries
