"""Interned names: rooms, users, event types and state keys as integers.

Rules:
1. A name once bound to a number keeps it, so a binding may be cached without end (within a byte budget).
   What is not in memory may have been forgotten a moment ago: only ``_find`` says that a name has no number.
2. Numbers come from one sequence, leased in ranges: uniqueness matters, order does not.
3. A new binding is usable in memory at once and is written by the next commit, before anything that uses it.
   Only the committer writes: ``unsaved`` gives it the rows, ``saved`` tells it that they are on the disk.
4. Where another process has bound a name meanwhile, that number counts: ``give_way`` forgets ours, and nothing is stored
   that may hold it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
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
_Bindings = list[tuple[Any, int]]
_Read = Callable[[list[Any]], Awaitable[_Bindings]]

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

# Written twice where nobody could say whether the first time was. But a second number for a name must not go unnoticed.
_INSERT_TYPES = bulk(event_types, "nid", "type", ignore=True, keys=("nid",))
_INSERT_USERS = bulk(user_ids, "nid", "user_id", ignore=True, keys=("nid",))
_INSERT_KEYS = bulk(state_keys, "nid", "type_nid", "state_key", ignore=True, keys=("nid",))
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
    forgotten: int = 0  # how often names were

    def put(self, name: Any, nid: int) -> None:
        if len(self.nids) >= self.budget:
            self._shrink()
        self.nids[name] = nid
        self.names[nid] = name

    def drop(self, nid: int) -> None:
        del self.nids[self.names.pop(nid)], self.unsaved[nid]
        self.forgotten += 1

    def _shrink(self) -> None:
        # Oldest first, an eighth at a time; a binding that is not on the disk yet must stay.
        for name in list(self.nids)[: self.budget // 8]:
            nid = self.nids[name]
            if nid not in self.unsaved:
                del self.nids[name], self.names[nid]
                self.forgotten += 1


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
        self.given_way = 0  # how often it was another process that bound a name
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
            known = (await self._find(self._users, [user_id], self._read_users)).get(user_id)
        return known

    async def user(self, user_id: str) -> int:
        """A user's number, bound now where it was not."""
        known = await self.find_user(user_id)
        return self._bind(self._users, user_id) if known is None else known

    async def find_users(self, names: Iterable[str]) -> dict[str, int]:
        """The numbers of those users who are known."""
        return await self._find(self._users, names, self._read_users)

    async def bind_users(self, names: Iterable[str]) -> None:
        """Have the numbers of many users in memory, with one read: new ones are bound."""
        wanted = list(dict.fromkeys(names))
        found = await self.find_users(wanted)
        for name in wanted:
            if name not in found:
                self._bind(self._users, name)

    async def user_names(self, nids: Iterable[int]) -> dict[int, str]:
        """The user ids behind numbers."""
        return await self._back(self._users, nids, self._read_user_names)

    def user_name(self, nid: int) -> str | None:
        """A user id if it is in memory."""
        return self._users.names.get(nid)

    # --- event types -----------------------------------------------------------------------------

    async def find_type(self, name: str) -> int | None:
        """An event type's number, or None where no event has ever had it."""
        known = self._types.nids.get(name)
        if known is None:
            known = (await self._find(self._types, [name], self._read_types)).get(name)
        return known

    async def event_type(self, name: str) -> int:
        """An event type's number, bound now where it was not."""
        known = self._types.nids.get(name)
        return (await self._bind_types([name]))[name] if known is None else known

    def known_type(self, name: str) -> int | None:
        return self._types.nids.get(name)

    # --- state keys ------------------------------------------------------------------------------

    def known_key(self, key: StateKey) -> int | None:
        """A state key's number if it is in memory."""
        return self._keys.nids.get(key)

    async def find_key(self, key: StateKey) -> int | None:
        """A state key's number, or None where no room has ever used it."""
        known = self._keys.nids.get(key)
        if known is None:
            known = (await self._find(self._keys, [key], self._read_keys)).get(key)
        return known

    async def state_key(self, key: StateKey) -> int:
        """A state key's number, bound now where it was not."""
        known = self._keys.nids.get(key)
        return (await self._bind_keys([key]))[key] if known is None else known

    async def bind_keys(self, keys: Iterable[StateKey]) -> None:
        """Have the numbers of many state keys in memory, with a read for each type: new ones are bound."""
        missing = [key for key in dict.fromkeys(keys) if key not in self._keys.nids]
        if missing:
            await self._bind_keys(missing)

    async def key_names(self, nids: Iterable[int]) -> dict[int, StateKey]:
        """The (type, state key) behind numbers."""
        return await self._back(self._keys, nids, self._read_key_names)

    async def _bind_types(self, names: Iterable[str]) -> dict[str, int]:
        wanted = list(names)
        found = await self._find(self._types, wanted, self._read_types)
        for name in wanted:
            if name not in found:
                found[name] = self._bind(self._types, name)
        return found

    async def _bind_keys(self, keys: Sequence[StateKey]) -> dict[StateKey, int]:
        while True:
            given_way = self.given_way
            types = await self._bind_types(dict.fromkeys(key[0] for key in keys))
            found = await self._find(self._keys, keys, self._read_keys)
            if self.given_way == given_way:
                break  # the numbers of the types are still those
        for key in keys:
            if key not in found:
                # The number of its type, which may be forgotten before the key is stored.
                found[key] = self._bind(self._keys, key, (types[key[0]], key[1]))
        return found

    # --- rooms -----------------------------------------------------------------------------------

    async def find_room(self, room_id: str) -> int | None:
        """A room's number, or None where this server has never met it."""
        known = self._rooms.nids.get(room_id)
        if known is None:
            known = (await self._find(self._rooms, [room_id], self._read_rooms)).get(room_id)
        return known

    async def find_rooms(self, names: Iterable[str]) -> dict[str, int]:
        """The numbers of those rooms that this server has met."""
        return await self._find(self._rooms, names, self._read_rooms)

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
        return await self._back(self._rooms, nids, self._read_room_names)

    def room_name(self, nid: int) -> str | None:
        return self._rooms.names.get(nid)

    # --- shared ----------------------------------------------------------------------------------

    async def _find(self, names: _Names, wanted: Iterable[Any], read: _Read) -> dict[Any, int]:
        """The numbers of those names that have one. What is not among them may be bound, before anything is waited for.

        They are taken down as they are found: what is put into memory makes that something else is forgotten.
        """
        wanted = list(wanted)
        nids = names.nids
        found = {name: nid for name in wanted if (nid := nids.get(name)) is not None}
        missing = [name for name in wanted if name not in found]
        if not missing:
            return found
        while missing:
            forgotten = names.forgotten
            stored = await read(missing)
            # Else one may have been bound, stored and forgotten while we looked, and is not in either.
            is_sure = names.forgotten == forgotten
            found.update((name, nids[name]) for name in missing if name in nids)
            for name, nid in stored:
                if name not in found:
                    found[name] = nid
                    names.put(name, nid)
            missing = [] if is_sure else [name for name in missing if name not in found]
        return {name: found[name] for name in wanted if name in found}

    async def _back(self, names: _Names, nids: Iterable[int], read: _Read) -> dict[int, Any]:
        """The names behind those numbers that stand for one."""
        wanted = list(nids)
        known = names.names
        found = {nid: known[nid] for nid in wanted if nid in known}
        missing = [nid for nid in wanted if nid not in found]
        if not missing:
            return found
        for name, nid in await read(missing):
            found[nid] = name
            if name not in names.nids:
                names.put(name, nid)
        return {nid: found[nid] for nid in wanted if nid in found}

    async def _read_users(self, names: list[str]) -> _Bindings:
        return await self._database.read(_load_names, _USERS_BY_NAME, names)

    async def _read_user_names(self, nids: list[int]) -> _Bindings:
        return await self._database.read(_load_by_nids, _USERS_BY_NID, nids)

    async def _read_types(self, names: list[str]) -> _Bindings:
        return await self._database.read(_load_names, _TYPES_BY_NAME, names)

    async def _read_keys(self, keys: list[StateKey]) -> _Bindings:
        by_type: dict[str, list[str]] = {}
        for event_type, state_key in keys:
            by_type.setdefault(event_type, []).append(state_key)
        types = await self._find(self._types, by_type, self._read_types)
        found: _Bindings = []
        for event_type, state_keys_ in by_type.items():
            type_nid = types.get(event_type)
            if type_nid is None or type_nid in self._types.unsaved:
                continue  # no key of it is stored
            stored = await self._database.read(_load_keys_of, type_nid, state_keys_)
            found += [((event_type, state_key), nid) for state_key, nid in stored]
        return found

    async def _read_key_names(self, nids: list[int]) -> _Bindings:
        found = await self._database.read(load_keys, sorted(nids))
        return [(key, nid) for nid, key in found.items()]

    async def _read_rooms(self, room_ids: list[str]) -> _Bindings:
        return self._learn(await self._database.read(_load_rooms, _ROOMS_BY_NAME, "names", room_ids))

    async def _read_room_names(self, nids: list[int]) -> _Bindings:
        return self._learn(await self._database.read(_load_rooms, _ROOMS_BY_NID, "nids", nids))

    def _learn(self, found: list[tuple[str, int, str | None]]) -> _Bindings:
        self._versions.update((nid, version) for _, nid, version in found if version is not None)
        return [(room_id, nid) for room_id, nid, _ in found]

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
        for statement_, values in written:
            unsaved = self._table(statement_).unsaved
            for row in values:
                unsaved.pop(row[0], None)

    def give_way(self, rivals: Sequence[tuple[Rows, int]]) -> None:
        """What ``load_rivals`` found: these numbers are nobody's."""
        self.given_way += 1
        for statement_, nid in rivals:
            self._table(statement_).drop(nid)
        types = {nid for statement_, nid in rivals if statement_ is _INSERT_TYPES}
        for nid in [nid for nid, (type_nid, _) in self._keys.unsaved.items() if type_nid in types]:
            self._keys.drop(nid)

    def _table(self, statement_: Rows) -> _Names:
        tables = {_INSERT_TYPES: self._types, _INSERT_USERS: self._users, _INSERT_KEYS: self._keys}
        return tables.get(statement_, self._rooms)

    def sizes(self) -> dict[str, int]:
        """How many bindings are in memory."""
        return {"users": len(self._users.nids), "keys": len(self._keys.nids), "rooms": len(self._rooms.nids)}


