"""Sliding sync: what is new of the rooms that a client asks for, at once or when something is.

1. Nothing is told that is not committed; the position that is returned covers exactly what was told.
2. The law: what a client makes of its answers is what a new connection would be told of the same rooms.
3. Where nothing changed, positions are compared, and nothing else is done. Where the log reaches back to the position,
   there is no SQL, but for what ``sync.shared`` says; and nothing is written, unless it changed which rooms are told of.
4. A connection for encryption alone is answered at some moments although there is nothing to tell: see ``dealing.py``.

proposal: MSC4186
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from homeserver.moderation.types import InvitePermission
from homeserver.store.sliding import ConnectionKey
from homeserver.stream.tokens import SlidingToken, SyncToken, parse_sliding_token
from homeserver.sync.lazy import LazyMemory
from homeserver.sync.profiles import ProfileNews
from homeserver.sync.serialise import encode
from homeserver.sync.sliding.connections import (
    JOINED,
    LIVE,
    NO_STATE,
    Connection,
    Connections,
    State,
    Told,
    unknown_pos,
)
from homeserver.sync.sliding.dealing import Dealing
from homeserver.sync.sliding.extensions import Extensions, own_receipts
from homeserver.sync.sliding.extras import Extras, load_extras
from homeserver.sync.sliding.facts import Facts
from homeserver.sync.sliding.inviters import Inviters
from homeserver.sync.sliding.lists import Lists, Windows
from homeserver.sync.sliding.memory import MemoryNews
from homeserver.sync.sliding.news import RoomNews
from homeserver.sync.sliding.plan import Plan, Work, after, plan
from homeserver.sync.sliding.profiles import NAME as PROFILES
from homeserver.sync.sliding.profiles import ProfileExtension
from homeserver.sync.sliding.request import Asked
from homeserver.sync.sliding.rooms import Gathered, Rooms, vanished_room
from homeserver.sync.sticky import StickySections
from homeserver.sync.tools import SyncTools
from homeserver.sync.types import (
    DefaultData,
    DeviceSections,
    NoPresence,
    Presence,
    Requester,
    Typing,
    Unread,
)
from homeserver.sync.wait import Waits
from homeserver.sync.work import Moments, split_counters

# What was looked at may change while something about it is read: then it is looked at again, so often.
_LOOKS = 3


@dataclass(frozen=True, slots=True)
class SlidingAsk:
    """One request."""

    requester: Requester
    asked: Asked
    pos: str | None
    timeout_s: float
    stable: bool  # in the words of the accepted proposal


@dataclass(frozen=True, slots=True)
class _Failed:
    """What came of something that was begun, if that was nothing."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class _Begun:
    """A state that is on its way to the tables before what it is the state after has been read."""

    told: dict[int, Told]
    state: State
    version: Deferred[int | _Failed]


@dataclass(slots=True)
class _Answer:
    """What there is to say, and where the connection is after it."""

    parts: Sequence[bytes]
    told: bool
    token: SyncToken
    state: State
    gathered: Gathered
    begun: _Begun | None = None


