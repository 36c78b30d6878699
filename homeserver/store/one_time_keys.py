"""One-time and fallback keys: given out in the order of their upload, each one-time key once.

1. A key is claimed by choosing its row, which nobody else can choose then, and deleting it in the same transaction: in
   any process and across restarts. All claims of a unit of work take two statements.
2. Whoever counts keys in memory follows ``Kind.DEVICE_KEYS``, whose payload says what is left.

# spec: client-server-api#one-time-and-fallback-keys
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import Text, and_, bindparam, cast, delete, func, literal, select, update

from homeserver.db.schema.accounts import devices
from homeserver.db.schema.e2ee import fallback_keys, one_time_keys
from homeserver.db.statements import any_of, any_pair, gone, pairs_text, rows, statement
from homeserver.db.tx import Tx, WriteTx
from homeserver.store.changes import Kind
from homeserver.store.device_life import check_alive

# LIMIT(clients mean to keep about a hundred, and the newest; more than that only fill the disk)
MAX_ONE_TIME_KEYS = 1_000
MAX_FALLBACK_KEYS = 10
# COMPAT(matrix-rust-sdk in Element and Element X, always): what is not named keeps the count that it had, so a device
# whose last key was claimed while it was away would never upload another one.
ALWAYS_COUNTED = "signed_curve25519"

_O = one_time_keys.c
_F = fallback_keys.c
_DEVICE = _O.device_nid == bindparam("device_nid")
_INSERT = rows(one_time_keys, "device_nid", "algorithm", "key_id", "place", "key")
_SAME = statement(select(_O.algorithm, _O.key_id, _O.key).where(and_(_DEVICE, any_of(_O.key_id, "key_ids"))))
_SUMMARY = statement(
    select(_O.algorithm, func.count(), func.max(_O.place)).where(_DEVICE).group_by(_O.algorithm)
)
_ALGORITHM = _O.algorithm == bindparam("algorithm")
# Several processes may claim at once: a row that another is about to delete is passed over, not waited for.
# The name and the key as one value, of which a subquery gives no more: "<characters of the name>:<name><key>".
_next_key = (
    select(cast(func.length(_O.key_id), Text) + ":" + _O.key_id + _O.key)
    .where(and_(_O.device_nid == devices.c.nid, _ALGORITHM))
    .order_by(_O.place, _O.key_id)
    .limit(1)
    .with_for_update(skip_locked=True)
    .scalar_subquery()
)
_there = (
    select(func.count())
    .select_from(one_time_keys)
    .where(and_(_O.device_nid == devices.c.nid, _ALGORITHM))
    .scalar_subquery()
)
_NEXT = statement(
    select(devices.c.user_nid, devices.c.device_id, devices.c.nid, _there, _next_key).where(
        any_pair(devices.c.user_nid, devices.c.device_id, "pairs")
    )
)
# The first that would be given out.
_OLDEST = statement(
    select(_O.device_nid, _O.algorithm, _O.key_id)
    .where(_DEVICE)
    .order_by(_O.place, _O.algorithm, _O.key_id)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_GIVE_OUT = gone(one_time_keys, "device_nid", "algorithm", "key_id")
_LEFT = statement(
    select(_O.device_nid, _O.algorithm, func.count())
    .where(any_of(_O.device_nid, "nids"))
    .group_by(_O.device_nid, _O.algorithm)
    .union_all(
        # Below 0: what has a fallback key that nobody was given yet.
        select(_F.device_nid, _F.algorithm, literal(-1)).where(
            and_(any_of(_F.device_nid, "nids"), _F.used == 0)
        )
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
_USE_FALLBACKS = statement(
    update(fallback_keys)
    .where(and_(any_of(_F.device_nid, "the_devices"), _F.algorithm == bindparam("the_algorithm")))
    .values(used=1)
)
_FALLBACKS_OF = statement(
    select(_F.device_nid, _F.key_id, _F.key, _F.used).where(
        and_(any_of(_F.device_nid, "nids"), _F.algorithm == bindparam("algorithm"))
    )
)
_DROP = statement(delete(one_time_keys).where(any_of(_O.device_nid, "nids")))
_DROP_FALLBACKS = statement(delete(fallback_keys).where(any_of(_F.device_nid, "nids")))


class NewKey(NamedTuple):
    """A key as a device uploads it; ``key`` is JSON text."""

    algorithm: str
    key_id: str
    key: str


class Wanted(NamedTuple):
    """Of which device a key is claimed."""

    user_nid: int
    device_id: str
    algorithm: str


class Claimed(NamedTuple):
    """A key that was given out; ``name`` is ``algorithm:key_id``."""

    user_nid: int
    device_id: str
    name: str
    key: str


@dataclass(frozen=True, slots=True)
class KeysLeft:
    """What a device has left: payload of ``Kind.DEVICE_KEYS`` where more than one algorithm may have changed."""

    device_nid: int
    # By algorithm, without those of which there are none, but for that which is always counted.
    counts: Mapping[str, int] = field(default_factory=lambda: {ALWAYS_COUNTED: 0})
    unused_fallbacks: Sequence[str] = ()

    def after(self, taken: KeysTaken) -> KeysLeft:
        """The same after a claim."""
        counts = {name: count for name, count in self.counts.items() if name != taken.algorithm}
        if taken.left or taken.algorithm == ALWAYS_COUNTED:
            counts[taken.algorithm] = taken.left
        return KeysLeft(self.device_nid, counts, self.unused_fallbacks)


class KeysTaken(NamedTuple):
    """What a device has left of one algorithm after a claim: the other payload of ``Kind.DEVICE_KEYS``."""

    algorithm: str
    left: int


class KeyExistsError(Exception):
    """A one-time key of this name is there already, and is another one. ``args[0]`` is its name."""


class TooManyKeysError(Exception):
    """These are more keys than a device may have."""


def load_keys_left(tx: Tx, device_nid: int) -> KeysLeft:
    """What a device has left."""
    return load_keys_left_of(tx, [device_nid])[device_nid]


def load_keys_left_of(tx: Tx, device_nids: Collection[int]) -> dict[int, KeysLeft]:
    """What devices have left."""
    counts: dict[int, dict[str, int]] = {nid: {ALWAYS_COUNTED: 0} for nid in device_nids}
    fallbacks: dict[int, list[str]] = {nid: [] for nid in device_nids}
    for device_nid, algorithm, count in sorted(tx.all(_LEFT, nids=list(device_nids))):
        if count > 0:
            counts[device_nid][algorithm] = count
        else:
            fallbacks[device_nid].append(algorithm)
    return {nid: KeysLeft(nid, counts[nid], tuple(fallbacks[nid])) for nid in device_nids}


def put_one_time_keys(
    tx: WriteTx, user_nid: int, device_nid: int, keys: Sequence[NewKey], fallbacks: Sequence[NewKey]
) -> KeysLeft:
    """Add keys. The same key twice is one, and where there are too many the oldest go: what a client no longer has
    itself. Raises NoDeviceError, KeyExistsError and TooManyKeysError."""
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
    if len(fresh) > MAX_ONE_TIME_KEYS:
        raise TooManyKeysError
    over = sum(row[1] for row in summary) + len(fresh) - MAX_ONE_TIME_KEYS
    if over > 0:
        tx.delete(_GIVE_OUT, tx.all(_OLDEST, device_nid=device_nid, most=over))
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


def claim_keys(tx: WriteTx, wanted: Sequence[Wanted]) -> list[Claimed | None]:
    """For each a one-time key, else the fallback key, else nothing."""
    answers: dict[int, Claimed] = {}
    left = list(enumerate(wanted))
    while left:
        # Of a device one key at a time, and one algorithm: in practice there is no other, and nobody asks twice.
        algorithm = left[0][1].algorithm
        asked: dict[tuple[int, str], int] = {}
        rest: list[tuple[int, Wanted]] = []
        for place, one in left:
            if one.algorithm == algorithm and one[:2] not in asked:
                asked[one.user_nid, one.device_id] = place
            else:
                rest.append((place, one))
        for claimed in _take(tx, algorithm, list(asked)):
            answers[asked[claimed.user_nid, claimed.device_id]] = claimed
        left = rest
    return [answers.get(place) for place in range(len(wanted))]


def _take(tx: WriteTx, algorithm: str, asked: Sequence[tuple[int, str]]) -> list[Claimed]:
    """A key of each device that has one."""
    found: list[Claimed] = []
    taken: list[tuple[int, str, str]] = []
    without: dict[int, tuple[int, str]] = {}
    for user_nid, device_id, nid, there, both in tx.all(_NEXT, algorithm=algorithm, pairs=pairs_text(asked)):
        if both is None:
            without[nid] = (user_nid, device_id)
            continue
        size, _, rest = both.partition(":")
        key_id, key = rest[: int(size)], rest[int(size) :]
        taken.append((nid, algorithm, key_id))
        found.append(Claimed(user_nid, device_id, f"{algorithm}:{key_id}", key))
        tx.claim(Kind.DEVICE_KEYS, -user_nid, nid, payload=KeysTaken(algorithm, there - 1))
    if taken:
        # On PostgreSQL the rows are locked since they were chosen: they are there, and nobody else has them.
        tx.delete(_GIVE_OUT, taken)
    if without:
        found += _take_fallbacks(tx, algorithm, without)
    return found


def _take_fallbacks(tx: WriteTx, algorithm: str, without: Mapping[int, tuple[int, str]]) -> list[Claimed]:
    """The fallback key of each device that has one; ``without`` are (user, device id) by device."""
    found: list[Claimed] = []
    fresh: list[int] = []
    for nid, key_id, key, was_used in tx.all(_FALLBACKS_OF, nids=list(without), algorithm=algorithm):
        found.append(Claimed(*without[nid], f"{algorithm}:{key_id}", key))
        if not was_used:
            fresh.append(nid)
    if fresh:
        tx.run(_USE_FALLBACKS, the_devices=fresh, the_algorithm=algorithm)
        for nid, left in load_keys_left_of(tx, fresh).items():
            tx.claim(Kind.DEVICE_KEYS, -without[nid][0], nid, payload=left)
    return found


def drop_one_time_keys(tx: WriteTx, device_nids: Collection[int]) -> None:
    """The devices are gone."""
    tx.run(_DROP, nids=list(device_nids))
    tx.run(_DROP_FALLBACKS, nids=list(device_nids))


def _ids(keys: Sequence[NewKey]) -> list[str]:
    return [one.key_id for one in keys]
