"""Who is online elsewhere, as far as their servers tell. Memory only, bounded, and it ends by itself.

1. Kept is only who shares a room with a user of ours; whose last such room is gone is forgotten.
2. A server that tells nothing of somebody for ``KEPT_S`` counts as saying that they are offline.
3. Changes wake those who wait as local ones do: at most once in ``WAKE_S``, and not through large rooms.

# spec: server-server-api#presence
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from homeserver.ephemeral.ticker import Ticker
from homeserver.runtime.clock import Clock, DelayedCall
from homeserver.store.changes import Change
from homeserver.store.placement import MOVING, Membership, moves_of
from homeserver.stream.index import MembershipIndex

OFFLINE = "offline"
WAKE_S = 2.0
WAKE_MEMBERS_MOST = 100
# Others repeat what they told after 25 minutes (see ``peers/presence_out.py``).
KEPT_S = 1_800.0
_SWEEP_S = 60.0
# LIMIT(memory: some 700 bytes each; who was told of the longest ago is forgotten)
USERS_MOST = 20_000
# LIMIT(memory)
ROOMS_MOST = 1_000


@dataclass(slots=True)
class _User:
    """A user of another server."""

    user_id: str
    rooms: set[int]  # that they are in, and a user of ours
    state: str = OFFLINE
    status_msg: str | None = None
    currently_active: bool = False
    active_s: float | None = None
    told_s: float = 0.0


def presence_event(sender: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """As clients and application services are told of somebody."""
    # spec: client-server-api#mpresence
    return {"type": "m.presence", "sender": sender, "content": content}


class RemotePresence:
    """See the module."""

    def __init__(
        self,
        clock: Clock,
        ticker: Ticker,
        index: MembershipIndex,
        wake_users: Callable[[Collection[int]], None],
    ) -> None:
        self._clock = clock
        self._ticker = ticker
        self._index = index
        self._wake_users = wake_users
        self._users: OrderedDict[int, _User] = OrderedDict()  # told of the longest ago first
        self._changed: OrderedDict[int, int] = OrderedDict()  # user -> counter, oldest first
        self._to_wake: set[int] = set()
        self._waker: DelayedCall | None = None
        self._sweeper: DelayedCall | None = None
        # At each change: the user, and where they are. For application services.
        self.tell: Callable[[int, Sequence[int]], None] = _tell_nobody

    def __len__(self) -> int:
        return len(self._users)

    # --- questions -----------------------------------------------------------------------------------

    def changes_for(self, user_nid: int, since_counter: int) -> Sequence[Mapping[str, Any]]:
        """The ``m.presence`` events of those with whom a local user shares a room, as ``Presence.changes_for``."""
        found: list[Mapping[str, Any]] = []
        mine: set[int] | None = None
        for other_nid, at in reversed(self._changed.items()):
            if at <= since_counter:
                break
            user = self._users[other_nid]
            if not since_counter and user.state == OFFLINE and user.status_msg is None:
                continue
            if mine is None:
                mine = set(self._index.joined_rooms(user_nid))
            if not mine.isdisjoint(user.rooms):
                found.append(self.event_of(other_nid))
        found.reverse()
        return found

    def present_in(self, rooms: Collection[int], most: int) -> list[int]:
        """Who of these rooms is not offline; so many."""
        wanted = frozenset(rooms)
        here = (
            nid
            for nid, user in self._users.items()
            if user.state != OFFLINE and not wanted.isdisjoint(user.rooms)
        )
        return list(islice(here, most)) if wanted else []

    def event_of(self, user_nid: int) -> dict[str, Any]:
        """The ``m.presence`` event of somebody of whom there is something to tell."""
        return presence_event(self._users[user_nid].user_id, self.describe(user_nid))

    def describe(self, user_nid: int) -> dict[str, Any]:
        """Somebody's presence as clients are told it; offline where nothing is known."""
        user = self._users.get(user_nid)
        if user is None:
            return {"presence": OFFLINE}
        found: dict[str, Any] = {"presence": user.state}
        if user.active_s is not None:
            found["last_active_ago"] = int(max(self._clock.monotonic() - user.active_s, 0.0) * 1000)
        if user.state != OFFLINE:
            found["currently_active"] = user.currently_active
        if user.status_msg is not None:
            found["status_msg"] = user.status_msg
        return found

    # --- what happens ----------------------------------------------------------------------------------

    def put(
        self,
        user_nid: int,
        user_id: str,
        rooms: Collection[int],
        state: str,
        status_msg: str | None,
        currently_active: bool,
        last_active_ago_ms: int,
    ) -> None:
        """Their server tells of somebody who is in these rooms with users of ours."""
        now = self._clock.monotonic()
        user = self._users.get(user_nid)
        if user is None:
            if state == OFFLINE and status_msg is None:
                return  # as if nothing had been told
            user = self._users[user_nid] = _User(user_id, set())
            while len(self._users) > USERS_MOST:
                self._forget(next(iter(self._users)))
        self._users.move_to_end(user_nid)
        user.rooms = set(sorted(rooms)[:ROOMS_MOST])
        user.told_s = now
        user.active_s = now - last_active_ago_ms / 1000 if last_active_ago_ms or currently_active else None
        told = (state, status_msg, currently_active and state != OFFLINE)
        if told != (user.state, user.status_msg, user.currently_active):
            user.state, user.status_msg, user.currently_active = told
            self._note(user_nid)
        if self._sweeper is None:
            self._sweeper = self._clock.callLater(_SWEEP_S, self._sweep)

    kinds = MOVING  # what ``apply`` looks at

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow the log: who is in which room."""
        if not self._users:
            return
        for change in changes:
            for move in moves_of(change):
                user = self._users.get(move.member_nid)
                if user is None:
                    continue
                if move.membership == Membership.JOIN and self._index.local_members(change.topic):
                    if len(user.rooms) < ROOMS_MOST and change.topic not in user.rooms:
                        user.rooms.add(change.topic)
                        self._note(move.member_nid)
                elif change.topic in user.rooms:
                    user.rooms.discard(change.topic)
                    if not user.rooms:
                        self._forget(move.member_nid)

    def close(self) -> None:
        """The server stops."""
        for timer in (self._sweeper, self._waker):
            if timer is not None and timer.active():
                timer.cancel()
        self._sweeper = self._waker = None

    def _forget(self, user_nid: int) -> None:
        del self._users[user_nid]
        self._changed.pop(user_nid, None)
        self._to_wake.discard(user_nid)

    def _note(self, user_nid: int) -> None:
        self._changed.pop(user_nid, None)
        self._changed[user_nid] = self._ticker.tick()
        self._to_wake.add(user_nid)
        self.tell(user_nid, sorted(self._users[user_nid].rooms))
        if self._waker is None:
            self._waker = self._clock.callLater(WAKE_S, self._wake)

    def _wake(self) -> None:
        self._waker = None
        rooms = {room_nid for user_nid in self._to_wake for room_nid in self._users[user_nid].rooms}
        self._to_wake.clear()
        members = [self._index.local_members(room_nid) for room_nid in sorted(rooms)]
        users = {user_nid for one in members if len(one) <= WAKE_MEMBERS_MOST for user_nid in one}
        self._wake_users(sorted(users))

    def _sweep(self) -> None:
        """Who was told of too long ago is offline."""
        self._sweeper = None
        before = self._clock.monotonic() - KEPT_S
        while self._users:
            user_nid, user = next(iter(self._users.items()))
            if user.told_s > before:
                break
            if user.state == OFFLINE:
                self._forget(user_nid)
                continue
            user.state, user.currently_active, user.told_s = OFFLINE, False, self._clock.monotonic()
            self._users.move_to_end(user_nid)
            self._note(user_nid)
        if self._users:
            self._sweeper = self._clock.callLater(_SWEEP_S, self._sweep)


def _tell_nobody(_user_nid: int, _rooms: Sequence[int]) -> None:
    pass
