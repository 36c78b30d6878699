"""A time limit for the whole of something that reaches out."""

from __future__ import annotations

from typing import TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from homeserver.http.transport import TimedOut
from homeserver.runtime.clock import Clock

T = TypeVar("T")


def cut_off(clock: Clock, seconds: float, work: Deferred[T]) -> Deferred[T]:
    """The same Deferred; when it has not fired by then it is cancelled, and fails with TimedOut."""
    expired = False

    def expire() -> None:
        nonlocal expired
        expired = True
        work.cancel()

    timer = clock.callLater(seconds, expire)

    def ended(result: T | Failure) -> T | Failure:
        if timer.active():
            timer.cancel()
        if expired and isinstance(result, Failure) and result.check(CancelledError):
            return Failure(TimedOut(f"no answer within {seconds:g} s"))
        return result

    return work.addBoth(ended)
