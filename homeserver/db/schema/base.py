"""The vocabulary of the catalogue: one metadata object, and the column types that both databases have.

Naming: ``*_nid`` is an integer identity of ours (0 means "none"), ``*_id`` a string of the specification, ``pos`` a
position in the log of changes, ``*_ts_ms`` milliseconds since 1970.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, MetaData, Text

metadata = MetaData()

BIG = BigInteger().with_variant(Integer, "sqlite")


def nid(
    name: str, *, primary: bool = False, optional: bool = False, default: int | None = None
) -> Column[int]:
    """A 64-bit integer column."""
    extra: dict[str, Any] = {} if default is None else {"server_default": str(default)}
    return Column(name, BIG, primary_key=primary, nullable=optional, autoincrement=False, **extra)


def text(name: str, *, primary: bool = False, optional: bool = False, unique: bool = False) -> Column[str]:
    """A string column."""
    return Column(name, Text, primary_key=primary, nullable=optional, unique=unique)


def blob(name: str, *, primary: bool = False, optional: bool = False) -> Column[bytes]:
    """A column of bytes."""
    return Column(name, LargeBinary, primary_key=primary, nullable=optional)


def small(
    name: str, *, primary: bool = False, optional: bool = False, default: int | None = None
) -> Column[int]:
    """A small integer or a flag (0 or 1: SQLite has no booleans, and one spelling is enough)."""
    extra: dict[str, Any] = {} if default is None else {"server_default": str(default)}
    return Column(name, Integer, primary_key=primary, nullable=optional, autoincrement=False, **extra)


# SQLite: a table whose primary key *is* its order needs no second tree for row ids.
CLUSTERED: dict[str, Any] = {"sqlite_with_rowid": False}