def _stored(names: _Names) -> list[tuple[Any, ...]]:
    return [(nid, *row[:-1], stored_name(row[-1])) for nid, row in names.unsaved.items()]


def _load_names(tx: Tx, lookup: Statement, names: list[str]) -> list[tuple[str, int]]:
    found = tx.all(lookup, names=[stored_name(name) for name in names])
    return [(true_name(name), nid) for name, nid in found]


def _load_by_nids(tx: Tx, lookup: Statement, nids: list[int]) -> list[tuple[str, int]]:
    return [(true_name(name), nid) for name, nid in tx.all(lookup, nids=nids)]


def _load_keys_of(tx: Tx, type_nid: int, state_keys_: list[str]) -> list[tuple[str, int]]:
    found = tx.all(_KEYS_OF_TYPE, type_nid=type_nid, names=[stored_name(one) for one in state_keys_])
    return [(true_name(name), nid) for name, nid in found]


def _load_rooms(tx: Tx, lookup: Statement, by: str, values: list[Any]) -> list[tuple[str, int, str | None]]:
    return tx.all(lookup, **{by: values})


def load_rivals(tx: Tx, written: Sequence[tuple[Rows, list[tuple[Any, ...]]]]) -> list[tuple[Rows, int]]:
    """Those of some new bindings (the table's statement, and our number) whose names have another number in the tables."""
    found: list[tuple[Rows, int]] = []
    for statement_, values in written:
        theirs: dict[tuple[Any, ...], int] = {}
        if statement_ is _INSERT_KEYS:
            for type_nid in sorted({row[1] for row in values}):
                names = [row[2] for row in values if row[1] == type_nid]
                stored = tx.all(_KEYS_OF_TYPE, type_nid=type_nid, names=names)
                theirs.update(((type_nid, name), nid) for name, nid in stored)
        elif statement_ is not _INSERT_ROOMS:
            lookup = _USERS_BY_NAME if statement_ is _INSERT_USERS else _TYPES_BY_NAME
            theirs = {(name,): nid for name, nid in tx.all(lookup, names=[row[1] for row in values])}
        found += [(statement_, row[0]) for row in values if theirs.get(row[1:], row[0]) != row[0]]
    return found


def load_user_names(tx: Tx, nids: Sequence[int]) -> dict[int, str]:
    """The user ids behind numbers."""
    return {nid: user_id for user_id, nid in tx.all(_USERS_BY_NID, nids=list(nids))}


def load_keys(tx: Tx, nids: Sequence[int]) -> dict[int, StateKey]:
    """The (type, state key) behind numbers."""
    found = tx.all(_KEYS_BY_NID, nids=nids)
    numbers = sorted({row[0] for row in found})
    types = {nid: true_name(name) for name, nid in tx.all(_TYPES_BY_NID, nids=numbers)}
    return {nid: (types[type_nid], true_name(state_key)) for type_nid, state_key, nid in found}
