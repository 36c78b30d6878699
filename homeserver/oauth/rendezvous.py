"""Rendezvous: where two devices of somebody meet, so that the one lets the other in (sign-in by QR code).

A rendezvous is one place that holds one payload. Whoever knows its id reads it and writes to it; that nobody else learns
or changes anything is their own business, as they encrypt what they write with keys that the QR code tells.

1. Who writes says what they saw last, and is refused when it has changed since: nothing is overwritten unread.
2. A rendezvous ends by itself. It lives in memory only: a restart makes both devices begin again.
3. Their number is bounded, and the size of each. Where there are too many, the oldest gives way: who floods us would
   otherwise keep everybody out for as long as theirs last, and so has to go on all that time.
# spec: proposals/4388#insecure-rendezvous-session, proposals/4108 (2024)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from homeserver.runtime.clock import Clock
from homeserver.runtime.entropy import Entropy

# spec: proposals/4388#maximum-duration-of-a-rendezvous (120 to 300 seconds)
LIFETIME_MS: Final = 300_000
# spec: proposals/4388#maximum-payload-size
MAX_PAYLOAD_BYTES: Final = 4_096
# LIMIT(memory: anybody may begin one)
MAX_SESSIONS: Final = 1_000


class NoRendezvousError(Exception):
    """There is none of that id (any more)."""


class PayloadTooLargeError(Exception):
    """More than ``MAX_PAYLOAD_BYTES``."""


class ConcurrentWriteError(Exception):
    """Somebody else has written since the writer looked last."""

    def __init__(self, current: Rendezvous) -> None:
        super().__init__(current.id)
        self.current = current


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """One of them, as it is now."""

    id: str
    version: str
    """Another one after each write, also of the same payload."""
    payload: bytes
    changed_ts_ms: int
    expires_ts_ms: int


class Rendezvouses:
    """All that there are."""

    def __init__(self, clock: Clock, entropy: Entropy, *, max_sessions: int = MAX_SESSIONS) -> None:
        self._clock = clock
        self._entropy = entropy
        self._max_sessions = max_sessions
        # Oldest first: all live equally long, so the first is the first to end.
        self._sessions: dict[str, tuple[float, Rendezvous]] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def begin(self, payload: bytes) -> Rendezvous:
        """A new one, with what it holds at first. Raises PayloadTooLargeError."""
        _check(payload)
        now_s = self._clock.monotonic()
        while self._sessions:
            rendezvous_id, (ends_s, _) = next(iter(self._sessions.items()))
            if ends_s > now_s and len(self._sessions) < self._max_sessions:
                break
            del self._sessions[rendezvous_id]
        now_ms = self._clock.now_ms()
        begun = Rendezvous(
            self._entropy.token(18), self._entropy.token(18), payload, now_ms, now_ms + LIFETIME_MS
        )
        self._sessions[begun.id] = (now_s + LIFETIME_MS / 1000, begun)
        return begun

    def look(self, rendezvous_id: str) -> Rendezvous:
        """What it holds now. Raises NoRendezvousError."""
        return self._alive(rendezvous_id)[1]

    def write(
        self, rendezvous_id: str, version: str, payload: bytes, *, may_repeat: bool = False
    ) -> Rendezvous:
        """Replace what it holds.

        ``may_repeat``: who writes what is there already, having seen what was before, sends a request once more whose
        answer got lost, and nothing changes. Raises NoRendezvousError, PayloadTooLargeError and ConcurrentWriteError.
        """
        ends_s, current = self._alive(rendezvous_id)
        _check(payload)
        if version != current.version:
            # spec: proposals/4388#the-send-mechanism
            if may_repeat and payload == current.payload:
                return current
            raise ConcurrentWriteError(current)
        written = Rendezvous(
            current.id, self._entropy.token(18), payload, self._clock.now_ms(), current.expires_ts_ms
        )
        self._sessions[rendezvous_id] = (ends_s, written)
        return written

    def end(self, rendezvous_id: str) -> None:
        """Raises NoRendezvousError."""
        self._alive(rendezvous_id)
        del self._sessions[rendezvous_id]

    def _alive(self, rendezvous_id: str) -> tuple[float, Rendezvous]:
        found = self._sessions.get(rendezvous_id)
        if found is None or found[0] <= self._clock.monotonic():
            raise NoRendezvousError
        return found


def _check(payload: bytes) -> None:
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise PayloadTooLargeError
