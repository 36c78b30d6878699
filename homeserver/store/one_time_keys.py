"""One-time and fallback keys of devices: their upload, what is left of them, their end. ``key_claims.py`` gives them out.

1. A device's one-time keys of one algorithm are a queue: numbered in the order of their upload, and two counts say which
   of them are left. So nobody looks for the next one, and nobody counts them.
2. An upload that comes again changes nothing, though keys of it were given out meanwhile: as long as a device uploads a
   key its row stays, and the key is known.
3. Whoever knows in memory what is left follows ``Kind.DEVICE_KEYS``, whose payload says it.

# spec: client-server-api#one-time-and-fallback-keys
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import and_, bindparam, delete, func, literal, select

from homeserver.db.schema.e2ee import fallback_keys, one_time_counts, one_time_keys
from homeserver.db.statements import any_of, rows, statement
from homeserver.db.tx import Ask, Tx, WriteTx
from homeserver.store.changes import Kind
from homeserver.store.device_life import check_alive

# LIMIT(clients mean to keep about a hundred, and the newest; more than that only fill the disk)
MAX_ONE_TIME_KEYS = 1_000
MAX_FALLBACK_KEYS = 10
# COMPAT(matrix-rust-sdk in Element and Element X, always): what is not named keeps the count that it had, so a device
# whose last key was claimed while it was away would never upload another one.
ALWAYS_COUNTED = "signed_curve25519"

_O = one_time_keys.c
_C = one_time_counts.c
_F = fallback_keys.c
_DEVICE = _O.device_nid == bindparam("device_nid")
_INSERT = rows(one_time_keys, "device_nid", "algorithm", "number", "key_id", "place", "key")
_PUT_COUNTS = rows(
    one_time_counts,
    "device_nid",
    "algorithm",
    "given",
    "uploaded",
    keys=("device_nid", "algorithm"),
    update=("given", "uploaded"),
)
_COUNTS = statement(
    select(_C.algorithm, _C.given, _C.uploaded)
    .where(_C.device_nid == bindparam("device_nid"))
    .order_by(_C.algorithm)  # as claims do: two that wait for each other would wait for ever
    .with_for_update()
)
_SAME = statement(
    select(_O.algorithm, _O.key_id, _O.number, _O.key).where(and_(_DEVICE, any_of(_O.key_id, "key_ids")))
)
_NEWEST_PLACE = statement(select(func.max(_O.place)).where(_DEVICE))
# The first that would be given out.
_OLDEST = statement(
    select(_O.algorithm)
    .join_from(
        one_time_keys,
        one_time_counts,
        and_(_C.device_nid == _O.device_nid, _C.algorithm == _O.algorithm, _C.given <= _O.number),
    )
    .where(_DEVICE)
    .order_by(_O.place, _O.algorithm, _O.number)
    .limit(bindparam("most"))
)
_DROP_GIVEN = statement(
    delete(one_time_keys).where(
        and_(
            _DEVICE,
            _O.algorithm == bindparam("of_algorithm"),
            _O.number < bindparam("given"),
            ~any_of(_O.number, "again"),
        )
    )
)
_LEFT = statement(
    select(_C.device_nid, _C.algorithm, _C.uploaded - _C.given)
    .where(and_(any_of(_C.device_nid, "nids"), _C.given < _C.uploaded))
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
_DROP = statement(delete(one_time_keys).where(any_of(_O.device_nid, "nids")))
_DROP_COUNTS = statement(delete(one_time_counts).where(any_of(_C.device_nid, "nids")))
_DROP_FALLBACKS = statement(delete(fallback_keys).where(any_of(_F.device_nid, "nids")))


class NewKey(NamedTuple):
    """A key as a device uploads it; ``key`` is JSON text."""

    algorithm: str
    key_id: str
    key: str


@dataclass(frozen=True, slots=True)
class KeysLeft:
    """What a device has left: payload of ``Kind.DEVICE_KEYS`` where more than one algorithm may have changed."""

    device_nid: int
    # By algorithm, without those of which there are none, but for that which is always counted.
    counts: Mapping[str, int] = field(default_factory=lambda: {ALWAYS_COUNTED: 0})
    unused_fallbacks: Sequence[str] = ()

    @property
    def weight(self) -> int:
        """See ``Change.weight``: an algorithm may have any name."""
        return 300 * (len(self.counts) + len(self.unused_fallbacks))

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
    changed = bool(keys) and _put_keys(tx, device_nid, keys)
    if fallbacks:
        changed |= _put_fallbacks(tx, device_nid, fallbacks)
    left = load_keys_left(tx, device_nid)
    if changed:
        tx.claim(Kind.DEVICE_KEYS, -user_nid, device_nid, payload=left)
    return left


@dataclass(slots=True)
class _Count:
    given: int = 0
    uploaded: int = 0
    again: list[int] = field(default_factory=list)  # what was given out, and is in this upload as well


def _put_keys(tx: Tx, device_nid: int, keys: Sequence[NewKey]) -> bool:
    """Whether any of them is new."""
    # First and by itself: whoever waits for another process here must see what that one has uploaded.
    counts = {row[0]: _Count(*row[1:]) for row in tx.all(_COUNTS, device_nid=device_nid)}
    same = Ask(_SAME, {"device_nid": device_nid, "key_ids": [one.key_id for one in keys]})
    newest = Ask(_NEWEST_PLACE, {"device_nid": device_nid})
    tx.ahead([same, newest])
    known = {(row[0], row[1]): (row[2], row[3]) for row in tx.ask(same)}
    place = (tx.ask(newest)[0][0] or 0) + 1
    fresh: list[NewKey] = []
    for one in keys:
        number, key = known.get((one.algorithm, one.key_id), (0, None))
        was_given = key is not None and number < counts[one.algorithm].given
        if key == one.key:
            if was_given:
                counts[one.algorithm].again.append(number)
        elif key is None or was_given:  # then its name is free
            fresh.append(one)
        else:
            raise KeyExistsError(f"{one.algorithm}:{one.key_id}")
    if len(fresh) > MAX_ONE_TIME_KEYS:
        raise TooManyKeysError
    _drop_given(tx, device_nid, counts)
    if fresh:
        _add_keys(tx, device_nid, counts, place, fresh)
    return bool(fresh)


def _add_keys(
    tx: Tx, device_nid: int, counts: dict[str, _Count], place: int, fresh: Sequence[NewKey]
) -> None:
    """``fresh`` are none of those that are there."""
    over = sum(count.uploaded - count.given for count in counts.values()) + len(fresh) - MAX_ONE_TIME_KEYS
    if over > 0:
        for algorithm in tx.column(_OLDEST, device_nid=device_nid, most=over):
            counts[algorithm].given += 1
    values = []
    for one in sorted(fresh):
        count = counts.setdefault(one.algorithm, _Count())
        values.append((device_nid, one.algorithm, count.uploaded, one.key_id, place, one.key))
        count.uploaded += 1
    tx.insert(_INSERT, values)
    tx.insert(
        _PUT_COUNTS,
        [(device_nid, algorithm, count.given, count.uploaded) for algorithm, count in counts.items()],
    )
    if over > 0:
        _drop_given(tx, device_nid, counts)


def _drop_given(tx: Tx, device_nid: int, counts: Mapping[str, _Count]) -> None:
    """What was given out, or has made room; but what the device uploads again must stay known."""
    for algorithm, count in counts.items():
        if count.given:
            tx.run(
                _DROP_GIVEN,
                device_nid=device_nid,
                of_algorithm=algorithm,
                given=count.given,
                again=count.again,
            )


def _put_fallbacks(tx: WriteTx, device_nid: int, fallbacks: Sequence[NewKey]) -> bool:
    known = {row[0]: (row[1], row[2]) for row in tx.all(_FALLBACKS, device_nid=device_nid)}
    # One that is uploaded again stays used: the retry of a request must not make it new.
    fresh = [one for one in fallbacks if known.get(one.algorithm) != (one.key_id, one.key)]
    if len({*known, *(one.algorithm for one in fresh)}) > MAX_FALLBACK_KEYS:
        raise TooManyKeysError
    tx.insert(_PUT_FALLBACK, [(device_nid, one.algorithm, one.key_id, one.key, 0) for one in fresh])
    return bool(fresh)


def drop_one_time_keys(tx: WriteTx, device_nids: Collection[int]) -> None:
    """The devices are gone."""
    tx.run(_DROP, nids=list(device_nids))
    tx.run(_DROP_COUNTS, nids=list(device_nids))
    tx.run(_DROP_FALLBACKS, nids=list(device_nids))
