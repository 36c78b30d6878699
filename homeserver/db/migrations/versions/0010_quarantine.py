"""Which content was quarantined when it was deleted.

Revision 0010; it comes after 0009. An older program shows such content when it comes again, and a release by it does not
count for what comes later.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
# The oldest program that understands a database of this revision.
oldest_reader = "0003"


def upgrade() -> None:
    """Add what is new."""
    op.create_table(
        "quarantined_files",
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("sha256"),
        sqlite_with_rowid=False,
    )
