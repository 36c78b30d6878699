"""What a refresh token became, so that its second use at once finds the same.

Revision 0006; it comes after 0005. An older program takes a token that was replaced for one whose time is over.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
# The oldest program that understands a database of this revision.
oldest_reader = "0003"


def upgrade() -> None:
    """Add what is new."""
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.add_column("refresh_tokens", sa.Column("used_ts_ms", kind, nullable=True))
    op.add_column("refresh_tokens", sa.Column("seed", sa.LargeBinary(), nullable=True))
