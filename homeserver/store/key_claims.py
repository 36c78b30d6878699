"""Claims of one-time keys: given out in the order of their upload, each once; then the fallback key.

A key is claimed by moving the count of those that were given out (``one_time_counts``): in any process and across
restarts. Two processes that want a key of one device wait for each other, and never in a circle: every unit of work locks
its rows in one order, counts before fallback keys, each by algorithm and device. All claims of a unit of work are one
statement, and change the few pages on which the counts are.

# spec: client-server-api#one-time-and-fallback-keys
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Text,
    and_,
    bindparam,
    cast,
    func,
    literal_column,
    select,
    update,
)
from sqlalchemy.sql import ClauseElement

from homeserver.db.errors import Conflict
from homeserver.db.schema.accounts import devices
from homeserver.db.schema.e2ee import fallback_keys, one_time_counts, one_time_keys
from homeserver.db.statements import POSTGRESQL, Statement, any_of, any_pair, pairs_text, statement
from homeserver.db.tx import WriteTx
from homeserver.store.changes import Kind
from homeserver.store.one_time_keys import KeysTaken, load_keys_left_of
from homeserver.store.work import short

_O = one_time_keys.c
_C = one_time_counts.c
_F = fallback_keys.c


def _build_take(dialect: str) -> ClauseElement:
    """The next key of each of some devices that have one: whose it is, what is left after it, its name and itself.

    The name and the key are one value, of which a subquery gives no more: "<characters of the name>:<name><key>".
    """
    asked = any_pair(devices.c.user_nid, devices.c.device_id, "pairs")
    algorithm: BindParameter[str] = bindparam("of_algorithm")
    taken = (
        update(one_time_counts)
        .where(and_(_C.algorithm == algorithm, _C.given < _C.uploaded))
        .values(given=_C.given + 1)
    )
    # Of what is returned SQLAlchemy writes no table for SQLite, where a subquery would take its own for meant.
    device_nid: ColumnElement[int] = literal_column("one_time_counts.device_nid")
    given: ColumnElement[int] = literal_column("one_time_counts.given")
    key = (
        select(cast(func.length(_O.key_id), Text) + ":" + _O.key_id + _O.key)
        .where(and_(_O.device_nid == device_nid, _O.algorithm == algorithm, _O.number == given - 1))
        .scalar_subquery()
    )
    rest = (_C.device_nid, _C.uploaded - _C.given, key)
    if dialect == POSTGRESQL:
        # An update locks what it changes in whichever order the plan finds it.
        held = (
            select(_C.device_nid, devices.c.user_nid, devices.c.device_id)
            .join_from(devices, one_time_counts, devices.c.nid == _C.device_nid)
            .where(and_(asked, _C.algorithm == algorithm, _C.given < _C.uploaded))
            .order_by(_C.device_nid)
            .with_for_update(of=one_time_counts)
            .subquery("held")
        )
        return taken.where(_C.device_nid == held.c.device_nid).returning(
            held.c.user_nid, held.c.device_id, *rest
        )
    # SQLite returns nothing of other tables.
    whose = [
        select(column).where(devices.c.nid == device_nid).scalar_subquery()
        for column in (devices.c.user_nid, devices.c.device_id)
    ]
    return taken.where(_C.device_nid.in_(select(devices.c.nid).where(asked))).returning(*whose, *rest)


def _build_use_fallbacks(dialect: str) -> ClauseElement:
    """The fallback keys of some devices were given out."""
    used = update(fallback_keys).where(_F.algorithm == bindparam("the_algorithm")).values(used=1)
    wanted = any_of(_F.device_nid, "the_devices")
    if dialect != POSTGRESQL:
        return used.where(wanted)
    held = (
        select(_F.device_nid)
        .where(and_(wanted, _F.algorithm == bindparam("the_algorithm")))
        .order_by(_F.device_nid)
        .with_for_update()
        .subquery("held")
    )
    return used.where(_F.device_nid == held.c.device_nid)


_TAKE = Statement(_build_take)
_USE_FALLBACKS = Statement(_build_use_fallbacks)
_FALLBACKS_OF = statement(
    select(devices.c.user_nid, devices.c.device_id, _F.device_nid, _F.key_id, _F.key, _F.used)
    .join_from(devices, fallback_keys, devices.c.nid == _F.device_nid)
    .where(
        and_(
            any_pair(devices.c.user_nid, devices.c.device_id, "pairs"),
            _F.algorithm == bindparam("of_algorithm"),
        )
    )
)


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


@short
def claim_keys(tx: WriteTx, wanted: Sequence[Wanted]) -> list[Claimed | None]:
    """For each a one-time key, else the fallback key, else nothing."""
    answers: dict[int, Claimed] = {}
    left = sorted(enumerate(wanted), key=lambda one: one[1].algorithm)
    without: dict[str, dict[tuple[int, str], list[int]]] = {}
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
        for claimed in _take(tx, algorithm, asked):
            answers[asked.pop((claimed.user_nid, claimed.device_id))] = claimed
        for device, place in asked.items():
            without.setdefault(algorithm, {}).setdefault(device, []).append(place)
        left = rest
    for algorithm, devices_without in without.items():
        for claimed in _take_fallbacks(tx, algorithm, sorted(devices_without)):
            for place in devices_without[claimed.user_nid, claimed.device_id]:
                answers[place] = claimed
    return [answers.get(place) for place in range(len(wanted))]


def _take(tx: WriteTx, algorithm: str, asked: Collection[tuple[int, str]]) -> list[Claimed]:
    """A one-time key of each device that has one."""
    found: list[Claimed] = []
    for user_nid, device_id, nid, left, both in tx.all(
        _TAKE, of_algorithm=algorithm, pairs=pairs_text(list(asked))
    ):
        if both is None:
            # Another process gave out the last one while we waited for it, and has uploaded others: look again.
            raise Conflict(f"keys of device {nid} came after this transaction began")
        size, _, rest = both.partition(":")
        key_id, key = rest[: int(size)], rest[int(size) :]
        found.append(Claimed(user_nid, device_id, f"{algorithm}:{key_id}", key))
        tx.claim(Kind.DEVICE_KEYS, -user_nid, nid, payload=KeysTaken(algorithm, left))
    return found


def _take_fallbacks(tx: WriteTx, algorithm: str, asked: Sequence[tuple[int, str]]) -> list[Claimed]:
    """The fallback key of each device that has one."""
    found: list[Claimed] = []
    fresh: dict[int, int] = {}
    for user_nid, device_id, nid, key_id, key, was_used in tx.all(
        _FALLBACKS_OF, of_algorithm=algorithm, pairs=pairs_text(asked)
    ):
        found.append(Claimed(user_nid, device_id, f"{algorithm}:{key_id}", key))
        if not was_used:
            fresh[nid] = user_nid
    if fresh:
        tx.run(_USE_FALLBACKS, the_devices=list(fresh), the_algorithm=algorithm)
        for nid, left in load_keys_left_of(tx, fresh).items():
            tx.claim(Kind.DEVICE_KEYS, -fresh[nid], nid, payload=left)
    return found
