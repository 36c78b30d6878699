"""HttpServer: the connections of one or more listeners, from the first to the last.

It is a Twisted factory; `stop` lets every connection finish what it had accepted.
spec: client-server-api#api-standards
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, cast

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory

from homeserver.http.edge import Edge, Observe, Upgrade
from homeserver.http.limits import HttpLimits, Watchdog
from homeserver.http.protocol import HttpProtocol
from homeserver.http.render import Renderer
from homeserver.http.router import FailureLog, Router
from homeserver.runtime.clock import Clock, DelayedCall

# What has not been answered by then waits for somebody who does not answer either, mostly another server; what comes after
# has to fit in with it (``runtime.process: STOP_WITHIN_S``): tasks and followers end, the database is closed.
GRACE_S = 3.0
# With TLS a connection ends when the other side has agreed; who has gone never does.
GOODBYE_S = 0.5


class ListeningPort(Protocol):
    """The part of IListeningPort that we use."""

    def stopListening(self) -> Deferred[None] | None: ...  # noqa: N802


class HttpServer(Factory):
    """Give it to `reactor.listenTCP` (behind TLS: `tls.secured`) and tell it the port with `add_port`; then `stop` stops it."""

    noisy = False

    def __init__(
        self,
        router: Router,
        *,
        clock: Clock,
        serve: Iterable[str],
        log_failure: FailureLog,
        new_error_id: Callable[[], str],
        limits: HttpLimits | None = None,
        observe: Observe | None = None,
        upgrade: Upgrade | None = None,
        is_behind_proxy: bool = False,
    ) -> None:
        limits = limits or HttpLimits()
        self._clock = clock
        self._limits = limits
        # A dict for its order: shutting down is then the same in every run of a simulation.
        self._connections: dict[HttpProtocol, None] = {}
        self._ports: list[ListeningPort] = []
        self._stopping = False
        self._stopped: Deferred[None] | None = None
        self._timers: list[DelayedCall] = []  # of the stop
        self._edge = Edge(
            router=router,
            serve=frozenset(serve),
            clock=clock,
            limits=limits,
            renderer=Renderer(clock, (route.method for route in router.routes)),
            watchdog=Watchdog(clock, limits.sweep_interval_s),
            log_failure=log_failure,
            new_error_id=new_error_id,
            opened=self._opened,
            closed=self._closed,
            observe=observe,
            upgrade=upgrade,
            is_behind_proxy=is_behind_proxy,
        )

    @property
    def connection_count(self) -> int:
        return len(self._connections)

    def buildProtocol(self, addr: IAddress | None) -> HttpProtocol | None:  # noqa: N802, ARG002
        """None closes the connection at once: the cap is reached, or we are stopping."""
        if self._stopping or len(self._connections) >= self._limits.max_connections:
            return None
        return HttpProtocol(self._edge)

    def add_port(self, port: object) -> None:
        self._ports.append(cast(ListeningPort, port))

    def stop(self, grace_s: float = GRACE_S) -> Deferred[None]:
        """Stop listening, let accepted requests finish, close; what is left after the grace period is cut off."""
        if self._stopped is not None:
            return _follow(self._stopped)
        self._stopping = True
        self._stopped = Deferred()
        ports, self._ports = self._ports, []
        for port in ports:
            maybeDeferred(port.stopListening).addErrback(lambda _: None)
        for connection in tuple(self._connections):
            connection.shut_down()
        idle = [connection for connection in self._connections if connection.is_closing]
        self._timers = [
            self._clock.callLater(GOODBYE_S, self._leave, idle),
            self._clock.callLater(grace_s, self._cut_off),
        ]
        self._end_if_done()
        return _follow(self._stopped)

    def _leave(self, connections: Sequence[HttpProtocol]) -> None:
        """Wait no longer for these. They are not aborted: what was answered may still be on its way."""
        for connection in connections:
            self._connections.pop(connection, None)
        self._end_if_done()

    def _cut_off(self) -> None:
        for connection in tuple(self._connections):
            connection.abort()

    def _opened(self, connection: HttpProtocol) -> None:
        self._connections[connection] = None

    def _closed(self, connection: HttpProtocol) -> None:
        self._connections.pop(connection, None)
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._connections or self._stopped is None or self._stopped.called:
            return
        for timer in self._timers:
            if timer.active():
                timer.cancel()
        self._stopped.callback(None)


def _follow(done: Deferred[None]) -> Deferred[None]:
    """A Deferred of one's own that fires when `done` does."""
    mine: Deferred[None] = Deferred()

    def pass_on(_: None) -> None:
        mine.callback(None)

    done.addCallback(pass_on)
    return mine
