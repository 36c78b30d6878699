"""Room state at a point: a packed base, plus one cumulative delta against it. Integers only.

The encoding has one reader and one writer, both here. A row of ``snapshots`` is either a base (``base_nid`` NULL) or
a delta: a version byte, then two arrays of 64-bit little-endian integers of the same length, keys and events, sorted
by key. In a delta an event nid of 0 says that resolution took the key away.

Cost (architecture, section 5): with n keys and a new base each time the delta grows beyond √(2n), a state change
costs 16·√(2n) bytes and a load at most two key reads. A message costs nothing: it shares its predecessor's snapshot.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from math import isqrt

from sqlalchemy import select

from homeserver.db.schema.rooms import snapshots
from homeserver.db.statements import any_of, rows, statement
from homeserver.db.tx import Tx
from homeserver.store.cache import ByteLru

_VERSION = b"\x01"
_SMALLEST_DELTA = 4

INSERT_SNAPSHOTS = rows(snapshots, "nid", "room_nid", "base_nid", "size", "data")
_LOAD = statement(
    select(
        snapshots.c.nid, snapshots.c.room_nid, snapshots.c.base_nid, snapshots.c.size, snapshots.c.data
    ).where(any_of(snapshots.c.nid, "nids"))
)


class Base:
    """A whole state, immutable and shared by every snapshot that builds on it."""

    __slots__ = ("events", "keys", "nid")

    def __init__(self, nid: int, keys: array[int], events: array[int]) -> None:
        self.nid = nid
        self.keys = keys
        self.events = events

    def get(self, key: int) -> int:
        """The event at a key, or 0."""
        place = bisect_left(self.keys, key)
        if place < len(self.keys) and self.keys[place] == key:
            return self.events[place]
        return 0


class Snapshot:
    """The state at a point of a room. Immutable: ``derive`` makes the next."""

    __slots__ = ("base", "delta", "nid", "room_nid", "size")

    def __init__(self, nid: int, room_nid: int, base: Base, delta: Mapping[int, int], size: int) -> None:
        self.nid = nid
        self.room_nid = room_nid
        self.base = base
        self.delta = delta
        self.size = size

    def get(self, key: int) -> int:
        """The event nid at a state key nid, or 0 where there is none."""
        found = self.delta.get(key)
        return self.base.get(key) if found is None else found

    def items(self) -> Iterator[tuple[int, int]]:
        """Every (state key nid, event nid), by key."""
        if not self.delta:
            yield from zip(self.base.keys, self.base.events, strict=True)
            return
        yield from sorted(self.as_dict().items())

    def as_dict(self) -> dict[int, int]:
        """The whole state as a dict (7 ms for 50,000 keys: ask for single keys where that does)."""
        state = dict(zip(self.base.keys, self.base.events, strict=True))
        state.update(self.delta)
        return {key: event for key, event in state.items() if event}


def empty_snapshot(room_nid: int) -> Snapshot:
    """The state before a room's first event. It is never stored: nid 0."""
    return Snapshot(0, room_nid, Base(0, array("q"), array("q")), {}, 0)


def derive(snapshot: Snapshot, changes: Mapping[int, int], nid: int) -> Snapshot:
    """The state after ``changes`` (event nid 0: the key goes away), stored as ``nid``."""
    if not snapshot.size:
        return from_dict(changes, snapshot.room_nid, nid)
    size = snapshot.size
    for key, event in changes.items():
        size += bool(event) - bool(snapshot.get(key))
    delta = {**snapshot.delta, **changes}
    if snapshot.base.nid and len(delta) <= max(_SMALLEST_DELTA, isqrt(2 * size)):
        return Snapshot(nid, snapshot.room_nid, snapshot.base, delta, size)
    state = dict(zip(snapshot.base.keys, snapshot.base.events, strict=True))
    state.update(delta)
    return from_dict(state, snapshot.room_nid, nid)


def from_dict(state: Mapping[int, int], room_nid: int, nid: int) -> Snapshot:
    """A whole state as a new base."""
    pairs = sorted((key, event) for key, event in state.items() if event)
    base = Base(nid, array("q", [key for key, _ in pairs]), array("q", [event for _, event in pairs]))
    return Snapshot(nid, room_nid, base, {}, len(pairs))


