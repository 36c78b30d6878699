"""Joins and knocks of which it is not known what became.

Revision 0005; it comes after 0004.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
# The oldest program that understands a database of this revision.
oldest_reader = "0003"


def _big(name: str) -> sa.Column[Any]:
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column(name, kind, nullable=False, autoincrement=False)


def _small(name: str, default: str | None = None) -> sa.Column[Any]:
    return sa.Column(name, sa.Integer(), nullable=False, autoincrement=False, server_default=default)


def upgrade() -> None:
    """Add what is new."""
    op.create_table(
        "offered",
        _big("room_nid"),
        _big("user_nid"),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("server", sa.Text(), nullable=False),
        _small("membership"),
        _small("attempts", default="0"),
        _big("retry_ts_ms"),
        sa.PrimaryKeyConstraint("room_nid", "user_nid", "event_id", "server"),
        sqlite_with_rowid=False,
    )
    op.create_index("offered_by_retry", "offered", ["retry_ts_ms"])
