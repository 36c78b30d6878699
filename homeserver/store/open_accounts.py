"""Whether an account goes on: asked by what must not be written any more once it has ended, since nothing would drop that."""

from __future__ import annotations

from sqlalchemy import and_, bindparam, select

from homeserver.db.schema.accounts import accounts
from homeserver.db.statements import statement
from homeserver.db.tx import WriteTx

# Its end waits for this transaction, or this one for the end: another process may be about it.
_OPEN = statement(
    select(accounts.c.user_nid)
    .where(and_(accounts.c.user_nid == bindparam("user_nid"), accounts.c.deactivated == 0))
    .with_for_update(read=True)
)


def is_open(tx: WriteTx, user_nid: int) -> bool:
    """Whether there is such an account, and it is not deactivated before this transaction has ended."""
    return tx.value(_OPEN, user_nid=user_nid) is not None
