"""Who is online. Memory only: after a restart everybody is offline until they sync.

1. Only a change of state or of status message is a change: while somebody is online they count as currently active, so
   that nothing need be told of each action of theirs (``currently_active``).
2. Changes wake those who wait at most once in ``WAKE_S``, and only through rooms of at most ``WAKE_MEMBERS_MOST`` local
   members; others hear of it with their next sync. So a hundred clients that connect at once do not wake each other.
3. A session is a device that syncs. It ends when the device has not synced for a while, by its own rhythm.

# spec: client-server-api#presence
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any

from homeserver.ephemeral.remote_presence import RemotePresence
from homeserver.ephemeral.ticker import Ticker
from homeserver.runtime.clock import Clock, DelayedCall
from homeserver.store.changes import Change, Kind
from homeserver.stream.index import MembershipIndex

ONLINE, UNAVAILABLE, OFFLINE = "online", "unavailable", "offline"

WAKE_S = 2.0
WAKE_MEMBERS_MOST = 100
IDLE_S = 300.0
_SESSION_S = 60.0
_SESSION_MOST_S = 180.0
_SWEEP_S = 5.0
# LIMIT(memory: some 500 bytes each; the longest unchanged of those who are offline are forgotten)
USERS_MOST = 50_000
# LIMIT(a user's devices that sync at the same time)
SESSIONS_MOST = 50


@dataclass(slots=True)
class _Session:
    """A device that syncs."""

    began_s: float
    until_s: float


@dataclass(slots=True)
class _User:
    """One local user."""

    user_id: str
    state: str = OFFLINE
    status_msg: str | None = None
    active_s: float | None = None  # when they last did something; None: not since the start
    sessions: dict[int, _Session] = field(default_factory=dict)
    until_s: float = 0.0  # without a session: how long an action keeps them here
    swept_s: float = 0.0  # when the sweep looks at them next; 0: it does not


class Presence:
    """See the module. ``wake_users`` tells those who wait."""

    def __init__(
        self,
        clock: Clock,
        ticker: Ticker,
        index: MembershipIndex,
        wake_users: Callable[[Collection[int]], None],
        remote: RemotePresence | None = None,
    ) -> None:
        self._clock = clock
        self._ticker = ticker
        self._index = index
        self._wake_users = wake_users
        self._users: dict[int, _User] = {}
        self._changed: OrderedDict[int, int] = (
            OrderedDict()
        )  # user -> counter of their last change, oldest first
        self._to_wake: set[int] = set()
        self._ends: list[tuple[float, int]] = []
        self._sweeper: DelayedCall | None = None
        self._waker: DelayedCall | None = None
        self.remote = remote
        # At each change of a local user. For other servers.
        self.tell: Callable[[int], None] = _tell_nobody

    # --- what sync and the API ask -----------------------------------------------------------------------

    @property
    def counter(self) -> int:
        return self._ticker.value

    def changes_for(self, user_nid: int, since_counter: int) -> Sequence[Mapping[str, Any]]:
        """The ``m.presence`` events of a user and those they share a room with, of what changed after a counter."""
        found: list[Mapping[str, Any]] = []
        for other_nid, at in reversed(self._changed.items()):
            if at <= since_counter:
                break
            user = self._users.get(other_nid)
            if user is None or (not since_counter and user.state == OFFLINE and user.status_msg is None):
                continue
            if self._index.shares_room(other_nid, user_nid):
                content = self.describe(other_nid)
                found.append({"type": "m.presence", "sender": user.user_id, "content": content})
        found.reverse()
        return found if self.remote is None else [*found, *self.remote.changes_for(user_nid, since_counter)]

    def describe(self, user_nid: int) -> dict[str, Any]:
        """A user's presence as clients are told it."""
        user = self._users.get(user_nid)
        if user is None:
            return {"presence": OFFLINE} if self.remote is None else self.remote.describe(user_nid)
        found: dict[str, Any] = {"presence": user.state}
        if user.active_s is not None:
            found["last_active_ago"] = int(max(self._clock.monotonic() - user.active_s, 0.0) * 1000)
        if user.state != OFFLINE:
            found["currently_active"] = user.state == ONLINE
        if user.status_msg is not None:
            found["status_msg"] = user.status_msg
        return found

    def user_id(self, user_nid: int) -> str | None:
        """Of a local user whose presence is known."""
        user = self._users.get(user_nid)
        return None if user is None else user.user_id

    def is_present(self, user_nid: int) -> bool:
        """Whether a local user is online or idle."""
        user = self._users.get(user_nid)
        return user is not None and user.state != OFFLINE

    def present(self) -> list[int]:
        """The local users who are online or idle."""
        return [user_nid for user_nid, user in self._users.items() if user.state != OFFLINE]

    # --- what happens ------------------------------------------------------------------------------------

    def synced(self, user_nid: int, user_id: str, device_nid: int, state: str) -> None:
        """A device asks for a sync, with this ``set_presence``."""
        if state == OFFLINE:
            # spec: client-server-api#get_matrixclientv3sync (set_presence): the client does not say that it is there
            return
        user, now = self._user(user_nid, user_id), self._clock.monotonic()
        session = user.sessions.get(device_nid)
        rhythm = now - session.began_s if session is not None else 0.0
        until = now + min(max(_SESSION_S, rhythm * 1.25 + 30.0), _SESSION_MOST_S)
        if session is not None:
            session.began_s, session.until_s = now, until
        elif len(user.sessions) < SESSIONS_MOST:
            user.sessions[device_nid] = _Session(now, until)
        if user.state == OFFLINE:
            if state == ONLINE:
                user.active_s = now
            self._set(user_nid, user, state)
        elif state == UNAVAILABLE and user.state == ONLINE and len(user.sessions) == 1:
            self._set(user_nid, user, UNAVAILABLE)
        self._plan(user_nid, user)

    def acted(self, user_nid: int, user_id: str) -> None:
        """The user did something of their own accord (sent a message): they are online."""
        user, now = self._user(user_nid, user_id), self._clock.monotonic()
        user.active_s, user.until_s = now, now + _SESSION_S
        if user.state != ONLINE:
            self._set(user_nid, user, ONLINE)
        self._plan(user_nid, user)

    def put(self, user_nid: int, user_id: str, state: str, status_msg: str | None) -> None:
        """The user says it themselves."""
        user, now = self._user(user_nid, user_id), self._clock.monotonic()
        user.active_s, user.until_s = now, now + _SESSION_S
        if state == OFFLINE:
            user.sessions.clear()
        if (user.state, user.status_msg) != (state, status_msg):
            user.status_msg = status_msg
            self._set(user_nid, user, state)
        self._plan(user_nid, user)

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow the log: who sends something, or says that they read something, is active."""
        for change in changes:
            payload = change.payload
            if payload is None:
                continue
            if change.kind == Kind.EVENT:
                if payload.state_key_nid is None and self._index.is_local(payload.sender_nid):
                    self.acted(payload.sender_nid, payload.event.sender)
            elif change.kind == Kind.RECEIPT and self._index.is_local(payload.user_nid):
                self.acted(payload.user_nid, payload.user_id)

    def close(self) -> None:
        """The server stops."""
        for timer in (self._sweeper, self._waker):
            if timer is not None and timer.active():
                timer.cancel()
        self._sweeper = self._waker = None
        if self.remote is not None:
            self.remote.close()

    def _user(self, user_nid: int, user_id: str) -> _User:
        user = self._users.get(user_nid)
        if user is None:
            if len(self._users) >= USERS_MOST:
                self._forget_one()
            user = self._users[user_nid] = _User(user_id)
        return user

    def _forget_one(self) -> None:
        for user_nid in self._changed:
            if self._users[user_nid].state == OFFLINE:
                del self._users[user_nid], self._changed[user_nid]
                return

    def _set(self, user_nid: int, user: _User, state: str) -> None:
        user.state = state
        self._changed.pop(user_nid, None)
        self._changed[user_nid] = self._ticker.tick()
        self.tell(user_nid)
        self._to_wake.add(user_nid)
        if self._waker is None:
            self._waker = self._clock.callLater(WAKE_S, self._wake)

    def _wake(self) -> None:
        self._waker = None
        changed, self._to_wake = sorted(self._to_wake), set()
        users, index = set(changed), self._index
        for room_nid in sorted(
            {room_nid for user_nid in changed for room_nid in index.joined_rooms(user_nid)}
        ):
            members = index.local_members(room_nid)
            if len(members) <= WAKE_MEMBERS_MOST:
                users.update(members)
        self._wake_users(sorted(users))

    # --- what time does ----------------------------------------------------------------------------------

    def _plan(self, user_nid: int, user: _User) -> None:
        """Let the sweep look at a user no later than something may end."""
        if user.state == OFFLINE or user.swept_s:
            return  # what ends later than planned is noticed then
        user.swept_s = self._next_end(user)
        heappush(self._ends, (user.swept_s, user_nid))
        if self._sweeper is None:
            self._sweeper = self._clock.callLater(_SWEEP_S, self._sweep)

    def _next_end(self, user: _User) -> float:
        ends = max([user.until_s, *(session.until_s for session in user.sessions.values())])
        if user.state == ONLINE and user.active_s is not None:
            ends = min(ends, user.active_s + IDLE_S)
        return max(ends, self._clock.monotonic() + _SWEEP_S)

    def _sweep(self) -> None:
        self._sweeper = None
        now = self._clock.monotonic()
        while self._ends and self._ends[0][0] <= now:
            _, user_nid = heappop(self._ends)
            user = self._users.get(user_nid)
            if user is None:
                continue
            user.swept_s = 0.0
            user.sessions = {nid: one for nid, one in user.sessions.items() if one.until_s > now}
            if user.state != OFFLINE and not user.sessions and user.until_s <= now:
                self._set(user_nid, user, OFFLINE)
            elif user.state == ONLINE and (user.active_s is None or user.active_s + IDLE_S <= now):
                # spec: client-server-api#idle-timeout
                self._set(user_nid, user, UNAVAILABLE)
            self._plan(user_nid, user)
        if self._ends and self._sweeper is None:
            self._sweeper = self._clock.callLater(_SWEEP_S, self._sweep)


def _tell_nobody(_user_nid: int) -> None:
    pass
