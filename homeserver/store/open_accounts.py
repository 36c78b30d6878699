"""Whether an account goes on: asked by what must not be written any more once it has ended, since nothing would drop that."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import and_, bindparam, select

from homeserver.db.schema.accounts import accounts
from homeserver.db.statements import statement
from homeserver.db.tx import WriteTx

# Its end waits for this transaction, or this one for the end: another process may be about it.
_OPEN = statement(
    select(accounts.c.locked, accounts.c.suspended)
    .where(and_(accounts.c.user_nid == bindparam("user_nid"), accounts.c.deactivated == 0))
    .with_for_update(read=True)
)


class Standing(NamedTuple):
    """What an account that goes on may not do at the moment."""

    locked: int
    suspended: int


def load_standing(tx: WriteTx, user_nid: int) -> Standing | None:
    """Of an account that is not deactivated: None where there is none. It stays so until this transaction has ended."""
    found = tx.one(_OPEN, user_nid=user_nid)
    return None if found is None else Standing(*found)


def is_open(tx: WriteTx, user_nid: int) -> bool:
    """Whether there is such an account, and it is not deactivated before this transaction has ended."""
    return load_standing(tx, user_nid) is not None
