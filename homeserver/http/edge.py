"""Edge: what every connection of one server shares. Built by `server.HttpServer`, changed by nobody."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any, Protocol

from homeserver.http.limits import HttpLimits, Watchdog
from homeserver.http.render import Renderer
from homeserver.http.request import Headers, Request
from homeserver.http.router import FailureLog, Router
from homeserver.runtime.clock import Clock

Network = IPv4Network | IPv6Network
Observe = Callable[[str, str, int, float], None]
"""Metrics: (route template or "", method, status, seconds from the start of the handler to its answer)."""

MAX_FORWARDED_HOPS = 32


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
    trusted_proxies: tuple[Network, ...] = ()

    def is_proxy(self, address: str) -> bool:
        """Whether to believe what this peer says about where a request came from."""
        try:
            parsed = ip_address(address.partition("%")[0])
        except ValueError:
            # A Unix socket has no address; only somebody on this machine can reach it.
            return address == "" and bool(self.trusted_proxies)
        return any(
            parsed.version == network.version and parsed in network for network in self.trusted_proxies
        )

    def client_ip(self, headers: Headers) -> str | None:
        """The nearest address of X-Forwarded-For that is not a proxy of ours; further left anybody may write."""
        values = headers.get_all(b"x-forwarded-for")
        if not values:
            return None
        hops = b",".join(values).rsplit(b",", MAX_FORWARDED_HOPS)[-MAX_FORWARDED_HOPS:]
        nearest: str | None = None
        for hop in reversed(hops):
            try:
                nearest = str(ip_address(hop.strip().decode("ascii")))
            except ValueError:
                break
            if not self.is_proxy(nearest):
                break
        return nearest
