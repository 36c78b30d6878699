"""Apps that registered themselves, and the key with which id tokens are signed."""

from __future__ import annotations

from sqlalchemy import and_, bindparam, delete, exists, select, update

from homeserver.db.schema.oauth import oauth_clients, oauth_keys, oauth_sessions
from homeserver.db.statements import any_of, rows, statement
from homeserver.db.tx import Tx, WriteTx

_C = oauth_clients.c
_INSERT = rows(
    oauth_clients, "client_id", "metadata", "used_ts_ms", keys=("client_id",), update=("used_ts_ms",)
)
_METADATA = statement(select(_C.metadata).where(_C.client_id == bindparam("client_id")))
_USED = statement(
    update(oauth_clients)
    .where(_C.client_id == bindparam("the_client_id"))
    .values(used_ts_ms=bindparam("now_ms"))
)
_has_session = exists(select(oauth_sessions.c.device_nid).where(oauth_sessions.c.client_id == _C.client_id))
# spec: client-server-api#dynamic-client-registration-flow (those with a session must stay)
_OLD = statement(
    select(_C.client_id)
    .where(and_(_C.used_ts_ms < bindparam("before_ts_ms"), ~_has_session))
    .order_by(_C.used_ts_ms)
    .limit(bindparam("most"))
)
_TOO_MANY = statement(
    select(_C.client_id)
    .where(~_has_session)
    .order_by(_C.used_ts_ms.desc(), _C.client_id)
    .offset(bindparam("kept"))
    .limit(bindparam("most"))
)
_DROP = statement(delete(oauth_clients).where(any_of(_C.client_id, "client_ids")))
_K = oauth_keys.c
_INSERT_KEY = rows(oauth_keys, "kid", "private_key", "created_ts_ms")
_KEY = statement(select(_K.kid, _K.private_key).order_by(_K.created_ts_ms, _K.kid).limit(1))

_SWEPT_AT_ONCE = 20


def put_client(tx: WriteTx, client_id: str, metadata: str, now_ms: int, forget_before_ms: int) -> None:
    """An app registers, for the first time or again. Some of those that nobody uses are forgotten."""
    old = tx.column(_OLD, before_ts_ms=forget_before_ms, most=_SWEPT_AT_ONCE)
    if old:
        tx.run(_DROP, client_ids=old)
    tx.insert(_INSERT, [(client_id, metadata, now_ms)])


def trim_clients(tx: WriteTx, kept: int, most: int) -> None:
    """Of the apps that nobody uses keep the newest so many; up to ``most`` others are forgotten."""
    found = tx.column(_TOO_MANY, kept=kept, most=most)
    if found:
        tx.run(_DROP, client_ids=found)


def load_client(tx: Tx, client_id: str) -> str | None:
    """An app's metadata, as JSON."""
    found: str | None = tx.value(_METADATA, client_id=client_id)
    return found


def note_client_used(tx: Tx, client_id: str, now_ms: int) -> None:
    """Somebody logged in by it."""
    tx.run(_USED, the_client_id=client_id, now_ms=now_ms)


def load_signing_key(tx: Tx) -> tuple[str, str] | None:
    """Id and PEM text of the key of id tokens."""
    row = tx.one(_KEY)
    return None if row is None else (row[0], row[1])


def put_signing_key(tx: WriteTx, kid: str, private_key: str, now_ms: int) -> tuple[str, str]:
    """Keep a key, unless another process was faster; the one that is in force."""
    found = load_signing_key(tx)
    if found is None:
        tx.insert(_INSERT_KEY, [(kid, private_key, now_ms)])
        return kid, private_key
    return found
