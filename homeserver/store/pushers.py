"""Pushers: where a user's notifications are sent to, and what those that are behind still have to get.

# spec: client-server-api#post_matrixclientv3pushersset
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import and_, bindparam, delete, func, select, update

from homeserver.db.schema.accounts import devices
from homeserver.db.schema.push import pusher_debts, pushers
from homeserver.db.statements import any_of, rows, statement
from homeserver.db.tx import Row, Tx, WriteTx
from homeserver.store.changes import Kind
from homeserver.store.device_life import check_alive

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
    _P.enabled,
)
_PUT = rows(
    pushers,
    *(column.name for column in _COLUMNS),
    keys=("user_nid", "app_id", "pushkey"),
    update=tuple(column.name for column in _COLUMNS[3:]),
)
_WITH_DEVICE = select(*_COLUMNS, devices.c.device_id).select_from(
    pushers.outerjoin(devices, devices.c.nid == _P.device_nid)
)
_OF_USER = statement(
    _WITH_DEVICE.where(_P.user_nid == bindparam("user_nid")).order_by(_P.created_ts_ms, _P.app_id, _P.pushkey)
)
_ALL = statement(_WITH_DEVICE.order_by(_P.user_nid, _P.app_id, _P.pushkey))
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

_DROP_REJECTED = statement(
    delete(pushers)
    .where(
        and_(
            _P.user_nid == bindparam("user_nid"),
            _P.app_id == bindparam("app_id"),
            _P.pushkey == bindparam("pushkey"),
            _P.created_ts_ms <= bindparam("known_ts_ms"),
        )
    )
    .returning(_P.user_nid)
)
_DROP_OF_DEVICES = statement(
    delete(pushers)
    .where(and_(any_of(_P.device_nid, "nids"), _P.kind != bindparam("kept_kind")))
    .returning(_P.user_nid, _P.app_id, _P.pushkey)
)
_LEAVE_DEVICES = statement(update(pushers).where(any_of(_P.device_nid, "nids")).values(device_nid=0))
_DEVICE = statement(
    select(devices.c.nid).where(
        and_(devices.c.user_nid == bindparam("user_nid"), devices.c.device_id == bindparam("device_id"))
    )
)

_B = pusher_debts.c
_DEBTS = statement(
    select(
        _B.user_nid, _B.app_id, _B.pushkey, _B.failures, _B.failing_since_ts_ms, _B.retry_at_ts_ms, _B.owed
    )
)
_PUT_DEBTS = rows(
    pusher_debts,
    *(column.name for column in pusher_debts.c),
    keys=("user_nid", "app_id", "pushkey"),
    update=("failures", "failing_since_ts_ms", "retry_at_ts_ms", "owed"),
)
_DROP_DEBT = statement(
    delete(pusher_debts).where(
        and_(
            _B.user_nid == bindparam("user_nid"),
            _B.app_id == bindparam("app_id"),
            _B.pushkey == bindparam("pushkey"),
        )
    )
)
_DROP_DEBTS_OF_USER = statement(delete(pusher_debts).where(_B.user_nid == bindparam("user_nid")))
_DROP_OF_USER = statement(delete(pushers).where(_P.user_nid == bindparam("user_nid")).returning(_P.user_nid))
_EXISTS = statement(
    select(_P.enabled).where(
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
    created_ts_ms: int  # when it was set last
    enabled: int = 1
    device_id: str | None = None  # of ``device_nid``; read, not written

    @property
    def key(self) -> PusherKey:
        return PusherKey(self.user_nid, self.app_id, self.pushkey)


class PusherKey(NamedTuple):
    """Which pusher."""

    user_nid: int
    app_id: str
    pushkey: str


class Debt(NamedTuple):
    """What a pusher that is behind has still to get, and when it is tried again."""

    user_nid: int
    app_id: str
    pushkey: str
    failures: int
    failing_since_ts_ms: int
    retry_at_ts_ms: int
    owed: str

    @property
    def key(self) -> PusherKey:
        return PusherKey(self.user_nid, self.app_id, self.pushkey)


class TooManyPushersError(Exception):
    """The user has as many as a user may have."""


def load_pushers(tx: Tx, user_nid: int) -> list[Pusher]:
    """A user's pushers, the oldest first."""
    return [Pusher(*row) for row in tx.all(_OF_USER, user_nid=user_nid)]


