"""Waiting for news: a time limit, and a turn of one's own after being woken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from homeserver.runtime.clock import Clock
from homeserver.stream.notifier import Notifier, Waiter

# How many answers are made in one turn of the reactor.
_AT_ONCE = 32


class _Later(Protocol):
    def callLater(self, delay: float, function: Callable[..., object], /, *args: Any) -> Any: ...  # noqa: N802


class Turns:
    """Lets those who were woken go on after the commit that woke them has been told to everybody, some at a time.

    The sender's answer comes first, and a room of thousands does not hold the reactor for one long turn.
    """

    def __init__(self, clock: _Later) -> None:
        self._clock = clock
        self._waiting: list[Deferred[None]] = []
        self._scheduled = False

    def next(self) -> Deferred[None]:
        """Fires in a turn to come."""
        result: Deferred[None] = Deferred()
        self._waiting.append(result)
        if not self._scheduled:
            self._scheduled = True
            self._clock.callLater(0, self._run)
        return result

    def _run(self) -> None:
        self._scheduled = False
        now, self._waiting = self._waiting[:_AT_ONCE], self._waiting[_AT_ONCE:]
        if self._waiting:
            self._scheduled = True
            self._clock.callLater(0, self._run)
        for one in now:
            if not one.called:  # else its client went away
                one.callback(None)


class Waits:
    """Long polls over the notifier."""

    def __init__(self, notifier: Notifier, clock: Clock) -> None:
        self._notifier = notifier
        self._clock = clock
        self._turns = Turns(clock)

    async def wait(
        self, user_nid: int, device_nid: int, seconds: float, is_quiet: Callable[[], bool]
    ) -> bool:
        """Wait until something may have happened; False when the time is up.

        ``is_quiet`` is asked after the subscription: what happened between the caller's look and it is not missed.
        """
        waiter = Waiter(user_nid, device_nid)
        self._notifier.add(waiter)
        try:
            if not is_quiet():
                return True
            timer = self._clock.callLater(seconds, waiter.wake, False)
            try:
                happened = await waiter.woken
            finally:
                if timer.active():
                    timer.cancel()
        finally:
            self._notifier.remove(waiter)
        if happened:
            await self._turns.next()
        return happened
