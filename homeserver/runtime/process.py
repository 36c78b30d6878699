"""Driving a reactor from the command line: one piece of work to its end, or a server until it is told to stop.

This is the only place that starts and stops a reactor; the reactor itself comes from `homeserver.__main__`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.python.failure import Failure

from homeserver.runtime.clock import Clock, ReactorTime
from homeserver.runtime.log import Log
from homeserver.runtime.signals import SignalReactor, handle_signals, leave_now

Result = TypeVar("Result")

# Five seconds are promised; what is left is for the interpreter to go.
STOP_WITHIN_S = 4.5


class Reactor(ReactorTime, SignalReactor, Protocol):
    """The part of Twisted's reactor that a process is driven with."""

    def run(self) -> object:
        """Run until `stop`."""

    def stop(self) -> object:
        """Stop running."""

    def callWhenRunning(self, function: Callable[..., object], /, *args: Any) -> object:  # noqa: N802
        """Call a function once the reactor runs."""


class InterruptedWorkError(Exception):
    """The reactor was stopped by a signal before the work had ended."""


class ServerLife(Protocol):
    """A server as its process sees it."""

    async def start(self) -> None:
        """Return when ready; raise where that cannot be."""

    async def stop(self) -> None:
        """Finish what was accepted and let go of everything. Also called after a `start` that failed."""

    @property
    def ending(self) -> str:
        """What a stop waits for now, in a word or two."""

    def reload(self) -> None:
        """Read the configuration again. Must not raise."""


def run_to_end(reactor: Reactor, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Run one coroutine; return what it returns and raise what it raises."""
    outcome: list[Result | Failure] = []

    def finish(result: Result | Failure) -> None:
        outcome.append(result)
        reactor.stop()

    def begin() -> None:
        Deferred.fromCoroutine(work()).addBoth(finish)

    reactor.callWhenRunning(begin)
    reactor.run()
    if not outcome:
        raise InterruptedWorkError
    result = outcome[0]
    if isinstance(result, Failure):
        raise readable(result.value)
    return result


def run_server(reactor: Reactor, clock: Clock, log: Log, life: ServerLife) -> None:
    """Run a server until SIGTERM or SIGINT. Raises what `start` raised, after having stopped what it had begun."""
    _Server(reactor, clock, log, life).run()


def readable(error: BaseException | None) -> BaseException:
    """Twisted's error for a port that is taken, as the ordinary one with a clear text."""
    if error is None:
        return RuntimeError("failed without an error")
    if isinstance(error, CannotListenError):
        reason = getattr(error.socketError, "strerror", None) or error.socketError
        return OSError(f"cannot listen on {error.interface or 'any address'}:{error.port}: {reason}")
    return error


class _Server:
    """One run of a server: starting, then ready, then stopping, whatever comes when."""

    __slots__ = ("_clock", "_error", "_life", "_log", "_reactor", "_started", "_stop_wanted", "_stopping")

    def __init__(self, reactor: Reactor, clock: Clock, log: Log, life: ServerLife) -> None:
        self._reactor = reactor
        self._clock = clock
        self._log = log
        self._life = life
        self._started = False
        self._stop_wanted = False
        self._stopping = False
        self._error: BaseException | None = None

    def run(self) -> None:
        self._reactor.callWhenRunning(self._begin)
        self._reactor.run()
        if self._error is not None:
            raise readable(self._error)

    def _begin(self) -> None:
        handle_signals(self._reactor, stop=self._want_stop, reload=self._reload)
        Deferred.fromCoroutine(self._life.start()).addCallbacks(self._on_started, self._on_failed)

    def _on_started(self, _: object) -> None:
        self._started = True
        if self._stop_wanted:
            self._stop()

    def _on_failed(self, failure: Failure) -> None:
        self._error = failure.value
        self._arm_deadline()
        self._stop()

    def _want_stop(self) -> None:
        # The deadline counts from the signal, also while the server is still starting.
        self._stop_wanted = True
        self._arm_deadline()
        if self._started:
            self._stop()

    def _reload(self) -> None:
        if self._started and not self._stopping:
            self._life.reload()

    def _stop(self) -> None:
        if self._stopping:
            return
        self._stopping = True
        Deferred.fromCoroutine(self._life.stop()).addBoth(self._on_stopped)

    def _on_stopped(self, result: object) -> None:
        if isinstance(result, Failure):
            cause = (result.type, result.value, result.getTracebackObject())
            self._log.error("stop failed", exc_info=cause)
            self._error = self._error or result.value
        self._reactor.stop()

    def _arm_deadline(self) -> None:
        self._clock.callLater(STOP_WITHIN_S, self._give_up)

    def _give_up(self) -> None:
        try:
            self._log.error(
                "stop took too long, leaving", limit_s=STOP_WITHIN_S, waited_for=self._life.ending
            )
        finally:
            leave_now(1)
