"""Pushers: where a user's notifications are sent to. spec: client-server-api#post_matrixclientv3pushersset"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import and_, bindparam, delete, func, select

from homeserver.db.schema.push import pushers
from homeserver.db.statements import rows, statement
from homeserver.db.tx import Row, Tx, WriteTx
from homeserver.store.changes import Kind

# LIMIT(each notification is sent to each of them)
MAX_PER_USER = 100

_P = pushers.c
_COLUMNS = (
    _P.user_nid,
    _P.app_id,
    _P.pushkey,
    _P.kind,
    _P.app_display_name,
    _P.device_display_name,
    _P.profile_tag,
    _P.lang,
    _P.data,
    _P.device_nid,
    _P.created_ts_ms,
)
_PUT = rows(
    pushers,
    *(column.name for column in _COLUMNS),
    keys=("user_nid", "app_id", "pushkey"),
    update=tuple(column.name for column in _COLUMNS[3:]),
)
_OF_USER = statement(
    select(*_COLUMNS)
    .where(_P.user_nid == bindparam("user_nid"))
    .order_by(_P.created_ts_ms, _P.app_id, _P.pushkey)
)
_OF_KEY = statement(
    select(*_COLUMNS).where(and_(_P.app_id == bindparam("app_id"), _P.pushkey == bindparam("pushkey")))
)
_COUNT = statement(select(func.count()).select_from(pushers).where(_P.user_nid == bindparam("user_nid")))
_DROP = statement(
    delete(pushers).where(
        and_(
            _P.user_nid == bindparam("user_nid"),
            _P.app_id == bindparam("app_id"),
            _P.pushkey == bindparam("pushkey"),
        )
    )
)


@dataclass(frozen=True, slots=True)
class Pusher:
    """One place to send a user's notifications to."""

    user_nid: int
    app_id: str
    pushkey: str
    kind: str
    app_display_name: str
    device_display_name: str
    profile_tag: str | None
    lang: str
    data: str  # JSON
    device_nid: int
    created_ts_ms: int


class TooManyPushersError(Exception):
    """The user has as many as a user may have."""


def load_pushers(tx: Tx, user_nid: int) -> list[Pusher]:
    """A user's pushers, the oldest first."""
    return [Pusher(*row) for row in tx.all(_OF_USER, user_nid=user_nid)]


def put_pusher(tx: WriteTx, pusher: Pusher, append: bool) -> None:
    """Set a pusher; without ``append`` those of other users with the same key end. Raises TooManyPushersError."""
    same = [Pusher(*row) for row in tx.all(_OF_KEY, app_id=pusher.app_id, pushkey=pusher.pushkey)]
    own = any(one.user_nid == pusher.user_nid for one in same)
    if not own and tx.value(_COUNT, user_nid=pusher.user_nid) >= MAX_PER_USER:
        raise TooManyPushersError
    if not append:
        for one in same:
            if one.user_nid != pusher.user_nid:
                drop_pusher(tx, one.user_nid, one.app_id, one.pushkey)
    tx.insert(_PUT, [_row(pusher)])
    tx.claim(Kind.PUSHER, -pusher.user_nid)


def drop_pusher(tx: WriteTx, user_nid: int, app_id: str, pushkey: str) -> None:
    """End a pusher, if there is one."""
    tx.run(_DROP, user_nid=user_nid, app_id=app_id, pushkey=pushkey)
    tx.claim(Kind.PUSHER, -user_nid)


def _row(pusher: Pusher) -> Row:
    return tuple(getattr(pusher, column.name) for column in _COLUMNS)
