"""Who is online. Memory only: after a restart everybody is offline until they sync.

1. Only a change of state, of status message, or of name or picture is a change: while somebody is online they count as
   currently active, so that nothing need be told of each action of theirs (``currently_active``).
2. Changes wake those who wait at most once in ``WAKE_S``, those of the smallest rooms first, and only through rooms of
   at most ``WAKE_MEMBERS_MOST`` local members; others hear of it with their next sync (see ``waking.py``).
3. A session is a device that syncs. It ends when the device has not synced for a while, by its own rhythm. What several
   say is merged in ``devices.py``.
4. Nobody is shown before it is known whether they want to appear offline.

# spec: client-server-api#presence
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from heapq import heappop, heappush
from itertools import islice
from typing import Any

import msgspec

from homeserver.ephemeral.devices import BUSY, OFFLINE, ONLINE, UserDevices
from homeserver.ephemeral.last_changes import LastChanges
from homeserver.ephemeral.remote_presence import RemotePresence, presence_event
from homeserver.ephemeral.ticker import Ticker
from homeserver.runtime.clock import Clock, DelayedCall
from homeserver.store.changes import Change, Kind
from homeserver.store.receipts import READ
from homeserver.store.remote_profiles import SHOWN
from homeserver.stream.index import MembershipIndex

# Account data of a user who wants to appear offline to everybody, on all their devices: {"enabled": true}.
APPEAR_OFFLINE = "im.chaos.appear_offline"
WAKE_S = 2.0
WAKE_MEMBERS_MOST = 100
_SWEEP_S = 5.0
# How far one looks for somebody to forget.
_LOOKED_AT = 100
# LIMIT(memory: some 600 bytes each; the longest unchanged are forgotten, those who are offline first)
USERS_MOST = 50_000
# LIMIT(time and size of one answer: who joins a large room is told of so many at first)
NEWLY_SEEN_MOST = 1_000


class _AppearOffline(msgspec.Struct):
    enabled: bool = False


_decode_choice = msgspec.json.Decoder(_AppearOffline).decode


def appears_offline(content: str | None) -> bool:
    """Whether this account data says so; what is not understood does not."""
    if content is None:
        return False
    try:
        return _decode_choice(content).enabled
    except msgspec.DecodeError:
        return False


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
        self._users: dict[int, UserDevices] = {}
        self._changed = LastChanges()
        self._to_wake: set[int] = set()
        self._ends: list[tuple[float, int]] = []
        self._sweeper: DelayedCall | None = None
        self._waker: DelayedCall | None = None
        self.remote = remote
        # At each change of a local user. For other servers.
        self.tell: Callable[[int], None] = _tell_nobody
        # Finds out whether a user wants to appear offline, and calls ``choose``. Without it nobody does.
        self.ask_choice: Callable[[int], None] | None = None
        self.closing: list[Callable[[], None]] = []  # what else ends with this

    # --- what sync and the API ask -----------------------------------------------------------------------

    @property
    def counter(self) -> int:
        return self._ticker.value

    def changes_for(self, user_nid: int, since_counter: int) -> Sequence[Mapping[str, Any]]:
        """The ``m.presence`` events of a user and those they share a room with, of what changed after a counter."""
        found: list[Mapping[str, Any]] = []
        for other_nid in self._seen(user_nid, since_counter):
            user = self._users[other_nid]
            if since_counter or user.state != OFFLINE or user.status_msg is not None:
                found.append(self._event(other_nid, user))
        found.reverse()
        return found if self.remote is None else [*found, *self.remote.changes_for(user_nid, since_counter)]

    def changed(self, user_nid: int, since_counter: int) -> bool:
        """Whether ``changes_for`` has anything."""
        if not since_counter:
            return bool(self.changes_for(user_nid, 0))
        if self._seen(user_nid, since_counter):
            return True
        return self.remote is not None and bool(self.remote.changes_for(user_nid, since_counter))

    def newly_seen(self, user_nid: int, since: int, upto: int) -> Sequence[Mapping[str, Any]]:
        """The ``m.presence`` events of those with whom a user came to share a room in ``(since, upto]``: who is there.

        Who comes hears of those in the room, and they of who came, although their presence has not changed. Who is
        out of it again hears of nobody, and nobody of them.
        """
        new: dict[int, None] = {}
        entered: set[int] = set()
        for coming in self._index.came_in(since, upto):
            members = self._index.local_members(coming.room_nid)
            if coming.user_nid not in members:
                continue  # gone again: nobody is to be shown to anybody for it
            if coming.user_nid == user_nid:
                new.update(dict.fromkeys(islice(members, NEWLY_SEEN_MOST)))
                entered.add(coming.room_nid)
            elif user_nid in members:
                new[coming.user_nid] = None
        there = [nid for nid in islice(new, NEWLY_SEEN_MOST) if self.is_present(nid)]
        found = [self._event(nid, self._users[nid]) for nid in sorted(there)]
        if self.remote is not None:
            elsewhere = self.remote.present_in(entered, NEWLY_SEEN_MOST)
            found += [self.remote.event_of(nid) for nid in elsewhere]
        return found

    def _seen(self, user_nid: int, since_counter: int) -> list[int]:
        """The local users whose changes after a counter concern a user, newest first."""
        if not self._changed.is_after(since_counter):
            return []
        joined = self._index.joined_rooms(user_nid)
        rooms = [self._index.local_members(room_nid) for room_nid in joined]
        return self._changed.find(since_counter, [(user_nid,), *rooms])

    def _event(self, user_nid: int, user: UserDevices) -> Mapping[str, Any]:
        """As sync tells of a local user: with what they changed of their name and picture, while they are there."""
        # spec: client-server-api#events-on-change-of-profile-information
        described = self.describe(user_nid)
        if user.shown is not None and user.state != OFFLINE:
            described.update(user.shown)
        return presence_event(user.user_id, described)

    def describe(self, user_nid: int) -> dict[str, Any]:
        """A user's presence as clients are told it."""
        user = self._users.get(user_nid)
        if user is None:
            return {"presence": OFFLINE} if self.remote is None else self.remote.describe(user_nid)
        found: dict[str, Any] = {"presence": user.state}
        if user.active_s is not None:
            found["last_active_ago"] = int(max(self._clock.monotonic() - user.active_s, 0.0) * 1000)
        if user.state != OFFLINE:
            found["currently_active"] = user.state in (ONLINE, BUSY)
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
        """A device asks for a sync, with this ``set_presence``; ``offline``: it does not say that it is there."""
        user, now = self._user(user_nid, user_id), self._clock.monotonic()
        user.synced(device_nid, state, now)
        self._look(user_nid, user, now)

    def acted(self, user_nid: int, user_id: str) -> None:
        """The user did something of their own accord (sent a message): they are online."""
        user, now = self._user(user_nid, user_id), self._clock.monotonic()
        user.acted(now)
        self._look(user_nid, user, now)

    def put(self, user_nid: int, user_id: str, state: str, status_msg: str | None) -> None:
        """The user says it themselves."""
        user, now = self._user(user_nid, user_id), self._clock.monotonic()
        user.say(state, now)
        if user.status_msg != status_msg:
            user.status_msg = status_msg
            self._set(user_nid, user, user.merged(now))
        self._look(user_nid, user, now)

    def choose(self, user_nid: int, hides: bool | None) -> None:
        """Whether a user appears offline, from now on."""
        user, now = self._users.get(user_nid), self._clock.monotonic()
        if user is not None:
            user.choose(hides, now)
            self._look(user_nid, user, now, ask=False)

    def answer_choice(self, user_nid: int, hides: bool | None) -> None:
        """What ``ask_choice`` found; None: nothing, so the next sync asks again."""
        user = self._users.get(user_nid)
        if user is not None and user.asked:  # else they chose meanwhile
            self.choose(user_nid, hides)

    # What ``apply`` looks at.
    kinds = frozenset({Kind.EVENT, Kind.ACCOUNT_DATA, Kind.RECEIPT, Kind.PROFILE})

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow the log: who sends something, or tells others that they read something, is active."""
        for change in changes:
            payload = change.payload
            if payload is None:
                continue
            if change.kind == Kind.EVENT:
                if payload.state_key_nid is None and self._index.is_local(payload.sender_nid):
                    self.acted(payload.sender_nid, payload.event.sender)
            elif change.kind == Kind.ACCOUNT_DATA:
                if change.ref == 0 and payload.type == APPEAR_OFFLINE:
                    self.choose(payload.user_nid, appears_offline(payload.content))
            elif change.kind == Kind.RECEIPT:
                # spec: client-server-api#private-read-receipts (nobody else may learn of them, not by this either)
                if payload.kind == READ and self._index.is_local(payload.user_nid):
                    self.acted(payload.user_nid, payload.user_id)
            elif change.kind == Kind.PROFILE and payload.field in SHOWN:
                self._show(payload.user_nid, payload.field, payload.value)

    def _show(self, user_nid: int, field: str, value: Any) -> None:
        """Part of a local user's profile is another now: those who see that they are there are told."""
        user = self._users.get(user_nid)
        if user is None:
            return
        user.shown = {**(user.shown or {}), field: value}
        if value is None:
            del user.shown[field]
        if user.state != OFFLINE:
            self._note_change(user_nid)

    def close(self) -> None:
        """The server stops."""
        for timer in (self._sweeper, self._waker):
            if timer is not None and timer.active():
                timer.cancel()
        self._sweeper = self._waker = None
        if self.remote is not None:
            self.remote.close()
        for close in self.closing:
            close()

    def _user(self, user_nid: int, user_id: str) -> UserDevices:
        user = self._users.get(user_nid)
        if user is None:
            if len(self._users) >= USERS_MOST:
                self._forget_one()
            user = self._users[user_nid] = UserDevices(user_id)
        if user.hides is None and self.ask_choice is None:
            user.hides = False
        return user

    def _forget_one(self) -> None:
        oldest = (*islice(self._changed, _LOOKED_AT), *islice(self._users, _LOOKED_AT))
        user_nid = next((nid for nid in oldest if self._users[nid].state == OFFLINE), oldest[0])
        del self._users[user_nid]
        self._changed.forget(user_nid)

    def _look(self, user_nid: int, user: UserDevices, now: float, *, ask: bool = True) -> None:
        """Tell of it if others see them otherwise now."""
        if ask and user.hides is None and not user.asked and self.ask_choice is not None:
            user.asked = True
            self.ask_choice(user_nid)
        merged = user.merged(now)
        if merged != user.state:
            self._set(user_nid, user, merged)
        self._plan(user_nid, user, now)

    def _set(self, user_nid: int, user: UserDevices, state: str) -> None:
        user.state = state
        self._note_change(user_nid)
        self.tell(user_nid)

    def _note_change(self, user_nid: int) -> None:
        self._changed.note(user_nid, self._ticker.tick())
        self._to_wake.add(user_nid)
        if self._waker is None:
            self._waker = self._clock.callLater(WAKE_S, self._wake)

    def _wake(self) -> None:
        self._waker = None
        changed, self._to_wake = sorted(self._to_wake), set()
        index = self._index
        rooms = {room_nid for user_nid in changed for room_nid in index.joined_rooms(user_nid)}
        smallest = sorted((len(index.local_members(room_nid)), room_nid) for room_nid in rooms)
        users = dict.fromkeys(changed)
        for size, room_nid in smallest:
            if size > WAKE_MEMBERS_MOST:
                break
            users.update(dict.fromkeys(sorted(index.local_members(room_nid))))
        self._wake_users(list(users))

    # --- what time does ----------------------------------------------------------------------------------

    def _plan(self, user_nid: int, user: UserDevices, now: float) -> None:
        """Let the sweep look at a user no later than something may end."""
        if user.swept_s or not user.is_here(now):
            return  # what ends later than planned is noticed then
        user.swept_s = max(user.next_end(), now + _SWEEP_S)
        heappush(self._ends, (user.swept_s, user_nid))
        if self._sweeper is None:
            self._sweeper = self._clock.callLater(_SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        now = self._clock.monotonic()
        while self._ends and self._ends[0][0] <= now:
            at, user_nid = heappop(self._ends)
            user = self._users.get(user_nid)
            if user is None or user.swept_s != at:
                continue  # forgotten meanwhile, and maybe made anew
            user.swept_s = 0.0
            user.prune(now)
            self._look(user_nid, user, now, ask=False)
            if not user.is_here(now) and user_nid not in self._changed:
                del self._users[user_nid]  # nobody was ever told of them
        if self._ends and self._sweeper is None:
            self._sweeper = self._clock.callLater(_SWEEP_S, self._sweep)


def _tell_nobody(_user_nid: int) -> None:
    pass
