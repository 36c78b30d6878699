"""Users who wanted to be erased, and when: from then on, whoever comes new to a room sees their events redacted.

What that means for one event and one reader is in ``store/veil.py``.

# spec: client-server-api#post_matrixclientv3accountdeactivate
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import select

from homeserver.db.schema.accounts import erasures
from homeserver.db.schema.rooms import user_ids
from homeserver.db.statements import any_of, rows, statement
from homeserver.db.tx import Tx
from homeserver.store.changes import Change, Kind

_INSERT = rows(erasures, "user_nid", "pos", ignore=True)
_ROWS = select(erasures.c.user_nid, user_ids.c.user_id, erasures.c.pos).select_from(
    erasures.join(user_ids, user_ids.c.nid == erasures.c.user_nid)
)
_ALL = statement(_ROWS)
_OF = statement(_ROWS.where(any_of(erasures.c.user_nid, "nids")))


class Erasure(NamedTuple):
    """From when on somebody is erased."""

    user_nid: int
    user_id: str
    pos: int


def put_erasure(tx: Tx, user_nid: int, pos: int) -> list[Erasure]:
    """Note that a user is erased from a position on; what was noted before stays as it was."""
    tx.insert(_INSERT, [(user_nid, pos)])
    return load_erasures(tx, [user_nid])


def load_erasures(tx: Tx, user_nids: Collection[int]) -> list[Erasure]:
    """Those of some users who are erased."""
    return [Erasure(*row) for row in tx.all(_OF, nids=list(user_nids))]


def load_all_erasures(tx: Tx) -> list[Erasure]:
    """Everybody who is erased (at the start)."""
    return [Erasure(*row) for row in tx.all(_ALL)]


class ErasedUsers:
    """Who is erased, in memory. It follows the log; threads look at the mappings, which are replaced, never changed.

    LIMIT(memory: some 300 bytes for each local account that was ever erased)
    """

    def __init__(self, found: Iterable[Erasure]) -> None:
        self.by_id: Mapping[str, int] = {}  # user id -> from which position on
        self.by_nid: Mapping[int, int] = {}
        self._add(list(found))

    kinds = frozenset({Kind.ACCOUNT})  # what ``apply`` looks at

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow the log."""
        for change in changes:
            if change.kind == Kind.ACCOUNT and change.payload is not None and change.payload.erasures:
                self._add(change.payload.erasures)

    def _add(self, found: Sequence[Erasure]) -> None:
        self.by_id = {**self.by_id, **{one.user_id: one.pos for one in found}}
        self.by_nid = {**self.by_nid, **{one.user_nid: one.pos for one in found}}
