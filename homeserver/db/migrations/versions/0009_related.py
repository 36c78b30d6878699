"""A redaction that takes along what relates to its target, once for each user in whose name it is.

Revision 0009; it comes after 0008. An older program goes on in the name of one of them.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
# The oldest program that understands a database of this revision.
oldest_reader = "0003"

_KEEP = """
    CREATE TABLE former_redactions AS
        SELECT target_id, room_nid, rel_type, sender_nid, until_ts_ms FROM related_redactions
"""
_COPY = """
    INSERT INTO related_redactions (target_id, room_nid, rel_type, sender_nid, until_ts_ms)
        SELECT target_id, room_nid, rel_type, sender_nid, until_ts_ms FROM former_redactions
"""


def upgrade() -> None:
    """Make the sender a part of the key."""
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.execute(_KEEP)
    op.drop_table("related_redactions")
    op.create_table(
        "related_redactions",
        sa.Column("target_id", sa.Text(), nullable=False),
        sa.Column("room_nid", kind, nullable=False, autoincrement=False),
        sa.Column("rel_type", sa.Text(), nullable=False),
        sa.Column("sender_nid", kind, nullable=False, autoincrement=False),
        sa.Column("until_ts_ms", kind, nullable=False, autoincrement=False),
        sa.PrimaryKeyConstraint("target_id", "room_nid", "rel_type", "sender_nid"),
        sqlite_with_rowid=False,
    )
    op.create_index("related_redactions_by_end", "related_redactions", ["until_ts_ms"])
    op.execute(_COPY)
    op.drop_table("former_redactions")