def diff(old: Snapshot, new: Snapshot) -> dict[int, tuple[int, int]]:
    """Keys whose event differs: key nid -> (old event nid or 0, new event nid or 0)."""
    if old.base.nid == new.base.nid:
        keys = old.delta.keys() | new.delta.keys()
        pairs = {key: (old.get(key), new.get(key)) for key in keys}
    else:
        before, after = old.as_dict(), new.as_dict()
        pairs = {key: (before.get(key, 0), after.get(key, 0)) for key in before.keys() | after.keys()}
    return {key: pair for key, pair in sorted(pairs.items()) if pair[0] != pair[1]}


def pack(pairs: Mapping[int, int] | Base) -> bytes:
    """The stored form."""
    if isinstance(pairs, Base):
        keys, events = pairs.keys, pairs.events
    else:
        ordered = sorted(pairs.items())
        keys = array("q", [key for key, _ in ordered])
        events = array("q", [event for _, event in ordered])
    if sys.byteorder == "big":
        keys, events = keys[:], events[:]
        keys.byteswap()
        events.byteswap()
    return _VERSION + keys.tobytes() + events.tobytes()


def unpack(data: bytes) -> tuple[array[int], array[int]]:
    """Keys and events of the stored form."""
    if data[:1] != _VERSION or (len(data) - 1) % 16:
        raise ValueError("not a snapshot of a version that this program knows")
    half = (len(data) - 1) // 2
    keys, events = array("q"), array("q")
    keys.frombytes(data[1 : 1 + half])
    events.frombytes(data[1 + half :])
    if sys.byteorder == "big":
        keys.byteswap()
        events.byteswap()
    return keys, events


def snapshot_row(snapshot: Snapshot) -> tuple[int, int, int | None, int, bytes]:
    """The row of ``snapshots`` for a snapshot, in the order of ``INSERT_SNAPSHOTS``."""
    if snapshot.base.nid == snapshot.nid:
        return (snapshot.nid, snapshot.room_nid, None, snapshot.size, pack(snapshot.base))
    return (snapshot.nid, snapshot.room_nid, snapshot.base.nid, snapshot.size, pack(snapshot.delta))


class BaseCache(ByteLru[int, Base]):
    """Bases by their nid."""

    def __init__(self, budget: int = 32 * 1024 * 1024) -> None:
        super().__init__(budget, lambda base: 16 * len(base.keys) + 300)


def load_snapshots(tx: Tx, nids: list[int], bases: BaseCache) -> dict[int, Snapshot]:
    """Several snapshots by nid, in at most two reads."""
    found: dict[int, Snapshot] = {}
    waiting: list[tuple[int, int, int, int, bytes]] = []
    for nid, room_nid, base_nid, size, data in tx.all(_LOAD, nids=nids):
        if base_nid is None:
            base = bases.get(nid)
            if base is None:
                base = Base(nid, *unpack(data))
                bases.put(nid, base)
            found[nid] = Snapshot(nid, room_nid, base, {}, size)
        else:
            waiting.append((nid, room_nid, base_nid, size, data))
    by_nid = {base_nid: bases.get(base_nid) for _, _, base_nid, _, _ in waiting}
    missing = sorted(nid for nid, base in by_nid.items() if base is None)
    if missing:
        for nid, _, _, _, data in tx.all(_LOAD, nids=missing):
            by_nid[nid] = base = Base(nid, *unpack(data))
            bases.put(nid, base)
    for nid, room_nid, base_nid, size, data in waiting:
        base = by_nid[base_nid]
        if base is None:
            raise LookupError(f"snapshot {nid} builds on {base_nid}, which is not there")
        found[nid] = Snapshot(nid, room_nid, base, dict(zip(*unpack(data), strict=True)), size)
    if 0 in nids:
        found[0] = empty_snapshot(0)
    return found


def load_snapshot(tx: Tx, nid: int, bases: BaseCache) -> Snapshot:
    """One snapshot."""
    return load_snapshots(tx, [nid], bases)[nid]


def lookup(tx: Tx, nid: int, keys: list[int], bases: BaseCache) -> dict[int, int]:
    """The events at some keys of a snapshot; keys without one are absent."""
    snapshot = load_snapshot(tx, nid, bases)
    found = {key: snapshot.get(key) for key in keys}
    return {key: event for key, event in found.items() if event}
