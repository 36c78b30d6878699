"""Putting a router on the network: the configured listeners, plain and TLS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from twisted.internet.protocol import Factory

from homeserver.cli.operations import Listening
from homeserver.config.files import reason_of
from homeserver.config.schema import Listener
from homeserver.http.edge import Observe
from homeserver.http.router import FailureLog, Router
from homeserver.http.server import HttpServer
from homeserver.http.tls import RenewableTls, secured
from homeserver.runtime.clock import Clock


class Listeners:
    """The open listeners of one server."""

    def __init__(
        self,
        reactor: Any,
        router: Router,
        clock: Clock,
        log_failure: FailureLog,
        new_error_id: Callable[[], str],
        observe: Observe | None = None,
    ) -> None:
        self._reactor = reactor
        self._router = router
        self._clock = clock
        self._log_failure = log_failure
        self._new_error_id = new_error_id
        self._observe = observe
        self._servers: list[HttpServer] = []
        self._tls: dict[str, RenewableTls] = {}  # by key of the configuration
        self.listening: list[Listening] = []

    def open(self, listener: Listener) -> None:
        """Listen; raises Twisted's CannotListenError where the port is taken."""
        server = HttpServer(
            self._router,
            clock=self._clock,
            serve=listener.serve,
            log_failure=self._log_failure,
            new_error_id=self._new_error_id,
            observe=self._observe,
            is_behind_proxy=listener.trust_forwarded_for,
        )
        self._servers.append(server)
        if listener.tls is None:
            factory: Factory = server
        else:
            tls = RenewableTls(listener.tls.certificate_file, listener.tls.private_key_file)
            self._tls[f"listeners[{len(self._servers) - 1}].tls"] = tls
            factory = secured(tls, server)
        port = self._reactor.listenTCP(listener.port, factory, interface=listener.bind, backlog=512)
        server.add_port(port)
        scheme: Literal["http", "https"] = "http" if listener.tls is None else "https"
        self.listening.append(Listening(scheme, listener.bind, port.getHost().port, tuple(listener.serve)))

    def renew_certificates(self) -> list[str]:
        """Serve what is in the files now, to new connections. A line for each listener that goes on as it was."""
        problems = []
        for key, tls in self._tls.items():
            try:
                tls.renew()
            except (OSError, ValueError) as error:
                problems.append(f"{key}: {reason_of(error)}")
        return problems

    @property
    def connections(self) -> int:
        """How many are open."""
        return sum(server.connection_count for server in self._servers)

    async def stop(self) -> None:
        """Accept nothing more and let what was accepted finish."""
        stopped = [server.stop() for server in self._servers]
        for one in stopped:
            await one