def load_all_pushers(tx: Tx) -> list[Pusher]:
    """Every pusher (at the start)."""
    return [Pusher(*row) for row in tx.all(_ALL)]


def find_device(tx: Tx, user_nid: int, device_id: str) -> int | None:
    """One of a user's devices, by its id."""
    found: int | None = tx.value(_DEVICE, user_nid=user_nid, device_id=device_id)
    return found


def put_pusher(tx: WriteTx, pusher: Pusher, append: bool) -> None:
    """Set a pusher; without ``append`` those of other users with the same key end.

    Raises TooManyPushersError, and NoDeviceError where its device has been logged out meanwhile.
    """
    if pusher.device_nid:
        check_alive(tx, pusher.user_nid, pusher.device_nid)
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
    tx.run(_DROP_DEBT, user_nid=user_nid, app_id=app_id, pushkey=pushkey)
    tx.claim(Kind.PUSHER, -user_nid)


def drop_rejected(tx: WriteTx, key: PusherKey, known_ts_ms: int) -> None:
    """End a pusher that its gateway rejected, unless a client has set it again meanwhile."""
    user_nid, app_id, pushkey = key
    found = tx.column(
        _DROP_REJECTED, user_nid=user_nid, app_id=app_id, pushkey=pushkey, known_ts_ms=known_ts_ms
    )
    if found:
        tx.run(_DROP_DEBT, user_nid=user_nid, app_id=app_id, pushkey=pushkey)
        tx.claim(Kind.PUSHER, -user_nid)


def drop_device_pushers(tx: WriteTx, user_nid: int, device_nids: Sequence[int]) -> None:
    """Devices end, and with them their pushers. Mail is the account's: it is wanted most when nobody is logged in."""
    found = tx.all(_DROP_OF_DEVICES, nids=list(device_nids), kept_kind="email")
    tx.run(_LEAVE_DEVICES, nids=list(device_nids))
    for _, app_id, pushkey in found:
        tx.run(_DROP_DEBT, user_nid=user_nid, app_id=app_id, pushkey=pushkey)
    if found:
        tx.claim(Kind.PUSHER, -user_nid)


def drop_user_pushers(tx: WriteTx, user_nid: int) -> None:
    """An account ends."""
    tx.run(_DROP_DEBTS_OF_USER, user_nid=user_nid)
    if tx.column(_DROP_OF_USER, user_nid=user_nid):
        tx.claim(Kind.PUSHER, -user_nid)


# --- those that are behind -------------------------------------------------------------------------------------


def load_debts(tx: Tx) -> list[Debt]:
    """What every pusher that is behind has still to get (at the start)."""
    return [Debt(*row) for row in tx.all(_DEBTS)]


def store_debts(tx: WriteTx, owing: Sequence[Debt], even: Sequence[PusherKey]) -> None:
    """Note what pushers have still to get; those that are ``even`` have got everything."""
    for key in even:
        tx.run(_DROP_DEBT, user_nid=key.user_nid, app_id=key.app_id, pushkey=key.pushkey)
    # A pusher that ended meanwhile must not leave a row behind.
    there = [one for one in owing if tx.value(_EXISTS, **one.key._asdict()) is not None]
    if there:
        tx.insert(_PUT_DEBTS, [tuple(one) for one in there])


def _row(pusher: Pusher) -> Row:
    return tuple(getattr(pusher, column.name) for column in _COLUMNS)
