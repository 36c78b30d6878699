"""Interned names: rooms, users, event types and state keys as integers.

Rules:
1. A name once bound to a number keeps it, so a binding may be cached without end (within a byte budget).
2. Numbers come from one sequence, leased in ranges: uniqueness matters, order does not.
3. A new binding is usable in memory at once and is written by the next commit, before anything that uses it.
   Only the committer writes: ``unsaved`` gives it the rows, ``saved`` tells it that they are on the disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import and_, bindparam, select, update

from homeserver.db.errors import DatabaseUnavailable
from homeserver.db.schema.rooms import event_types, nid_leases, rooms, state_keys, user_ids
from homeserver.db.schema.start import LEASE_NAME as _LEASE_NAME
from homeserver.db.schema.start import WELL_KNOWN_TYPES
from homeserver.db.statements import Rows, Statement, any_of, statement
from homeserver.db.statements import rows as bulk
from homeserver.db.threads import Database
from homeserver.db.tx import Tx

StateKey = tuple[str, str]

# What whoever is asked into a room, or looks into it, is told of its state. spec: client-server-api#stripped-state
STRIPPED: tuple[StateKey, ...] = (
    ("m.room.create", ""),
    ("m.room.join_rules", ""),
    ("m.room.name", ""),
    ("m.room.avatar", ""),
    ("m.room.topic", ""),
    ("m.room.canonical_alias", ""),
    ("m.room.encryption", ""),
)

LEASE_SIZE = 100_000
_ESCAPE = "\x01"

_INSERT_TYPES = bulk(event_types, "nid", "type", ignore=True)
_INSERT_USERS = bulk(user_ids, "nid", "user_id", ignore=True)
_INSERT_KEYS = bulk(state_keys, "nid", "type_nid", "state_key", ignore=True)
_INSERT_ROOMS = bulk(rooms, "nid", "room_id", "version", ignore=True)
_USERS_BY_NAME = statement(
    select(user_ids.c.user_id, user_ids.c.nid).where(any_of(user_ids.c.user_id, "names"))
)
_USERS_BY_NID = statement(select(user_ids.c.user_id, user_ids.c.nid).where(any_of(user_ids.c.nid, "nids")))
_TYPES_BY_NAME = statement(
    select(event_types.c.type, event_types.c.nid).where(any_of(event_types.c.type, "names"))
)
_TYPES_BY_NID = statement(
    select(event_types.c.type, event_types.c.nid).where(any_of(event_types.c.nid, "nids"))
)
_KEYS_BY_NAME = statement(
    select(state_keys.c.nid).where(
        and_(state_keys.c.type_nid == bindparam("type_nid"), state_keys.c.state_key == bindparam("state_key"))
    )
)
_KEYS_OF_TYPE = statement(
    select(state_keys.c.state_key, state_keys.c.nid).where(
        and_(state_keys.c.type_nid == bindparam("type_nid"), any_of(state_keys.c.state_key, "names"))
    )
)
_KEYS_BY_NID = statement(
    select(state_keys.c.type_nid, state_keys.c.state_key, state_keys.c.nid).where(
        any_of(state_keys.c.nid, "nids")
    )
)
_ROOMS_BY_NAME = statement(
    select(rooms.c.room_id, rooms.c.nid, rooms.c.version).where(any_of(rooms.c.room_id, "names"))
)
_ROOMS_BY_NID = statement(
    select(rooms.c.room_id, rooms.c.nid, rooms.c.version).where(any_of(rooms.c.nid, "nids"))
)
_NEXT_LEASE = statement(select(nid_leases.c.next).where(nid_leases.c.name == _LEASE_NAME).with_for_update())
_MOVE_LEASE = statement(
    update(nid_leases).where(nid_leases.c.name == _LEASE_NAME).values(next=bindparam("next_nid"))
)
_SET_VERSION = statement(
    update(rooms).where(rooms.c.nid == bindparam("of_room")).values(version=bindparam("new_version"))
)


def set_room_version(tx: Tx, nid: int, version: str) -> None:
    """Note the version of a room that was met without one. Nobody but its create event can tell it."""
    tx.run(_SET_VERSION, of_room=nid, new_version=version)


def stored_name(name: str) -> str:
    """A name as text columns hold it: PostgreSQL's have no NUL, and other servers' state keys may."""
    if "\0" not in name and not name.startswith(_ESCAPE):
        return name
    return _ESCAPE + name.replace("\\", "\\\\").replace("\0", "\\0")


def true_name(stored: str) -> str:
    """The reverse of ``stored_name``."""
    if not stored.startswith(_ESCAPE):
        return stored
    parts = stored[1:].split("\\\\")
    return "\\".join(part.replace("\\0", "\0") for part in parts)


def lease_nids(tx: Tx, count: int) -> range:
    """Reserve a range of numbers for this process."""
    first = int(tx.value(_NEXT_LEASE))
    tx.run(_MOVE_LEASE, next_nid=first + count)
    return range(first, first + count)


class Nids:
    """The numbers leased to this process. ``take`` never waits; the committer refills below half."""

    def __init__(self) -> None:
        self._ranges: list[range] = []

    def add(self, lease: range) -> None:
        self._ranges.append(lease)

    @property
    def left(self) -> int:
        return sum(len(lease) for lease in self._ranges)

    @property
    def low(self) -> bool:
        return self.left < LEASE_SIZE // 2

    def take(self) -> int:
        """One unused number."""
        while self._ranges:
            lease = self._ranges[0]
            if lease:
                self._ranges[0] = lease[1:]
                return lease[0]
            self._ranges.pop(0)
        raise DatabaseUnavailable("no numbers are left: the database has not answered for long")


@dataclass(slots=True)
class _Names:
    """One table of names: both directions, and what is not on the disk yet."""

    budget: int
    nids: dict[Any, int] = field(default_factory=dict)
    names: dict[int, Any] = field(default_factory=dict)
    unsaved: dict[int, tuple[Any, ...]] = field(default_factory=dict)  # by number, what else its row says

    def put(self, name: Any, nid: int) -> None:
        if len(self.nids) >= self.budget:
            self._shrink()
        self.nids[name] = nid
        self.names[nid] = name

    def _shrink(self) -> None:
        # Oldest first, an eighth at a time; a binding that is not on the disk yet must stay.
        for name in list(self.nids)[: self.budget // 8]:
            nid = self.nids[name]
            if nid not in self.unsaved:
                del self.nids[name], self.names[nid]


class Interner:
    """Names to numbers and back, for the reactor thread.

    ``budget`` is the most bindings kept for each kind (a binding takes some 300 bytes).
    """

    def __init__(self, database: Database, nids: Nids, budget: int = 200_000, types: int = 10_000) -> None:
        self._database = database
        self._nids = nids
        self._users = _Names(budget)
        self._types = _Names(types)
        self._keys = _Names(budget)
        self._rooms = _Names(budget)
        self._versions: dict[int, str] = {}
        for name, nid in WELL_KNOWN_TYPES.items():
            self._types.put(name, nid)

    def take_nid(self) -> int:
        """A fresh number for anything."""
        return self._nids.take()

    # --- users -----------------------------------------------------------------------------------

    def known_user(self, user_id: str) -> int | None:
        """A user's number if it is in memory."""
        return self._users.nids.get(user_id)

    async def find_user(self, user_id: str) -> int | None:
        """A user's number, or None where this server has never met them."""
        known = self._users.nids.get(user_id)
        if known is None:
            await self._fill(self._users, _USERS_BY_NAME, [user_id])
            known = self._users.nids.get(user_id)
        return known

    async def user(self, user_id: str) -> int:
        """A user's number, bound now where it was not."""
        known = await self.find_user(user_id)
        return self._bind(self._users, user_id) if known is None else known

    async def find_users(self, names: Iterable[str]) -> dict[str, int]:
        """The numbers of those users who are known."""
        wanted = list(names)
        missing = [name for name in wanted if name not in self._users.nids]
        if missing:
            await self._fill(self._users, _USERS_BY_NAME, missing)
        found = ((name, self._users.nids.get(name)) for name in wanted)
        return {name: nid for name, nid in found if nid is not None}

    async def bind_users(self, names: Iterable[str]) -> None:
        """Have the numbers of many users in memory, with one read: new ones are bound."""
        wanted = list(dict.fromkeys(names))
        found = await self.find_users(wanted)
        for name in wanted:
            if name not in found:
                self._bind(self._users, name)

    async def user_names(self, nids: Iterable[int]) -> dict[int, str]:
        """The user ids behind numbers."""
        return await self._back(self._users, _USERS_BY_NID, nids)

    def user_name(self, nid: int) -> str | None:
        """A user id if it is in memory."""
        return self._users.names.get(nid)

    # --- event types -----------------------------------------------------------------------------

    async def event_type(self, name: str) -> int:
        """An event type's number, bound now where it was not."""
        if name not in self._types.nids:
            await self._fill(self._types, _TYPES_BY_NAME, [name])
        known = self._types.nids.get(name)
        return self._bind(self._types, name) if known is None else known

    def known_type(self, name: str) -> int | None:
        return self._types.nids.get(name)

    # --- state keys ------------------------------------------------------------------------------

    def known_key(self, key: StateKey) -> int | None:
        """A state key's number if it is in memory."""
        return self._keys.nids.get(key)

    async def find_key(self, key: StateKey) -> int | None:
        """A state key's number, or None where no room has ever used it."""
        known = self._keys.nids.get(key)
        if known is not None:
            return known
        type_nid = self._types.nids.get(key[0])
        if type_nid is None:
            await self._fill(self._types, _TYPES_BY_NAME, [key[0]])
            type_nid = self._types.nids.get(key[0])
        if type_nid is None:
            return None
        found = await self._database.read(_find_key, type_nid, stored_name(key[1]))
        if found is not None and key not in self._keys.nids:
            self._keys.put(key, found)
        return self._keys.nids.get(key)

    async def prefetch_keys(self, keys: Iterable[StateKey]) -> None:
        """Bring the numbers of many state keys into memory with few reads, where they have one."""
        missing: dict[str, list[str]] = {}
        for event_type, state_key in keys:
            if (event_type, state_key) not in self._keys.nids:
                missing.setdefault(event_type, []).append(state_key)
        if not missing:
            return
        unknown = [name for name in missing if name not in self._types.nids]
        if unknown:
            await self._fill(self._types, _TYPES_BY_NAME, unknown)
        for event_type, state_keys_ in missing.items():
            type_nid = self._types.nids.get(event_type)
            if type_nid is None:
                continue
            wanted = [stored_name(one) for one in state_keys_]
            for state_key, nid in await self._database.read(_load_keys_of, type_nid, wanted):
                if (event_type, state_key) not in self._keys.nids:
                    self._keys.put((event_type, state_key), nid)

    async def state_key(self, key: StateKey) -> int:
        """A state key's number, bound now where it was not."""
        known = await self.find_key(key)
        if known is not None:
            return known
        return self._bind_key(key, await self.event_type(key[0]))

    async def bind_keys(self, keys: Iterable[StateKey]) -> None:
        """Have the numbers of many state keys in memory, with a read for each type: new ones are bound."""
        wanted = list(dict.fromkeys(keys))
        await self.prefetch_keys(wanted)
        for key in wanted:
            if key not in self._keys.nids:
                self._bind_key(key, await self.event_type(key[0]))

    async def key_names(self, nids: Iterable[int]) -> dict[int, StateKey]:
        """The (type, state key) behind numbers."""
        wanted = set(nids)
        missing = sorted(nid for nid in wanted if nid not in self._keys.names)
        if missing:
            found = await self._database.read(load_keys, missing)
            for nid, key in found.items():
                self._keys.put(key, nid)
            return {**found, **{nid: self._keys.names[nid] for nid in wanted if nid not in found}}
        return {nid: self._keys.names[nid] for nid in wanted}

    # --- rooms -----------------------------------------------------------------------------------

    async def find_room(self, room_id: str) -> int | None:
        """A room's number, or None where this server has never met it."""
        known = self._rooms.nids.get(room_id)
        if known is None:
            self._keep_rooms(await self._database.read(_load_rooms, _ROOMS_BY_NAME, "names", [room_id]))
            known = self._rooms.nids.get(room_id)
        return known

    async def find_rooms(self, names: Iterable[str]) -> dict[str, int]:
        """The numbers of those rooms that this server has met."""
        wanted = list(names)
        missing = [name for name in wanted if name not in self._rooms.nids]
        if missing:
            self._keep_rooms(await self._database.read(_load_rooms, _ROOMS_BY_NAME, "names", missing))
        found = ((name, self._rooms.nids.get(name)) for name in wanted)
        return {name: nid for name, nid in found if nid is not None}

    def known_room(self, room_id: str) -> int | None:
        return self._rooms.nids.get(room_id)

    def new_room(self, room_id: str, version: str) -> int:
        """Bind a room that this server makes or meets for the first time."""
        nid = self._bind(self._rooms, room_id)
        self._versions[nid] = version
        return nid

    async def room(self, room_id: str) -> int:
        """A room's number, bound now where it was not; its version may be unknown."""
        known = await self.find_room(room_id)
        return self._bind(self._rooms, room_id) if known is None else known

    def learn_version(self, nid: int, version: str) -> None:
        """The version of a room is known now; ``set_room_version`` writes it down."""
        self._versions[nid] = version

    async def room_version(self, nid: int) -> str | None:
        """A room's version."""
        if nid not in self._versions:
            await self.room_names([nid])
        return self._versions.get(nid)

    async def room_names(self, nids: Iterable[int]) -> dict[int, str]:
        """The room ids behind numbers."""
        wanted = list(nids)
        missing = [nid for nid in wanted if nid not in self._rooms.names]
        if missing:
            self._keep_rooms(await self._database.read(_load_rooms, _ROOMS_BY_NID, "nids", missing))
        names = self._rooms.names
        return {nid: names[nid] for nid in wanted if nid in names}

    def room_name(self, nid: int) -> str | None:
        return self._rooms.names.get(nid)

    def _keep_rooms(self, found: list[tuple[str, int, str | None]]) -> None:
        for room_id, nid, version in found:
            if room_id not in self._rooms.nids:
                self._rooms.put(room_id, nid)
            if version is not None:
                self._versions[nid] = version

    # --- shared ----------------------------------------------------------------------------------

    async def _fill(self, names: _Names, lookup: Statement, missing: list[str]) -> None:
        for name, nid in await self._database.read(
            _load_names, lookup, [stored_name(one) for one in missing]
        ):
            if name not in names.nids:
                names.put(name, nid)

    async def _back(self, names: _Names, lookup: Statement, nids: Iterable[int]) -> dict[int, Any]:
        wanted = list(nids)
        found = {nid: names.names[nid] for nid in wanted if nid in names.names}
        missing = [nid for nid in wanted if nid not in found]
        if missing:
            for name, nid in await self._database.read(_load_by_nids, lookup, missing):
                names.put(name, nid)
                found[nid] = name
        return found

    def _bind_key(self, key: StateKey, type_nid: int) -> int:
        # Its type may be forgotten before it is stored.
        return self._bind(self._keys, key, (type_nid, key[1]))

    def _bind(self, names: _Names, name: Any, row: tuple[Any, ...] | None = None) -> int:
        known: int | None = names.nids.get(name)
        if known is not None:
            return known  # somebody bound it while we looked
        nid = self._nids.take()
        names.unsaved[nid] = (name,) if row is None else row
        names.put(name, nid)
        return nid

    # --- for the committer ------------------------------------------------------------------------

    def unsaved(self) -> list[tuple[Rows, list[tuple[Any, ...]]]]:
        """The rows of every binding that is not on the disk yet."""
        found: list[tuple[Rows, list[tuple[Any, ...]]]] = []
        if self._types.unsaved:
            found.append((_INSERT_TYPES, _stored(self._types)))
        if self._users.unsaved:
            found.append((_INSERT_USERS, _stored(self._users)))
        if self._keys.unsaved:
            found.append((_INSERT_KEYS, _stored(self._keys)))
        if self._rooms.unsaved:
            named = self._rooms.unsaved.items()
            found.append(
                (_INSERT_ROOMS, [(nid, room_id, self._versions.get(nid)) for nid, (room_id,) in named])
            )
        return found

    def unsaved_keys(self) -> dict[int, StateKey]:
        """The state keys that are not on the disk yet."""
        names = self._keys.names
        return {nid: names[nid] for nid in self._keys.unsaved}

    def saved(self, written: Sequence[tuple[Rows, list[tuple[Any, ...]]]]) -> None:
        """These rows are committed."""
        tables = {_INSERT_TYPES: self._types, _INSERT_USERS: self._users, _INSERT_KEYS: self._keys}
        for statement_, values in written:
            unsaved = tables.get(statement_, self._rooms).unsaved
            for row in values:
                unsaved.pop(row[0], None)

    def sizes(self) -> dict[str, int]:
        """How many bindings are in memory."""
        return {"users": len(self._users.nids), "keys": len(self._keys.nids), "rooms": len(self._rooms.nids)}


