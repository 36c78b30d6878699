"""Wakes those who wait because somebody came or went: a few at a time, so that it costs the same however many there are.

Where few are here everybody hears at once. Where thousands are, a change reaches those who are not in turn yet with
the sync that they ask for next, which clients do every half minute.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from homeserver.runtime.clock import Clock, DelayedCall

ROUND_S = 2.0
# LIMIT(processor: twenty answers a second)
AT_ONCE = 40
# LIMIT(memory)
QUEUED_MOST = 10_000


class Waking:
    """Call it with users, the most important first. ``is_waiting``: who does not wait hears without being woken."""

    def __init__(
        self,
        clock: Clock,
        wake_users: Callable[[Collection[int]], None],
        is_waiting: Callable[[int], bool],
    ) -> None:
        self._clock = clock
        self._wake_users = wake_users
        self._is_waiting = is_waiting
        self._queue: dict[int, None] = {}
        self._timer: DelayedCall | None = None

    def __call__(self, user_nids: Iterable[int]) -> None:
        """Wake them, now or a little later."""
        for user_nid in user_nids:
            if len(self._queue) < QUEUED_MOST and self._is_waiting(user_nid):
                self._queue[user_nid] = None
        if self._timer is None and self._queue:
            self._round()

    def close(self) -> None:
        """The server stops."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        self._queue.clear()

    def _round(self) -> None:
        self._timer = None
        now: list[int] = []
        while self._queue and len(now) < AT_ONCE:
            user_nid = next(iter(self._queue))
            del self._queue[user_nid]
            if self._is_waiting(user_nid):
                now.append(user_nid)
        if now:
            # Also when nobody is left: whoever comes next keeps the distance.
            self._timer = self._clock.callLater(ROUND_S, self._round)
            self._wake_users(now)
