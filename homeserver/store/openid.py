"""Tokens that tell a service of other people who a user is. Only hashes are stored. spec: server-server-api#openid"""

from __future__ import annotations

from sqlalchemy import and_, bindparam, delete, select

from homeserver.db.schema.accounts import openid_tokens
from homeserver.db.schema.rooms import user_ids
from homeserver.db.statements import rows, statement
from homeserver.db.tx import Tx, WriteTx

_T = openid_tokens.c
_INSERT = rows(openid_tokens, "hash", "user_nid", "expires_ts_ms")
_SWEEP = statement(delete(openid_tokens).where(_T.expires_ts_ms <= bindparam("now_ms")))
_OWNER = statement(
    select(user_ids.c.user_id)
    .select_from(openid_tokens.join(user_ids, user_ids.c.nid == _T.user_nid))
    .where(and_(_T.hash == bindparam("hash"), _T.expires_ts_ms > bindparam("now_ms")))
)
_DROP_OF_USER = statement(delete(openid_tokens).where(_T.user_nid == bindparam("user_nid")))


def store_openid_token(
    tx: WriteTx, token_hash: bytes, user_nid: int, expires_ts_ms: int, now_ms: int
) -> None:
    """Keep a token, and forget those that are over."""
    tx.run(_SWEEP, now_ms=now_ms)
    tx.insert(_INSERT, [(token_hash, user_nid, expires_ts_ms)])


def find_openid_owner(tx: Tx, token_hash: bytes, now_ms: int) -> str | None:
    """The user id of whose token it is, unless it is over."""
    owner: str | None = tx.value(_OWNER, hash=token_hash, now_ms=now_ms)
    return owner


def drop_openid_tokens(tx: Tx, user_nid: int) -> None:
    """The account is gone."""
    tx.run(_DROP_OF_USER, user_nid=user_nid)