class SlidingSync:
    """See the module. One for each process."""

    def __init__(
        self,
        tools: SyncTools,
        boot: str,
        connections: Connections,
        facts: Facts,
        *,
        typing: Typing,
        presence: Presence | None,
        unread: Unread,
        devices: DeviceSections,
        defaults: DefaultData,
        profiles: ProfileNews,
        sticky: StickySections | None = None,
    ) -> None:
        self._tools = tools
        self._boot = boot
        self._connections = connections
        self._facts = facts
        self._typing = typing
        self._moments = Moments(tools.log, typing, presence or NoPresence(), boot)
        self._devices = devices
        inviters = Inviters(tools.database, tools.events)
        self._lists = Lists(tools.index, tools.interner, facts, inviters)
        self._lazy = lazy = LazyMemory()
        memory = MemoryNews(tools.database, tools.shared, tools.interner, tools.events, lazy)
        self._rooms = Rooms(tools, facts, memory, lazy, unread)
        self._extensions = Extensions(tools.index, tools.interner, typing, devices, defaults, sticky)
        self._profiles = ProfileExtension(profiles, lazy)
        self._waits = Waits(tools.notifier, tools.clock)
        self._dealing = Dealing(tools.index, tools.windows, tools.notifier)
        # What happened before was heard of by another process: of it the index knows events, and nothing else.
        self._heard_from = tools.log.position

    async def sync(self, ask: SlidingAsk) -> bytes:
        """The answer, now or when there is something to say or the time is up."""
        requester = ask.requester
        key = ConnectionKey(requester.user_nid, requester.device_nid, ask.asked.conn_id)
        if ask.pos is None:
            connection = self._connections.begin(key)
            if _is_for_encryption(ask.asked):
                self._dealing.begin(key)
            answer = await self._answer(ask, connection, 0, NO_STATE, None)
            return await self._finish(ask, connection, 0, NO_STATE, answer)
        token = parse_sliding_token(ask.pos, self._boot)
        if token is None:
            raise unknown_pos()
        connection, kept = await self._connections.find(key, token.epoch, token.version)
        # A database that was restored is behind what its clients have seen.
        at = token.at._replace(pos=min(token.at.pos, self._tools.log.position))
        self._lazy.rewind(_name(requester, connection), _stamp(token.version, at.pos))
        with self._deal(ask.asked, key, at) as is_due:
            answer = await self._answer_or_wait(ask, connection, token.version, kept, at, is_due)
        return await self._finish(ask, connection, token.version, kept, answer)

    @contextmanager
    def _deal(self, asked: Asked, key: ConnectionKey, at: SyncToken) -> Iterator[Callable[[], bool]]:
        """While a request is here: whether it is answered in any case. What it says of others of its device is noted."""
        if _is_for_encryption(asked):
            with self._dealing.waiting(key, at.pos) as wait:
                yield partial(self._dealing.is_due, wait)
            return
        if asked.lists or asked.subscriptions:
            self._dealing.has_dealt(key, at.pos)
        yield _never

    async def _answer_or_wait(
        self,
        ask: SlidingAsk,
        connection: Connection,
        version: int,
        state: State,
        at: SyncToken,
        is_due: Callable[[], bool],
    ) -> _Answer:
        requester, clock = ask.requester, self._tools.clock
        ends_s = clock.monotonic() + ask.timeout_s
        while True:
            answer = await self._answer(ask, connection, version, state, at)
            left_s = ends_s - clock.monotonic()
            if answer.told or left_s <= 0 or is_due():
                return answer
            at, state = answer.token, answer.state
            is_quiet = partial(self._stays_quiet, ask, at, is_due)
            if not await self._waits.wait(requester.user_nid, requester.device_nid, left_s, is_quiet):
                return answer

    async def _finish(
        self, ask: SlidingAsk, connection: Connection, version: int, kept: State, answer: _Answer
    ) -> bytes:
        """Keep what was told, where that is more than before; then it may leave."""
        if answer.begun is not None:
            outcome = await answer.begun.version
            if isinstance(outcome, _Failed):
                outcome.failure.raiseException()
            else:
                version = outcome
        elif not version or answer.state is not kept:
            version = await self._connections.store(connection, version, answer.state)
        device = _name(ask.requester, connection)
        self._rooms.note_members(device, answer.gathered, _stamp(version, answer.token.pos))
        pos = SlidingToken(connection.epoch, version, answer.token)
        parts = [b'{"pos":"%b"' % str(pos).encode(), *answer.parts]
        if ask.asked.txn_id is not None:
            parts.append(b'"txn_id":' + encode(ask.asked.txn_id))
        return b",".join(parts) + b"}"

    # --- is there anything ---------------------------------------------------------------------------------------

    def _stays_quiet(self, ask: SlidingAsk, at: SyncToken, is_due: Callable[[], bool]) -> bool:
        # An answer up to here told nothing: while nothing moves, it would tell nothing again, and again.
        return (self._moments.stands(at) or self._is_quiet(ask, at)) and not is_due()

    def _is_quiet(self, ask: SlidingAsk, at: SyncToken) -> bool:
        """Whether nothing can have changed for a user: a comparison of positions."""
        index, user_nid, pos = self._tools.index, ask.requester.user_nid, at.pos
        if self._tools.log.position > pos and index.has_news(user_nid, pos):
            return False
        if ask.asked.extensions.typing is not None:
            typing_at, _ = split_counters(at.ephemeral)
            typing = self._typing
            if typing.counter != typing_at and typing.changed_since(index.joined_rooms(user_nid), typing_at):
                return False
        if self._profiles.changed(ask.requester, ask.asked.extensions, pos):
            return False
        return not self._extensions.changed(ask.requester, ask.asked.extensions, at, self._tools.log.position)

    # --- answers -------------------------------------------------------------------------------------------------

    async def _answer(
        self, ask: SlidingAsk, connection: Connection, version: int, state: State, at: SyncToken | None
    ) -> _Answer:
        tools, requester = self._tools, ask.requester
        own_key = await tools.keys.prepare(requester)
        if ask.asked.extensions.of_device:
            preparing = self._devices.prepare(requester)
            if preparing is not None:
                await preparing
        await self._lists.prepare(requester, ask.asked)
        windows, direct = await self._look(ask, state, at.pos if at is not None else 0)
        # The last wait: of somebody who is heard again before this moment, nothing may be kept back.
        inviters = await tools.ignored.load_invites(requester.user_nid)
        # From here to the first wait: one moment.
        own_key = tools.keys.own(requester, own_key)
        work = self._work(ask, connection, state, at, windows, direct, inviters)
        token, standings = work.token, dict(tools.index.rooms_of(requester.user_nid))
        found = plan(tools.index, work)
        foreseen = self._rooms.foresee(work, found)
        # What must be read beside rooms is nearly always known before: then it is read with them.
        fresh = {order.room_nid: Told() for order in found.joined if order.fresh}
        first = self._extensions.want(work, {}, fresh if foreseen is None else foreseen)
        begun = self._begin(work, found, connection, version, foreseen)
        gathered = await self._rooms.gather(work, found, own_key, first, foreseen)
        wanted = first if foreseen is not None else self._extensions.want(work, gathered.news, gathered.told)
        extras = gathered.extras
        if extras is None or not first.covers(wanted):
            extras = Extras() if wanted.empty else await tools.database.read(load_extras, wanted)
        unseen = self._note_read(work, gathered, extras)
        rooms = await self._rooms.write(work, gathered, standings)
        names = dict(windows.names)
        if found.vanished:
            names.update(await tools.interner.room_names(found.vanished))
        for nid in found.vanished:
            rooms[nid] = vanished_room(work, names[nid])
        said = await self._extensions.write(work, extras, gathered.news)
        unseen += said.unseen
        profiles = await self._profiles.write(work, gathered.news, gathered.told)
        if profiles is not None:
            said.add(PROFILES, profiles)
        parts = [
            b'"lists":%b' % _lists(windows),
            b'"rooms":{%b}' % b",".join(encode(names[nid]) + b":" + body for nid, body in rooms.items()),
            b'"extensions":%b' % said.write(),
        ]
        if begun is not None and begun.told == gathered.told and not unseen:
            state = begun.state
        else:
            begun = None
            state = after(work, gathered.told, (*found.missed, *unseen), found.vanished) or state
        told = bool(rooms) or said.told or at is None
        return _Answer(parts, told, token, state, gathered, begun)

    def _begin(
        self, work: Work, found: Plan, connection: Connection, version: int, foreseen: dict[int, Told] | None
    ) -> _Begun | None:
        """Store what the connection will have been told while that is being read: the disk takes as long as the read.

        Only for answers that leave in any case. Should the read tell otherwise after all, that is stored as well.
        """
        if foreseen is None or not (work.at is None or found.joined):
            return None
        if work.at is None and work.asked.extensions.profiles is not None:
            return None  # of whom it tells is known when the rooms are
        state = after(work, foreseen, found.missed, found.vanished)
        if state is None:
            if work.at is not None:
                return None
            state = {}
        return _Begun(dict(foreseen), state, _start(self._connections.store(connection, version, state)))

    def _work(
        self,
        ask: SlidingAsk,
        connection: Connection,
        state: State,
        at: SyncToken | None,
        windows: Windows,
        direct: frozenset[str],
        inviters: InvitePermission,
    ) -> Work:
        """An answer begins, now."""
        tools, requester = self._tools, ask.requester
        standings = tools.index.rooms_of(requester.user_nid)
        for nid in [nid for nid in windows.rooms if nid not in standings]:
            del windows.rooms[nid]
        window = tools.windows.find(at.pos, requester.user_nid, standings, state) if at is not None else None
        return Work(
            requester,
            ask.asked,
            state,
            at,
            self._moments.now(),
            window,
            at is not None and (window is None or at.pos < self._heard_from),
            windows,
            inviters,
            direct,
            tools.clock.now_ms(),
            ask.stable,
            _name(requester, connection),
        )

    async def _look(self, ask: SlidingAsk, state: State, since: int) -> tuple[Windows, frozenset[str]]:
        """The windows of a request, as of now."""
        log, requester = self._tools.log, ask.requester
        looks = 0
        while True:
            inviters = await self._tools.ignored.load_invites(requester.user_nid)
            before = log.position
            looks += 1
            windows = await self._lists.look(requester, ask.asked, state, since, inviters)
            direct = (await self._facts.user(requester.user_nid, requester.user_id)).direct
            if log.position == before or looks == _LOOKS:
                return windows, direct

    def _note_read(self, work: Work, gathered: Gathered, extras: Extras) -> list[int]:
        """Where the user has read something the counts have changed, which is news: of rooms out of sight, to be kept."""
        user_nid, unseen = work.requester.user_nid, []
        for nid in self._extensions.with_receipts(work, extras):
            entry = work.state.get(nid)
            if entry is None or entry.kind != JOINED:
                continue
            if not own_receipts(self._extensions.receipts_of(work, nid, extras), user_nid):
                continue
            if nid in work.windows.rooms:
                gathered.news.setdefault(nid, RoomNews(before=work.token.pos)).read = True
            elif entry.sent == LIVE:
                unseen.append(nid)
        return unseen


def _is_for_encryption(asked: Asked) -> bool:
    """Whether a connection asks for encryption, and for no rooms: see ``dealing.py``."""
    return asked.extensions.e2ee and not asked.lists and not asked.subscriptions


def _never() -> bool:
    return False


def _start(storing: Coroutine[Any, Any, int]) -> Deferred[int | _Failed]:
    """Begin it; a failure is a value, for whoever waits, if anybody still does."""
    begun: Deferred[int | _Failed] = Deferred.fromCoroutine(storing)
    begun.addErrback(_Failed)
    return begun


def _name(requester: Requester, connection: Connection) -> tuple[int, int]:
    """A connection, in the memory of the members that it was told of."""
    return requester.user_nid, -int.from_bytes(connection.epoch.encode(), "big")


def _stamp(version: int, pos: int) -> int:
    """The order of answers: one may tell of more rooms although nothing has happened since the one before."""
    return version << 64 | pos


def _lists(windows: Windows) -> bytes:
    counts = windows.counts.items()
    return b"{" + b",".join(encode(name) + b':{"count":%d}' % count for name, count in counts) + b"}"
