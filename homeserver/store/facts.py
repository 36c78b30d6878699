"""Single facts: whose the database is and which programs may open it; and what a process leaves to the next one."""

from __future__ import annotations

from sqlalchemy import bindparam, select

from homeserver.db.errors import DatabaseError
from homeserver.db.schema.stream import server_facts
from homeserver.db.statements import rows, statement
from homeserver.db.tx import Tx

_GET = statement(select(server_facts.c.value).where(server_facts.c.name == bindparam("fact")))
_SET = rows(server_facts, "name", "value", keys=("name",), update=("value",))


def load_fact(tx: Tx, name: str) -> str | None:
    """One fact."""
    value: str | None = tx.value(_GET, fact=name)
    return value


def store_fact(tx: Tx, name: str, value: str) -> None:
    """Remember a fact."""
    tx.insert(_SET, [(name, value)])


def check_server_name(tx: Tx, server_name: str) -> None:
    """A database belongs to one server name: every event in it is signed with that."""
    known = load_fact(tx, "server_name")
    if known is None:
        store_fact(tx, "server_name", server_name)
    elif known != server_name:
        raise DatabaseError(f"this database belongs to {known}, not to {server_name}")
