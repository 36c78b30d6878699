"""Edge: what every connection of one server shares. Built by `server.HttpServer`, changed by nobody."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Protocol

from homeserver.http.limits import HttpLimits, Watchdog
from homeserver.http.render import Renderer
from homeserver.http.request import Headers, Request
from homeserver.http.router import FailureLog, Router
from homeserver.runtime.clock import Clock

Observe = Callable[[str, str, int, float], None]
"""Metrics: (route template or "", method, status, seconds from the start of the handler to its answer)."""


class UpgradedConnection(Protocol):
    """Whoever took a connection over: it gets all further bytes and writes to the transport itself."""

    def data_received(self, data: bytes) -> None: ...
    def connection_lost(self) -> None: ...
    def shut_down(self) -> None:
        """The server stops: say good-bye and close."""


Upgrade = Callable[[Request, Any, bytes], UpgradedConnection]
"""(request, transport, bytes that came after the request) to the new owner, which writes the 101 itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """The shared part of all connections."""

    router: Router
    serve: frozenset[str]
    clock: Clock
    limits: HttpLimits
    renderer: Renderer
    watchdog: Watchdog
    log_failure: FailureLog
    new_error_id: Callable[[], str]
    opened: Callable[[Any], None]
    closed: Callable[[Any], None]
    observe: Observe | None = None
    upgrade: Upgrade | None = None
    is_behind_proxy: bool = False
    """Whoever connects is a proxy of ours, and may say where a request came from."""

    def client_ip(self, headers: Headers, peer: str) -> str:
        """Where a request came from: the last address of X-Forwarded-For, which our proxy wrote itself.

        Proxies append to what was there, so all that is further left the client may have made up.
        """
        values = headers.get_all(b"x-forwarded-for") if self.is_behind_proxy else ()
        if not values:
            return peer
        try:
            return str(ip_address(values[-1].rpartition(b",")[2].strip().decode("ascii")))
        except ValueError:
            return peer
