"""Who was in rooms by the word of others while their joins were not complete.

Revision 0008; it comes after 0007. An older program does not send them what they missed then.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
# The oldest program that understands a database of this revision.
oldest_reader = "0003"


def upgrade() -> None:
    """Add what is new."""
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "hearsay",
        sa.Column("room_nid", kind, nullable=False, autoincrement=False),
        sa.Column("join_nid", kind, nullable=False, autoincrement=False),
        sa.Column("upto", kind, nullable=False, autoincrement=False),
        sa.Column("servers", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("room_nid", "join_nid"),
        sqlite_with_rowid=False,
    )
