"""Those who wait: long polls and sessions, woken when something may concern them.

Rules:
1. A waiter first makes its ``Waiter``, then compares positions, then waits on it: nothing that happens in between is
   missed.
2. A waiter is woken at most once; being woken is a hint to look again, not a promise.
3. Waking costs the fewer of "waiting users" and "members of the room", not the number of rooms anybody is in: users
   wait by user, and the membership index says whom a room concerns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from twisted.internet.defer import Deferred

from homeserver.store.changes import Change, Kind
from homeserver.store.device_lists import ListChanged
from homeserver.store.placement import moves_of
from homeserver.stream.index import MembershipIndex


class Waiter:
    """One who waits. ``woken`` fires with True when something happened, with False when the time is up."""

    __slots__ = ("device_nid", "user_nid", "woken")

    def __init__(self, user_nid: int, device_nid: int) -> None:
        self.user_nid = user_nid
        self.device_nid = device_nid
        self.woken: Deferred[bool] = Deferred()

    def wake(self, happened: bool = True) -> None:
        """Fire, once."""
        woken = self.woken
        if not woken.called:
            woken.callback(happened)


class Notifier:
    """Waiters by user; follows the log after the membership index."""

    def __init__(self, index: MembershipIndex) -> None:
        self._index = index
        # Dicts for their order: who is woken first must not hang on where an object lies in memory.
        self._waiting: dict[int, dict[Waiter, None]] = {}
        self._released = False

    def __len__(self) -> int:
        return sum(len(waiters) for waiters in self._waiting.values())

    def add(self, waiter: Waiter) -> None:
        """From now on, wake this one."""
        if self._released:
            waiter.wake(happened=False)
        self._waiting.setdefault(waiter.user_nid, {})[waiter] = None

    def remove(self, waiter: Waiter) -> None:
        """No longer."""
        waiters = self._waiting.get(waiter.user_nid)
        if waiters is not None:
            waiters.pop(waiter, None)
            if not waiters:
                del self._waiting[waiter.user_nid]

    def is_waiting(self, user_nid: int) -> bool:
        """Whether somebody waits for what happens to a user."""
        return user_nid in self._waiting

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow the log."""
        if not self._waiting:
            return
        users: set[int] = set()
        for change in changes:
            if change.topic < 0:
                users.add(-change.topic)
                if change.kind == Kind.PROFILE:
                    # Everybody who shares a room with them, too.
                    for room_nid in self._index.joined_rooms(-change.topic):
                        users |= self._concerned(room_nid)
                if isinstance(change.payload, ListChanged):
                    # Everybody who shares a room with them.
                    for room_nid in change.payload.room_nids:
                        users |= self._concerned(room_nid)
            elif change.topic > 0:
                users |= self._concerned(change.topic)
                users.update(move.member_nid for move in moves_of(change) if move.member_nid)
        self.wake_users(users)

    def wake_room(self, room_nid: int) -> None:
        """Something without a position happened in a room (typing)."""
        self.wake_users(self._concerned(room_nid))

    def wake_users(self, user_nids: Iterable[int]) -> None:
        """Something happened to users (presence)."""
        for user_nid in sorted(user_nids):
            for waiter in list(self._waiting.get(user_nid, ())):
                waiter.wake()

    def wake_device(self, user_nid: int, device_nid: int) -> None:
        """Something happened that is one device's own business."""
        for waiter in list(self._waiting.get(user_nid, ())):
            if waiter.device_nid == device_nid:
                waiter.wake()

    def release(self) -> None:
        """The server stops: everybody's time is up, and that of those who were just woken and wait again."""
        self._released = True
        for waiters in list(self._waiting.values()):
            for waiter in list(waiters):
                waiter.wake(happened=False)

    def _concerned(self, room_nid: int) -> set[int]:
        members = self._index.local_members(room_nid)
        if len(members) <= len(self._waiting):
            return {user_nid for user_nid in members if user_nid in self._waiting}
        return {user_nid for user_nid in self._waiting if user_nid in members}