def _stored(names: _Names) -> list[tuple[Any, ...]]:
    return [(nid, *row[:-1], stored_name(row[-1])) for nid, row in names.unsaved.items()]


def _load_names(tx: Tx, lookup: Statement, names: list[str]) -> list[tuple[str, int]]:
    return [(true_name(name), nid) for name, nid in tx.all(lookup, names=names)]


def _load_by_nids(tx: Tx, lookup: Statement, nids: list[int]) -> list[tuple[str, int]]:
    return [(true_name(name), nid) for name, nid in tx.all(lookup, nids=nids)]


def _load_keys_of(tx: Tx, type_nid: int, state_keys_: list[str]) -> list[tuple[str, int]]:
    found = tx.all(_KEYS_OF_TYPE, type_nid=type_nid, names=state_keys_)
    return [(true_name(name), nid) for name, nid in found]


def _load_rooms(tx: Tx, lookup: Statement, by: str, values: list[Any]) -> list[tuple[str, int, str | None]]:
    return tx.all(lookup, **{by: values})


def _find_key(tx: Tx, type_nid: int, state_key: str) -> int | None:
    return tx.value(_KEYS_BY_NAME, type_nid=type_nid, state_key=state_key)  # type: ignore[no-any-return]


def load_user_names(tx: Tx, nids: Sequence[int]) -> dict[int, str]:
    """The user ids behind numbers."""
    return {nid: user_id for user_id, nid in tx.all(_USERS_BY_NID, nids=list(nids))}


def load_keys(tx: Tx, nids: Sequence[int]) -> dict[int, StateKey]:
    """The (type, state key) behind numbers."""
    found = tx.all(_KEYS_BY_NID, nids=nids)
    numbers = sorted({row[0] for row in found})
    types = {nid: true_name(name) for name, nid in tx.all(_TYPES_BY_NID, nids=numbers)}
    return {nid: (types[type_nid], true_name(state_key)) for type_nid, state_key, nid in found}
