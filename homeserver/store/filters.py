"""Filters that clients have defined: immutable, numbered for each user. spec: client-server-api#filtering"""

from __future__ import annotations

from hashlib import sha256

from sqlalchemy import BindParameter, and_, bindparam, delete, func, select

from homeserver.db.schema.accounts import filters
from homeserver.db.statements import rows, statement
from homeserver.db.tx import Tx, WriteTx

# LIMIT(clients define one or two for each version of theirs; the oldest go, and a client that misses one defines it)
MAX_FILTERS_PER_USER = 1_000

_F = filters.c
_USER: BindParameter[int] = bindparam("the_user_nid")
_BY_HASH = statement(select(_F.filter_id).where(and_(_F.user_nid == _USER, _F.hash == bindparam("the_hash"))))
_ONE = statement(
    select(_F.filter).where(and_(_F.user_nid == _USER, _F.filter_id == bindparam("the_filter_id")))
)
_LAST = statement(select(func.max(_F.filter_id)).where(_F.user_nid == _USER))
_INSERT = rows(filters, "user_nid", "filter_id", "hash", "filter")
_DROP_OLD = statement(delete(filters).where(and_(_F.user_nid == _USER, _F.filter_id <= bindparam("upto"))))


def load_filter(tx: Tx, user_nid: int, filter_id: int) -> str | None:
    """A filter's JSON text."""
    return tx.value(_ONE, the_user_nid=user_nid, the_filter_id=filter_id)  # type: ignore[no-any-return]


def find_filter(tx: Tx, user_nid: int, text: str) -> int | None:
    """The number of a filter that the user defined before."""
    return tx.value(_BY_HASH, the_user_nid=user_nid, the_hash=_hash(text))  # type: ignore[no-any-return]


def store_filter(tx: WriteTx, user_nid: int, text: str) -> int:
    """Keep a filter; the same text gets the same number."""
    known = find_filter(tx, user_nid, text)
    if known is not None:
        return known
    last: int | None = tx.value(_LAST, the_user_nid=user_nid)
    filter_id = 0 if last is None else last + 1
    tx.insert(_INSERT, [(user_nid, filter_id, _hash(text), text)])
    if filter_id >= MAX_FILTERS_PER_USER:
        tx.run(_DROP_OLD, the_user_nid=user_nid, upto=filter_id - MAX_FILTERS_PER_USER)
    return filter_id


def _hash(text: str) -> bytes:
    return sha256(text.encode()).digest()
