"""What clients did before ``/sync``: the state of all rooms at once, and then event after event.

Deprecated, and still how somebody who is no member follows a room that anybody may read.
spec: client-server-api#get_matrixclientv3events, client-server-api#get_matrixclientv3initialsync
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import msgspec
from twisted.internet.defer import Deferred

from federation.ids import RoomId
from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.http.errors import MatrixError
from homeserver.moderation.types import InvitePermission
from homeserver.rooms.reads.initial import RoomGlances
from homeserver.rooms.reads.pagination import Pagination, no_event
from homeserver.rooms.reads.reading import Archive, Asker, Found, scan, write_events
from homeserver.rooms.reads.visibility import Sights
from homeserver.rooms.types import Requester
from homeserver.runtime.clock import Clock
from homeserver.store.account_data import load_account_data_of
from homeserver.store.changes import Change, Kind
from homeserver.store.client_events import join, load_client_events
from homeserver.store.events import find_row
from homeserver.store.ids import Interner
from homeserver.store.outside import load_outside, shown_outside
from homeserver.store.placement import Membership
from homeserver.store.unsigned import unsigned_members
from homeserver.stream.index import MembershipIndex, Standing
from homeserver.stream.log import ChangeLog
from homeserver.stream.tokens import timeline_token

EVENTS_MOST = 50

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class _Waiter:
    __slots__ = ("room_nid", "user_nid", "woken")

    def __init__(self, user_nid: int, room_nid: int | None) -> None:
        self.user_nid = user_nid
        self.room_nid = room_nid
        self.woken: Deferred[bool] = Deferred()

    def wake(self, happened: bool = True) -> None:
        if not self.woken.called:
            self.woken.callback(happened)


class OldSync:
    """See the module. ``apply`` follows the log, after the membership index."""

    def __init__(
        self,
        database: Database,
        interner: Interner,
        index: MembershipIndex,
        log: ChangeLog,
        sights: Sights,
        pagination: Pagination,
        glances: RoomGlances,
        archive: Archive,
        clock: Clock,
        load_inviters: Callable[[int], Awaitable[InvitePermission]],
    ) -> None:
        self._database = database
        self._interner = interner
        self._index = index
        self._log = log
        self._sights = sights
        self._pagination = pagination
        self._glances = glances
        self._archive = archive
        self._clock = clock
        self._load_inviters = load_inviters  # whose invites a user is shown
        self.presence: Callable[[int], Sequence[Any]] = _nobody  # what a user is told of others' presence
        self._waiting: dict[_Waiter, None] = {}

    kinds = frozenset({Kind.EVENT})  # what ``apply`` looks at

    def apply(self, changes: Sequence[Change]) -> None:
        """Wake those who wait for a room in which something happened."""
        if not self._waiting:
            return
        rooms = {change.topic for change in changes if change.kind == Kind.EVENT}
        for waiter in list(self._waiting):
            if waiter.room_nid in rooms or (
                waiter.room_nid is None
                and any(self._index.is_joined(waiter.user_nid, room) for room in sorted(rooms))
            ):
                # In a turn of its own: the sender is answered first.
                self._clock.callLater(0, waiter.wake)

    def release(self) -> None:
        """The server stops: everybody's time is up."""
        for waiter in list(self._waiting):
            waiter.wake(False)

    async def event(self, requester: Requester, event_id: str) -> bytes:
        """One event, wherever it is; 404 where the reader may not see it."""
        row = await self._database.read(find_row, event_id)
        if row is None:
            raise no_event()
        names = await self._interner.room_names([row.room_nid])
        return await self._pagination.event(requester, names[row.room_nid], event_id)

    async def events(
        self, requester: Requester, room_id: RoomId | None, after: int | None, timeout_s: float
    ) -> bytes:
        """What happened after a position, in one room or in all that the requester is in; waits for something."""
        room_nid = None
        if room_id is not None:
            room_nid = (await self._sights.find(requester, room_id)).room_nid
        start = self._log.position if after is None else min(after, self._log.position)
        ends_s = self._clock.monotonic() + timeout_s
        since = start
        while True:
            waiter = _Waiter(requester.user_nid, room_nid)
            self._waiting[waiter] = None
            timer = None
            try:
                found, end, upto = await self._look(requester, room_id, since)
                left_s = ends_s - self._clock.monotonic()
                if found or left_s <= 0:
                    break
                since = end
                if end < upto and not waiter.woken.called:
                    continue  # so much is nothing for them that not all was looked at: nobody would wake them for the rest
                timer = self._clock.callLater(left_s, waiter.wake, False)
                if not await waiter.woken:
                    break  # the time is up, or the server stops
            finally:
                self._waiting.pop(waiter, None)
                if timer is not None and timer.active():
                    timer.cancel()
        return b'{"chunk":%b,"start":%b,"end":%b}' % (
            join(found),
            _encode(timeline_token(start)),
            _encode(timeline_token(end)),
        )

    async def _look(
        self, requester: Requester, room_id: RoomId | None, since: int
    ) -> tuple[list[bytes], int, int]:
        """The next events, where they end, and up to where there may be more."""
        upto = self._log.position
        if room_id is not None:
            rooms = [room_id]
        else:
            news = self._index.last_event
            nids = [nid for nid in self._index.joined_rooms(requester.user_nid) if news.get(nid, 0) > since]
            names = await self._interner.room_names(sorted(nids))
            rooms = [RoomId(names[nid]) for nid in sorted(names)]
        askers = []
        for one in rooms:
            try:
                askers.append(
                    await self._pagination.asker(requester, await self._sights.find(requester, one))
                )
            except MatrixError:
                if room_id is not None:
                    raise
        if not askers:
            return [], upto, upto
        found, end = await self._database.read(_find, self._archive, askers, since, upto)
        return found, end, upto

    async def initial(self, requester: Requester, limit: int, *, archived: bool) -> AsyncIterator[bytes]:
        """The answer to ``/initialSync`` piece by piece, a room at a time: all of it need not be in memory."""
        end = self._log.position
        kept = await self._database.read(load_account_data_of, requester.user_nid, [0], end)
        data = [b'{"type":%b,"content":%b}' % (_encode(one.type), one.content.encode()) for one in kept]
        presence = _encode(self.presence(requester.user_nid))
        yield b'{"end":%b,"account_data":%b,"presence":%b,"rooms":[' % (
            _encode(timeline_token(end)),
            join(data),
            presence,
        )
        wanted = {Membership.JOIN, Membership.INVITE} | ({Membership.LEAVE} if archived else set())
        standings = self._index.rooms_of(requester.user_nid)
        nids = sorted(nid for nid, one in standings.items() if one.membership in wanted and not one.forgotten)
        names = await self._interner.room_names(nids)
        separator = b""
        for nid in nids:
            room_id, standing = names[nid], standings.get(nid)
            if standing is None:
                continue
            room: bytes | None
            try:
                if standing.membership == Membership.INVITE:
                    room = await self._invite(requester.user_nid, nid, room_id, standing)
                else:
                    room = await self._glances.look(requester, room_id, limit)
            except MatrixError:
                continue  # it has been left meanwhile
            if room is None:
                continue
            yield separator + room
            separator = b","
        yield b"]}"

    async def _invite(self, user_nid: int, room_nid: int, room_id: str, standing: Standing) -> bytes | None:
        """An invite; None where the user is not to be shown it."""
        # spec: client-server-api#ignoring-users, client-server-api#invite-permission
        event = await self._database.read(
            _load_invite, self._archive, user_nid, room_nid, room_id, standing, self._clock.now_ms()
        )
        if event is not None and event.sender in await self._load_inviters(user_nid):
            return None
        invite = b"" if event is None else b',"invite":' + event.text
        return b'{"room_id":%b,"membership":"invite"%b}' % (_encode(room_id), invite)


