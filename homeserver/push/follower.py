"""The follower of the log that finds out whom an event notifies, and hands it to the senders.

It looks only at users who have a pusher. It never waits for a gateway.

# spec: client-server-api#server-behaviour-13
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from federation.errors import Malformed
from federation.event import Event, parse_stored
from federation.ids import EventId
from federation.versions import ROOM_VERSIONS
from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.push.debts import Owed
from homeserver.push.evaluation import Evaluator
from homeserver.runtime.clock import Clock, sleep
from homeserver.store.changes import Change, Kind
from homeserver.store.ids import load_user_names
from homeserver.store.outside import Told
from homeserver.store.parsed import EventCache
from homeserver.store.placement import MOVING, Membership, Placement
from homeserver.store.pushers import Pusher, load_pushers
from homeserver.store.unread import find_joinings
from homeserver.stream.index import MembershipIndex

FOLLOWER = "push"
# COMPAT(other servers, always): what they held back for longer than this is news to nobody.
_STALE_MS = 24 * 3600 * 1000
# LIMIT(time: each of them costs some 20 microseconds in the reactor)
_AT_ONCE = 200


class Outlet(Protocol):
    """Where notifications go: push gateways, mail."""

    @property
    def owners(self) -> Collection[int]:
        """Who wants any."""

    def set_pushers(self, user_nid: int, pushers: Sequence[Pusher]) -> None:
        """A user's pushers, as they are now."""

    def owe(self, user_nid: int, owed: Owed) -> None:
        """An event notifies a user."""

    def note_read(self, user_nid: int) -> None:
        """A user has read something."""


class PushFollower:
    """See the module. ``handle`` is a follower: it may see its last changes again."""

    def __init__(
        self,
        database: Database,
        index: MembershipIndex,
        evaluator: Evaluator,
        events: EventCache,
        clock: Clock,
        outlets: Sequence[Outlet],
    ) -> None:
        self._database = database
        self._index = index
        self._evaluator = evaluator
        self._events = events
        self._clock = clock
        self._outlets = outlets

    # What ``handle`` and the evaluator look at.
    kinds = MOVING | {Kind.OUTSIDE, Kind.RECEIPT, Kind.PUSHER, Kind.TRUNCATED, Kind.JOIN_PROGRESS}

    async def handle(self, changes: Sequence[Change]) -> None:
        """Tell the outlets of these changes."""
        for change in changes:
            self._evaluator.note(change)
            if change.kind == Kind.EVENT:
                if change.payload is not None:
                    await self._event(change, change.payload)
            elif change.kind == Kind.OUTSIDE:
                if change.payload is not None:
                    await self._outside(change, change.payload)
            elif change.kind == Kind.RECEIPT:
                self._note_read(change.ref)
            elif change.kind == Kind.PUSHER:
                user_nid = -change.topic
                pushers = await self._database.read(load_pushers, user_nid)
                for outlet in self._outlets:
                    outlet.set_pushers(user_nid, pushers)

    def _note_read(self, user_nid: int) -> None:
        for outlet in self._outlets:
            if user_nid in outlet.owners:
                outlet.note_read(user_nid)

    # --- events ------------------------------------------------------------------------------------------

    async def _event(self, change: Change, placed: Placement) -> None:
        event = placed.event
        # Who sends has read what came before; who leaves has nothing to read there any more.
        self._note_read(placed.sender_nid)
        for move in placed.moves:
            if move.member_nid and move.membership != Membership.JOIN:
                self._note_read(move.member_nid)
        asked = [] if placed.idle else await self._asked(change, placed)
        if asked and event.origin_server_ts > self._clock.now_ms() - _STALE_MS:
            owed = (change.pos, change.topic, placed.nid)
            await self._tell(owed, event, asked)

    async def _asked(self, change: Change, placed: Placement) -> list[int]:
        """Those of whom it is to be found out whether an event notifies them."""
        members = self._index.local_members(change.topic)
        asked: set[int] = set()
        for outlet in self._outlets:
            fewer, more = sorted((members, outlet.owners), key=len)
            asked.update(user_nid for user_nid in fewer if user_nid in more)
            asked.update(
                move.member_nid
                for move in placed.moves
                if move.membership == Membership.INVITE and move.member_nid in outlet.owners
            )
        asked.discard(placed.sender_nid)
        late = {nid: one.pos for nid in asked if (one := self._index.standing(nid, change.topic)) is not None}
        late = {nid: pos for nid, pos in late.items() if pos > change.pos}
        if late:
            # The log is ahead of us. Who came after the event is not told of it.
            asked -= await self._database.read(_came_after, change.topic, late, change.pos, self._events)
        return sorted(asked)

    async def _outside(self, change: Change, told: Told) -> None:
        """An invite to a room that this server is not in."""
        if told.membership != Membership.INVITE:
            self._note_read(told.user_nid)
            return
        if told.version not in ROOM_VERSIONS or not any(told.user_nid in one.owners for one in self._outlets):
            return
        try:
            event = parse_stored(EventId(told.event_id), told.event.encode(), ROOM_VERSIONS[told.version])
        except (Malformed, KeyError):
            return
        await self._tell((change.pos, told.room_nid, 0), event, [told.user_nid])

    async def _tell(self, place: tuple[int, int, int], event: Event, user_nids: Sequence[int]) -> None:
        now_ms = self._clock.now_ms()
        for start in range(0, len(user_nids), _AT_ONCE):
            if start:
                # Whoever sent this waits for us, until we have to wait ourselves.
                await sleep(self._clock, 0)
            some = user_nids[start : start + _AT_ONCE]
            for user_nid, actions in await self._evaluator.evaluate(place[1], event, some):
                owed = Owed(*place, now_ms, list(actions.json))
                for outlet in self._outlets:
                    if user_nid in outlet.owners:
                        outlet.owe(user_nid, owed)


def _came_after(tx: Tx, room_nid: int, late: dict[int, int], pos: int, events: EventCache) -> set[int]:
    from_ids = load_user_names(tx, sorted(late))
    return {
        user_nid
        for user_nid, user_id in from_ids.items()
        if find_joinings(tx, user_id, {room_nid: late[user_nid]}, events)[room_nid] > pos
    }
