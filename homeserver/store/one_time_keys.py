"""One-time and fallback keys: given out in the order of their upload, each one-time key once.

1. A key is claimed by deleting its row in the writer: who gets the row back has the key, and nobody else, in any
   process and across restarts.
2. Whoever counts keys in memory follows ``Kind.DEVICE_KEYS``, whose payload says what is left.

# spec: client-server-api#one-time-and-fallback-keys
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import and_, bindparam, delete, func, literal, select, update

from homeserver.db.schema.accounts import devices
from homeserver.db.schema.e2ee import fallback_keys, one_time_keys
from homeserver.db.statements import any_of, rows, statement
from homeserver.db.tx import Tx, WriteTx
from homeserver.store.changes import Kind
from homeserver.store.device_life import check_alive

# LIMIT(clients keep about a hundred; more than that only fill the disk)
MAX_ONE_TIME_KEYS = 1_000
MAX_FALLBACK_KEYS = 10

_O = one_time_keys.c
_F = fallback_keys.c
_DEVICE = _O.device_nid == bindparam("device_nid")
_INSERT = rows(one_time_keys, "device_nid", "algorithm", "key_id", "place", "key")
_SAME = statement(select(_O.algorithm, _O.key_id, _O.key).where(and_(_DEVICE, any_of(_O.key_id, "key_ids"))))
_SUMMARY = statement(
    select(_O.algorithm, func.count(), func.max(_O.place)).where(_DEVICE).group_by(_O.algorithm)
)
_ALGORITHM = _O.algorithm == bindparam("algorithm")
_nid = (
    select(devices.c.nid)
    .where(and_(devices.c.user_nid == bindparam("user_nid"), devices.c.device_id == bindparam("device_id")))
    .scalar_subquery()
)
# Several processes may claim at once: a row that another is about to delete is passed over, not waited for.
_next = (
    select(_O.key_id)
    .where(and_(_O.device_nid == _nid, _ALGORITHM))
    .order_by(_O.place, _O.key_id)
    .limit(1)
    .with_for_update(skip_locked=True)
    .scalar_subquery()
)
_TAKE = statement(
    delete(one_time_keys)
    .where(and_(_O.device_nid == _nid, _ALGORITHM, _O.key_id == _next))
    .returning(_O.device_nid, _O.key_id, _O.key)
)
_LEFT = statement(
    select(_O.algorithm, func.count())
    .where(_DEVICE)
    .group_by(_O.algorithm)
    .union_all(
        # Below 0: what has a fallback key that nobody was given yet.
        select(_F.algorithm, literal(-1)).where(and_(_F.device_nid == bindparam("device_nid"), _F.used == 0))
    )
)
_PUT_FALLBACK = rows(
    fallback_keys,
    "device_nid",
    "algorithm",
    "key_id",
    "key",
    "used",
    keys=("device_nid", "algorithm"),
    update=("key_id", "key", "used"),
)
_FALLBACKS = statement(
    select(_F.algorithm, _F.key_id, _F.key, _F.used)
    .where(_F.device_nid == bindparam("device_nid"))
    .order_by(_F.algorithm)
)
_USE_FALLBACK = statement(
    update(fallback_keys)
    .where(and_(_F.device_nid == bindparam("the_device"), _F.algorithm == bindparam("the_algorithm")))
    .values(used=1)
)
_NID = statement(
    select(devices.c.nid).where(
        and_(devices.c.user_nid == bindparam("user_nid"), devices.c.device_id == bindparam("device_id"))
    )
)
_DROP = statement(delete(one_time_keys).where(any_of(_O.device_nid, "nids")))
_DROP_FALLBACKS = statement(delete(fallback_keys).where(any_of(_F.device_nid, "nids")))


class NewKey(NamedTuple):
    """A key as a device uploads it; ``key`` is JSON text."""

    algorithm: str
    key_id: str
    key: str


class Claimed(NamedTuple):
    """A key that was given out; ``name`` is ``algorithm:key_id``."""

    user_nid: int
    device_id: str
    name: str
    key: str


@dataclass(frozen=True, slots=True)
class KeysLeft:
    """What a device has left: payload of ``Kind.DEVICE_KEYS``."""

    device_nid: int
    counts: Mapping[str, int] = field(
        default_factory=dict
    )  # by algorithm, without those of which there are none
    unused_fallbacks: Sequence[str] = ()


class KeyExistsError(Exception):
    """A one-time key of this name is there already, and is another one. ``args[0]`` is its name."""


class TooManyKeysError(Exception):
    """The device has as many keys as a device may have."""


def load_keys_left(tx: Tx, device_nid: int) -> KeysLeft:
    """What a device has left."""
    found = sorted(tx.all(_LEFT, device_nid=device_nid))
    counts = {algorithm: count for algorithm, count in found if count > 0}
    return KeysLeft(device_nid, counts, tuple(algorithm for algorithm, count in found if count < 0))


def put_one_time_keys(
    tx: WriteTx, user_nid: int, device_nid: int, keys: Sequence[NewKey], fallbacks: Sequence[NewKey]
) -> KeysLeft:
    """Add keys. The same key twice is one. Raises NoDeviceError, KeyExistsError and TooManyKeysError."""
    check_alive(tx, user_nid, device_nid)
    known = {(row[0], row[1]): row[2] for row in tx.all(_SAME, device_nid=device_nid, key_ids=_ids(keys))}
    fresh: list[NewKey] = []
    for one in keys:
        old = known.get((one.algorithm, one.key_id))
        if old is None:
            fresh.append(one)
        elif old != one.key:
            raise KeyExistsError(f"{one.algorithm}:{one.key_id}")
    summary = tx.all(_SUMMARY, device_nid=device_nid)
    if sum(row[1] for row in summary) + len(fresh) > MAX_ONE_TIME_KEYS:
        raise TooManyKeysError
    place = max((row[2] for row in summary), default=0) + 1
    tx.insert(_INSERT, [(device_nid, one.algorithm, one.key_id, place, one.key) for one in fresh])
    changed = bool(fresh)
    if fallbacks:
        changed |= _put_fallbacks(tx, device_nid, fallbacks)
    left = load_keys_left(tx, device_nid)
    if changed:
        tx.claim(Kind.DEVICE_KEYS, -user_nid, device_nid, payload=left)
    return left


def _put_fallbacks(tx: WriteTx, device_nid: int, fallbacks: Sequence[NewKey]) -> bool:
    known = {row[0]: (row[1], row[2]) for row in tx.all(_FALLBACKS, device_nid=device_nid)}
    # One that is uploaded again stays used: the retry of a request must not make it new.
    fresh = [one for one in fallbacks if known.get(one.algorithm) != (one.key_id, one.key)]
    if len({*known, *(one.algorithm for one in fresh)}) > MAX_FALLBACK_KEYS:
        raise TooManyKeysError
    tx.insert(_PUT_FALLBACK, [(device_nid, one.algorithm, one.key_id, one.key, 0) for one in fresh])
    return bool(fresh)


def claim_keys(tx: WriteTx, wanted: Sequence[tuple[int, str, str]]) -> list[Claimed]:
    """One key for each (user, device id, algorithm): a one-time key, else the fallback key, else nothing."""
    claimed: list[Claimed] = []
    touched: dict[int, int] = {}
    for user_nid, device_id, algorithm in wanted:
        row = tx.one(_TAKE, user_nid=user_nid, device_id=device_id, algorithm=algorithm)
        if row is not None:
            device_nid, key_id, key = row
            touched[device_nid] = user_nid
        else:
            device_nid = tx.value(_NID, user_nid=user_nid, device_id=device_id)
            found, fresh = _use_fallback(tx, device_nid, algorithm)
            if fresh:
                touched[device_nid] = user_nid
            if found is None:
                continue
            key_id, key = found
        claimed.append(Claimed(user_nid, device_id, f"{algorithm}:{key_id}", key))
    for device_nid, user_nid in touched.items():
        tx.claim(Kind.DEVICE_KEYS, -user_nid, device_nid, payload=load_keys_left(tx, device_nid))
    return claimed


def _use_fallback(tx: WriteTx, device_nid: int | None, algorithm: str) -> tuple[tuple[str, str] | None, bool]:
    """The key, and whether this was its first use."""
    if device_nid is None:
        return None, False
    for name, key_id, key, used in tx.all(_FALLBACKS, device_nid=device_nid):
        if name == algorithm:
            if not used:
                tx.run(_USE_FALLBACK, the_device=device_nid, the_algorithm=algorithm)
            return (key_id, key), not used
    return None, False


def drop_one_time_keys(tx: WriteTx, device_nids: Collection[int]) -> None:
    """The devices are gone."""
    tx.run(_DROP, nids=list(device_nids))
    tx.run(_DROP_FALLBACKS, nids=list(device_nids))


def _ids(keys: Sequence[NewKey]) -> list[str]:
    return [one.key_id for one in keys]