def _nobody(_: int) -> Sequence[Any]:
    return ()


def _find(
    tx: Tx, archive: Archive, askers: Sequence[Asker], since: int, upto: int
) -> tuple[list[bytes], int]:
    """The next events of all the rooms in their order, and where they end."""
    everything: list[tuple[int, Asker, Found]] = []
    end = upto
    for asker in askers:
        high = min(upto, asker.sight.upto)
        scanned = scan(
            tx, archive, asker.sight, since, high, EVENTS_MOST, None, backwards=False, ignored=asker.ignored
        )
        everything += [(one.row.pos, asker, one) for one in scanned.found if one.row.pos is not None]
        if scanned.edge is not None:
            # There is more in this room: what others have beyond it comes with the next request.
            end = min(end, scanned.edge)
    everything.sort(key=lambda one: one[0])
    told = [one for one in everything if one[0] <= end]
    if len(told) > EVENTS_MOST:
        told = told[:EVENTS_MOST]
        end = told[-1][0]
    written: list[bytes] = []
    for _, asker, found in told:
        written += write_events(tx, archive, asker, [found])
    return written, end


class _InviteEvent(NamedTuple):
    """Who sent an invite, and what clients see of it."""

    sender: str
    text: bytes


def _load_invite(
    tx: Tx, archive: Archive, user_nid: int, room_nid: int, room_id: str, standing: Standing, now_ms: int
) -> _InviteEvent | None:
    if standing.outside:
        told = load_outside(tx, user_nid, [room_nid]).get(room_nid)
        if told is None:
            return None
        sent = _decode(told.event)
        return _InviteEvent(
            sent["sender"], _encode({**shown_outside(sent, told.event_id), "room_id": room_id})
        )
    event = load_client_events(tx, [standing.event_nid], archive.client_events).get(standing.event_nid)
    if event is None:
        return None
    return _InviteEvent(event.sender, event.render(unsigned_members(event, now_ms), room_id))
