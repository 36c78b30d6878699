"""What a device was told on each of its connections: kept in memory, and in the tables for after a restart.

1. An answer's position names a version of the connection. What was told is a new version only where an answer changed
   which rooms were told of, and how: a client that sits and listens costs no write.
2. A version stands until the client comes with a later one; an answer that got lost is made again from it.
3. A room's entry says up to when it was told. 0 stands for "up to the position of the client": as long as nothing is
   left out, nothing has to be noted.

proposal: MSC4186 (connections)
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from homeserver.db.threads import Database
from homeserver.http.errors import MatrixError
from homeserver.runtime.clock import Clock
from homeserver.runtime.entropy import Entropy
from homeserver.store.device_life import NoDeviceError
from homeserver.store.sliding import (
    VERSIONS_KEPT,
    ConnectionEndedError,
    ConnectionKey,
    NewState,
    load_connection,
    store_connection,
    touch_connection,
)
from homeserver.store.work import Worker
from homeserver.sync.sliding.required import NOTHING, Required, from_plain, to_plain, weigh

NEVER = -1
LIVE = 0

JOINED, STRIPPED, GONE = 0, 1, 2

# LIMIT(memory: a room of a connection takes some 100 bytes, and wishes what they weigh; the others are read again)
BYTES_KEPT = 200_000_000
CONNECTIONS_KEPT = 100_000
_ROOM_BYTES = 100
# A connection in use is not one that somebody forgot, although nothing is written.
_TOUCH_AFTER_MS = 24 * 3600 * 1000

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class Told(NamedTuple):
    """What a connection was told of a room. Positions: 0 up to now, -1 never, else up to there."""

    sent: int = LIVE
    receipts: int = NEVER
    account: int = NEVER
    limit: int = 0  # so many of the newest events the client has
    wishes: frozenset[Required] = NOTHING  # the state that it has
    kind: int = JOINED
    direct: bool = False


State = Mapping[int, Told]
"""By room. Number 0 is the account: ``sent`` of profiles, ``receipts`` of threads, ``account`` of its account data."""

NO_STATE: State = MappingProxyType({})
NEW_ACCOUNT = Told(NEVER, NEVER, NEVER)


def weigh_wishes(state: State) -> int:
    """Roughly how many bytes the wishes of a state take: rooms with the same ones share them."""
    return sum(map(weigh, {told.wishes for told in state.values()}))


@dataclass(slots=True)
class Connection:
    """One connection, as far as it is in memory."""

    key: ConnectionKey
    epoch: str
    states: dict[int, State] = field(default_factory=dict)  # by version, in order
    sizes: dict[int, int] = field(default_factory=dict)  # of each of them
    newest: int = 0
    used_ts_ms: int = 0

    @property
    def size(self) -> int:
        """Roughly how many bytes it takes."""
        return sum(self.sizes.values())

    def put(self, version: int, state: State) -> None:
        """One more version."""
        self.states[version] = state
        self.sizes[version] = _ROOM_BYTES * len(state) + weigh_wishes(state)

    def drop(self, versions: Iterable[int]) -> None:
        """These are over."""
        for version in versions:
            del self.states[version], self.sizes[version]


def unknown_pos() -> MatrixError:
    """The client is to begin anew."""
    return MatrixError(400, "M_UNKNOWN_POS", "This position is not known (any more)")


class Connections:
    """See the module."""

    def __init__(self, database: Database, worker: Worker, clock: Clock, entropy: Entropy) -> None:
        self._database = database
        self._worker = worker
        self._clock = clock
        self._entropy = entropy
        self._known: OrderedDict[ConnectionKey, Connection] = OrderedDict()
        self._bytes = 0

    def begin(self, key: ConnectionKey) -> Connection:
        """A client starts anew."""
        # Not kept before its first answer is stored: a request that is refused leaves the connection as it was.
        return Connection(key, self._entropy.id(8))

    async def find(self, key: ConnectionKey, epoch: str, version: int) -> tuple[Connection, State]:
        """A connection, and what it was told by the answer that the client has; 400 M_UNKNOWN_POS."""
        connection = self._known.get(key)
        if connection is not None and connection.epoch == epoch and version < min(connection.states):
            raise unknown_pos()  # the client has come with a later one
        if connection is None or connection.epoch != epoch or version not in connection.states:
            # Another process may have gone on with it.
            connection = await self._load(key)
        if connection is None or connection.epoch != epoch or version not in connection.states:
            raise unknown_pos()
        if key in self._known:
            self._known.move_to_end(key)
        before = connection.size
        connection.drop([one for one in connection.states if one < version])
        self._resize(key, connection.size - before)
        await self._touch(connection)
        return connection, connection.states[version]

    async def _load(self, key: ConnectionKey) -> Connection | None:
        rows = await self._database.read(load_connection, key)
        if not rows:
            return None
        newest = rows[-1]
        connection = Connection(key, newest.epoch, newest=newest.version, used_ts_ms=newest.used_ts_ms)
        for row in rows:
            if row.epoch == newest.epoch:
                connection.put(row.version, unpack(row.state))
        self._keep(connection)
        return connection

    async def _touch(self, connection: Connection) -> None:
        now_ms = self._clock.now_ms()
        if now_ms - connection.used_ts_ms > _TOUCH_AFTER_MS:
            connection.used_ts_ms = now_ms
            await self._worker.work(touch_connection, connection.key, now_ms)

    async def store(self, connection: Connection, acknowledged: int, state: State) -> int:
        """Keep what an answer told, before it leaves; the version that it has."""
        version = connection.newest = connection.newest + 1
        now_ms = self._clock.now_ms()
        new = NewState(connection.key, connection.epoch, version, pack(state), now_ms, acknowledged)
        try:
            await self._worker.work(store_connection, new)
        except (NoDeviceError, ConnectionEndedError):
            raise unknown_pos() from None
        connection.used_ts_ms = now_ms
        known = self._known.get(connection.key) is connection
        if known or not acknowledged:
            before = connection.size
            connection.put(version, state)
            connection.drop(
                [one for one in sorted(connection.states) if one != acknowledged][:-VERSIONS_KEPT]
            )
            if known:
                self._resize(connection.key, connection.size - before)
            else:
                self._keep(connection)
        return version

    def _keep(self, connection: Connection) -> None:
        old = self._known.pop(connection.key, None)
        if old is not None:
            self._bytes -= old.size
        self._known[connection.key] = connection
        self._resize(connection.key, connection.size)

    def _resize(self, key: ConnectionKey, by: int) -> None:
        if key in self._known:
            self._bytes += by
        known = self._known
        while (self._bytes > BYTES_KEPT and len(known) > 1) or len(known) > CONNECTIONS_KEPT:
            self._bytes -= known.popitem(last=False)[1].size


def pack(state: State) -> bytes:
    """A state as bytes: each set of wishes once, each entry a few numbers."""
    numbers: dict[frozenset[Required], int] = {}
    rooms: list[Any] = []
    for nid in sorted(state):
        told = state[nid]
        number = numbers.setdefault(told.wishes, len(numbers))
        rooms.append(
            (nid, told.sent, told.receipts, told.account, told.limit, number, told.kind, int(told.direct))
        )
    return _encode([[to_plain(wishes) for wishes in numbers], rooms])


def unpack(data: bytes) -> State:
    """The state again. Equal entries are one object."""
    plain, rooms = _decode(data)
    wishes = [from_plain(one) for one in plain]
    entries: dict[tuple[int, ...], Told] = {}
    state: dict[int, Told] = {}
    for nid, *rest in rooms:
        key = tuple(rest)
        told = entries.get(key)
        if told is None:
            sent, receipts, account, limit, number, kind, direct = key
            told = entries[key] = Told(sent, receipts, account, limit, wishes[number], kind, bool(direct))
        state[nid] = told
    return state
