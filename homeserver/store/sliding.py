"""Connections of sliding sync: what each device was told on each, as bytes that only ``homeserver.sync`` reads.

Of a connection there are several rows, one for each answer that changed something: that which the device came back
with, and those after it, which it may or may not have got. Coming back with one ends those before it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import and_, bindparam, delete, func, or_, select, tuple_, update

from homeserver.db.schema.sync import sliding_connections
from homeserver.db.statements import any_of, rows, statement
from homeserver.db.tx import Ask, Tx, WriteTx
from homeserver.store.device_life import ask_alive, check_alive
from homeserver.store.work import short

# LIMIT(a client has two, and perhaps some for notifications; the one that was used longest ago goes)
CONNECTIONS_PER_DEVICE = 16
# LIMIT(answers to one version that may be on their way: a client has one request at a time)
VERSIONS_KEPT = 4

_C = sliding_connections.c
_OF_DEVICE = and_(_C.user_nid == bindparam("of_user"), _C.device_nid == bindparam("of_device"))
_ONE = and_(_OF_DEVICE, _C.conn_id == bindparam("of_conn"))
_LOAD = statement(select(_C.version, _C.epoch, _C.state, _C.used_ts_ms).where(_ONE).order_by(_C.version))
_INSERT = rows(
    sliding_connections,
    "user_nid",
    "device_nid",
    "conn_id",
    "version",
    "epoch",
    "state",
    "used_ts_ms",
    keys=("user_nid", "device_nid", "conn_id", "version"),
    update=("epoch", "state", "used_ts_ms"),
)
_EPOCH = statement(select(_C.epoch).where(_ONE).order_by(_C.version.desc()).limit(1))
_DROP = statement(delete(sliding_connections).where(_ONE))
_DROP_OLD = statement(
    delete(sliding_connections).where(
        and_(
            _ONE,
            or_(
                _C.version < bindparam("acknowledged"),
                and_(_C.version > bindparam("after"), _C.version <= bindparam("lost")),
            ),
        )
    )
)
_BY_USE = statement(
    select(_C.conn_id).where(_OF_DEVICE).group_by(_C.conn_id).order_by(func.max(_C.used_ts_ms), _C.conn_id)
)
_TOUCH = statement(update(sliding_connections).where(_ONE).values(used_ts_ms=bindparam("now_ms")))
_DROP_OF_DEVICES = statement(delete(sliding_connections).where(any_of(_C.device_nid, "nids")))
_KEY = (_C.user_nid, _C.device_nid, _C.conn_id, _C.version)
_old = (
    select(*_KEY)
    .where(_C.used_ts_ms < bindparam("before_ts_ms"))
    .order_by(_C.used_ts_ms)
    .limit(bindparam("most"))
)
_SWEEP = statement(delete(sliding_connections).where(tuple_(*_KEY).in_(_old)).returning(_C.version))


class ConnectionEndedError(Exception):
    """The device has begun the connection anew meanwhile, or it was forgotten."""


class ConnectionKey(NamedTuple):
    """Whose connection, and which."""

    user_nid: int
    device_nid: int
    conn_id: str


class StoredState(NamedTuple):
    """What a device was told, as of one answer."""

    version: int
    epoch: str
    state: bytes
    used_ts_ms: int


@dataclass(frozen=True, slots=True)
class NewState:
    """What it was told after one more."""

    key: ConnectionKey
    epoch: str
    version: int
    state: bytes
    now_ms: int
    acknowledged: int  # the version that the device came with; 0: it begins


def load_connection(tx: Tx, key: ConnectionKey) -> list[StoredState]:
    """The rows of a connection, oldest first."""
    found = tx.all(_LOAD, of_user=key.user_nid, of_device=key.device_nid, of_conn=key.conn_id)
    return [StoredState(row[0], row[1], bytes(row[2]), row[3]) for row in found]


@short
def store_connection(tx: WriteTx, new: NewState) -> None:
    """A unit of work: keep a state, and end what it replaces. Raises NoDeviceError, ConnectionEndedError."""
    user_nid, device_nid, conn_id = new.key
    by_use = Ask(_BY_USE, {"of_user": user_nid, "of_device": device_nid})
    epoch = Ask(_EPOCH, {"of_user": user_nid, "of_device": device_nid, "of_conn": conn_id})
    tx.ahead([ask_alive(user_nid, device_nid), epoch if new.acknowledged else by_use])
    if device_nid:
        check_alive(tx, user_nid, device_nid)
    if not new.acknowledged:
        others = [other for (other,) in tx.ask(by_use) if other != conn_id]
        for other in (conn_id, *others[: max(0, len(others) - CONNECTIONS_PER_DEVICE + 1)]):
            tx.run(_DROP, of_user=user_nid, of_device=device_nid, of_conn=other)
    else:
        # Who waited with a position of what is over MUST NOT bring it back: the versions of both would be mixed.
        found = tx.ask(epoch)
        if not found or found[0][0] != new.epoch:
            raise ConnectionEndedError
        tx.run(
            _DROP_OLD,
            of_user=user_nid,
            of_device=device_nid,
            of_conn=conn_id,
            acknowledged=new.acknowledged,
            after=new.acknowledged,
            lost=new.version - VERSIONS_KEPT,
        )
    tx.insert(_INSERT, [(user_nid, device_nid, conn_id, new.version, new.epoch, new.state, new.now_ms)])


@short
def touch_connection(tx: WriteTx, key: ConnectionKey, now_ms: int) -> None:
    """The device still uses it."""
    tx.run(_TOUCH, of_user=key.user_nid, of_device=key.device_nid, of_conn=key.conn_id, now_ms=now_ms)


def drop_connections(tx: WriteTx, device_nids: Collection[int]) -> None:
    """The devices are no more."""
    tx.run(_DROP_OF_DEVICES, nids=list(device_nids))


def sweep_connections(tx: Tx, before_ts_ms: int, most: int) -> int:
    """Forget connections that were last used before a moment; how many rows."""
    return len(tx.all(_SWEEP, before_ts_ms=before_ts_ms, most=most))
