"""Who is typing where. Memory only, but for where it was lately, which ``before`` keeps for the next process.

Every entry ends by itself: a client that vanishes stops typing when its time is over.

# spec: client-server-api#typing-notifications
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from heapq import heappop, heappush

from homeserver.ephemeral.ticker import Ticker
from homeserver.runtime.clock import Clock, DelayedCall
from homeserver.store.changes import Change
from homeserver.store.placement import MOVING, Membership, moves_of

# LIMIT(a client that asks for an hour and vanishes would be typing for an hour)
MAX_TIMEOUT_MS = 120_000
DEFAULT_TIMEOUT_MS = 30_000
# LIMIT(what one room's members are told of; more people than this cannot be typing usefully)
MAX_PER_ROOM = 100
# LIMIT(rooms whose last change is remembered, some 100 bytes each)
MAX_ROOMS = 20_000
# LIMIT(rooms of which clients are told after a restart that nobody types there; others show it until somebody types)
MAX_RECENT = 1_000
RECENT_S = 3600


class Typing:
    """See the module. ``wake_room`` tells the local members of a room who wait."""

    def __init__(self, clock: Clock, ticker: Ticker, wake_room: Callable[[int], None]) -> None:
        self._clock = clock
        self._ticker = ticker
        self._wake_room = wake_room
        self._rooms: dict[int, dict[str, float]] = {}  # room -> user id -> until when
        self._changed: dict[int, int] = {}  # room -> counter of its last change, oldest first
        self._floor = 0  # changes up to here may be forgotten
        self._recent: dict[int, float] = {}  # room -> when its last change was, oldest first
        self._ends: list[tuple[float, int, str]] = []
        self._timer: DelayedCall | None = None
        self._timer_at = 0.0
        # (room, user id, typing): at each start, the same again included, and at each end. For other servers.
        self.tell: Callable[[int, str, bool], None] = _tell_nobody

    # --- what sync asks --------------------------------------------------------------------------------

    @property
    def counter(self) -> int:
        return self._ticker.value

    def users_in(self, room_nid: int) -> Sequence[str]:
        """The users who are typing in a room, those who began first first."""
        return list(self._rooms.get(room_nid, ()))

    def changed_since(self, room_nids: Collection[int], counter: int) -> Collection[int]:
        """Which of these rooms had a change after the counter had that value."""
        if counter < self._floor:
            return [nid for nid in room_nids if self._changed.get(nid, self._floor) > counter]
        changed = self._changed
        if len(changed) < len(room_nids):
            return [nid for nid, at in changed.items() if at > counter and nid in room_nids]
        return [nid for nid in room_nids if changed.get(nid, 0) > counter]

    # --- what happens ----------------------------------------------------------------------------------

    def start(self, room_nid: int, user_id: str, timeout_ms: int = DEFAULT_TIMEOUT_MS) -> None:
        """A user is typing for so long; a later call replaces an earlier one."""
        users = self._rooms.setdefault(room_nid, {})
        known = users.get(user_id)
        if known is None and len(users) >= MAX_PER_ROOM:
            return
        until = self._clock.monotonic() + min(timeout_ms, MAX_TIMEOUT_MS) / 1000
        users[user_id] = until
        if known is None or until < known:
            # A later end is noticed when the earlier one comes.
            heappush(self._ends, (until, room_nid, user_id))
            self._set_timer()
        if known is None:
            self._note(room_nid)
        self.tell(room_nid, user_id, True)

    def stop(self, room_nid: int, user_id: str) -> None:
        """A user is not typing any more."""
        users = self._rooms.get(room_nid)
        if users is None or user_id not in users:
            return
        del users[user_id]
        if not users:
            del self._rooms[room_nid]
        self._note(room_nid)
        self.tell(room_nid, user_id, False)

    kinds = MOVING  # what ``apply`` looks at

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow the log: who is not in a room does not type there."""
        if not self._rooms:
            return
        for change in changes:
            if change.topic in self._rooms:
                for move in moves_of(change):
                    if move.user_id and move.membership != Membership.JOIN:
                        self.stop(change.topic, move.user_id)

    def end_all(self) -> None:
        """The server stops: nobody types any more. Other servers, which hear nothing, let it end by themselves."""
        rooms, self._rooms = self._rooms, {}
        for room_nid in rooms:
            self._note(room_nid)

    def recent(self) -> list[int]:
        """Where somebody began or stopped lately: a client may think that they type."""
        then = self._clock.monotonic() - RECENT_S
        return [nid for nid, at in self._recent.items() if at > then]

    def recall(self, room_nids: Iterable[int]) -> None:
        """Where that was so when the process before this one stopped: who comes from there hears who types now."""
        for room_nid in room_nids:
            self._changed[room_nid] = self._ticker.tick()

    def _note(self, room_nid: int) -> None:
        self._recent.pop(room_nid, None)
        self._recent[room_nid] = self._clock.monotonic()
        if len(self._recent) > MAX_RECENT:
            del self._recent[next(iter(self._recent))]
        self._changed.pop(room_nid, None)
        self._changed[room_nid] = self._ticker.tick()
        if len(self._changed) > MAX_ROOMS:
            self._floor = max(self._floor, self._changed.pop(next(iter(self._changed))))
        self._wake_room(room_nid)

    # --- the end of time -------------------------------------------------------------------------------

    def _set_timer(self) -> None:
        delay = max(self._ends[0][0] - self._clock.monotonic(), 0.0)
        if self._timer is None or not self._timer.active():
            self._timer = self._clock.callLater(delay, self._sweep)
        elif self._ends[0][0] < self._timer_at:
            self._timer.reset(delay)
        else:
            return
        self._timer_at = self._ends[0][0]

    def _sweep(self) -> None:
        self._timer = None
        now = self._clock.monotonic()
        while self._ends and self._ends[0][0] <= now:
            _, room_nid, user_id = heappop(self._ends)
            until = self._rooms.get(room_nid, {}).get(user_id)
            if until is None:
                continue
            if until <= now:
                self.stop(room_nid, user_id)
            else:
                heappush(self._ends, (until, room_nid, user_id))
        if self._ends:
            self._set_timer()

    def close(self) -> None:
        """The server stops."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None


def _tell_nobody(_room_nid: int, _user_id: str, _typing: bool) -> None:
    pass
