"""What one user's devices say, made into one presence.

1. The most present device counts: busy, online, unavailable, offline. A device says what it is with every sync.
2. What the user says themselves (``said``) stands above that until they say otherwise, a device changes what it is to
   online, or their last device has gone; what they do ends an ``unavailable``, and neither of the others.
3. A device that syncs as offline says nothing of its user. Where all do, what they said themselves or did after that
   makes them present for a minute.
4. Who appears offline is offline, whatever else there is, and nothing of what they do shows.

# spec: client-server-api#presence
# spec: MSC3026 (busy)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

ONLINE, UNAVAILABLE, OFFLINE = "online", "unavailable", "offline"
BUSY = "org.matrix.msc3026.busy"
STATES = frozenset((ONLINE, UNAVAILABLE, OFFLINE, BUSY))

IDLE_S = 300.0
SESSION_S = 60.0
SESSION_MOST_S = 180.0
# LIMIT(a user's devices that sync at the same time)
SESSIONS_MOST = 50
_MORE_PRESENT = {OFFLINE: 0, UNAVAILABLE: 1, ONLINE: 2, BUSY: 3}


@dataclass(slots=True)
class Session:
    """A device that syncs."""

    began_s: float
    until_s: float
    state: str


@dataclass(slots=True)
class UserDevices:
    """One local user."""

    user_id: str
    state: str = OFFLINE  # what others were told
    said: str | None = None
    hides: bool | None = None  # whether they appear offline; None: not known yet, and until then they do
    asked: bool = False  # that is being found out
    status_msg: str | None = None
    shown: dict[str, Any] | None = None  # what they changed of their name and picture since they came
    active_s: float | None = None  # when they last did something; None: not since the start
    sessions: dict[int, Session] = field(default_factory=dict)
    until_s: float = 0.0  # without a session: how long an action keeps them here
    swept_s: float = 0.0  # when the sweep looks at them next; 0: it does not

    def merged(self, now: float) -> str:
        """What others are to be told."""
        if self.hides is not False or self.said == OFFLINE:
            return OFFLINE
        states = (one.state for one in self.sessions.values())
        best = max(states, key=_MORE_PRESENT.__getitem__, default=OFFLINE)
        if best == OFFLINE and self.until_s > now and (self.said is not None or not self.sessions):
            # spec: "if the parameter is set to "offline" then the client is not marked as being online"
            best = self.said or ONLINE
        if best in (OFFLINE, BUSY):
            return best
        if self.said == BUSY:
            return BUSY
        # spec: client-server-api#idle-timeout
        active = self.active_s is not None and self.active_s + IDLE_S > now
        return ONLINE if best == ONLINE and active and self.said != UNAVAILABLE else UNAVAILABLE

    def synced(self, device_nid: int, state: str, now: float) -> None:
        """A device asks for a sync."""
        session = self.sessions.get(device_nid)
        rhythm = now - session.began_s if session is not None else 0.0
        until = now + min(max(SESSION_S, rhythm * 1.25 + 30.0), SESSION_MOST_S)
        if session is None:
            if len(self.sessions) < SESSIONS_MOST:
                self.sessions[device_nid] = Session(now, until, state)
            if state in (ONLINE, BUSY):
                self._touch(now)
            return
        if state == ONLINE != session.state:
            # spec: client-server-api#last-active-ago ("changing presence state to online")
            self._touch(now)
            self.said = None
        elif state == OFFLINE != session.state and self.said != OFFLINE:
            self.said = None  # they hide, in the words of a client that only syncs
        session.began_s, session.until_s, session.state = now, until, state

    def acted(self, now: float) -> None:
        """They did something of their own accord."""
        self._touch(now)
        self.until_s = now + SESSION_S
        if self.state == UNAVAILABLE:
            if self.said == UNAVAILABLE:
                self.said = None
            for session in self.sessions.values():
                if session.state == UNAVAILABLE:
                    session.state = ONLINE

    def say(self, state: str, now: float) -> None:
        """They say it themselves."""
        self.said = state
        self.until_s = now + SESSION_S
        if self.hides is not True:
            self.active_s = now
        if state == ONLINE:
            for session in self.sessions.values():
                if session.state != OFFLINE:
                    session.state = ONLINE

    def choose(self, hides: bool | None, now: float) -> None:
        """Whether they appear offline, as far as is known."""
        if hides and self.hides is None:
            self.active_s = None  # seen while it was being found out
        elif self.hides and not hides:
            self.active_s = now
        self.hides, self.asked = hides, False

    def prune(self, now: float) -> None:
        """End what has ended."""
        self.sessions = {nid: one for nid, one in self.sessions.items() if one.until_s > now}
        if not self.is_here(now):
            self.said = None

    def is_here(self, now: float) -> bool:
        """Whether anything of theirs can still end."""
        return bool(self.sessions) or self.until_s > now

    def next_end(self) -> float:
        """When something ends that others may have to be told of."""
        ends = max([self.until_s, *(session.until_s for session in self.sessions.values())])
        if self.state == ONLINE and self.active_s is not None:
            ends = min(ends, self.active_s + IDLE_S)
        return ends

    def _touch(self, now: float) -> None:
        if self.hides is not True and self.said != OFFLINE:
            self.active_s = now
