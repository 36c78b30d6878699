"""Joins that were never complete, of rooms that somebody came back to.

Revision 0007; it comes after 0006. An older program forgets such joins.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
# The oldest program that understands a database of this revision.
oldest_reader = "0003"


def upgrade() -> None:
    """Add what is new."""
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "earlier_joins",
        sa.Column("room_nid", kind, nullable=False, autoincrement=False),
        sa.Column("join_nid", kind, nullable=False, autoincrement=False),
        sa.Column("server", sa.Text(), nullable=False),
        sa.Column("servers", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False, autoincrement=False),
        sa.PrimaryKeyConstraint("room_nid", "join_nid"),
        sqlite_with_rowid=False,
    )
