"""HttpClient: requests to addresses that others name (well-known documents, previews, push), with every guard.

Redirects are followed only where the caller says so, each hop as carefully as the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final
from urllib.parse import quote, urljoin, urlsplit

from twisted.internet.defer import Deferred

from federation.flows.discovery import is_address
from homeserver import __version__
from homeserver.http.connection import RawResponse
from homeserver.http.connections import Connections, Target, build_request
from homeserver.http.deadline import cut_off
from homeserver.http.transport import Unreachable
from homeserver.runtime.clock import Clock

USER_AGENT: Final = f"CHAOS/{__version__}"
MAX_URL: Final = 8192
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
# What may stand in a path or query as it is; everything else is percent-encoded.
_SAFE: Final = "%/:?#[]@!$&'()*+,;=-._~"


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """The last answer, and the address that gave it. Names of headers in lower case."""

    url: str
    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What one request may cost, redirects and all."""

    timeout_s: float = 30.0
    max_bytes: int = 1024 * 1024
    max_redirects: int = 0
    schemes: tuple[str, ...] = ("https", "http")


class HttpClient:
    """See the module."""

    def __init__(self, connections: Connections, clock: Clock) -> None:
        self._connections = connections
        self._clock = clock

    def request(
        self,
        method: str,
        url: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
        limits: HttpLimits = HttpLimits(),
        verify: bool = True,
        receive: Callable[[bytes], None] | None = None,
    ) -> Deferred[HttpResponse]:
        """Fails with Unreachable alone: whatever the address is, and whoever answers there."""
        work = self._follow(method, url, body, headers, limits, verify, receive)
        return cut_off(self._clock, limits.timeout_s, Deferred.fromCoroutine(work))

    async def _follow(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str],
        limits: HttpLimits,
        verify: bool,
        receive: Callable[[bytes], None] | None,
    ) -> HttpResponse:
        for _ in range(limits.max_redirects + 1):
            response = await self._once(method, url, body, headers, limits, verify, receive)
            location = response.headers.get("location")
            if response.status not in _REDIRECTS or location is None or not limits.max_redirects:
                return HttpResponse(url, response.status, response.body, response.headers)
            if method not in ("GET", "HEAD"):
                raise Unreachable("a redirect of a request that is no GET")
            try:
                url = urljoin(url, _as_text(location.encode("latin-1")))
            except ValueError:  # a character that no header has, too
                raise Unreachable("a redirect to what is no address") from None
        raise Unreachable("too many redirects")

    async def _once(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str],
        limits: HttpLimits,
        verify: bool,
        receive: Callable[[bytes], None] | None,
    ) -> RawResponse:
        target, host_header, uri = parse_url(url, limits.schemes, verify=verify)
        fields = [("Host", host_header), ("User-Agent", USER_AGENT), *headers.items()]
        try:
            request = build_request(method, uri, fields, body)
        except ValueError as error:
            raise Unreachable(str(error)) from None
        return await self._connections.exchange(target, method, request, limits.max_bytes, receive)


def _as_text(location: bytes) -> str:
    """An address in a header: in UTF-8, as many sites write it; of other bytes each is written as such."""
    try:
        return location.decode("utf-8")
    except UnicodeDecodeError:
        return quote(location, safe=_SAFE)


def parse_url(url: str, schemes: tuple[str, ...], *, verify: bool) -> tuple[Target, str, str]:
    """Where to connect, the Host header, and the request target. Raises Unreachable for what is no such address."""
    try:
        if len(url) > MAX_URL:
            raise ValueError("too long")
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        if parts.scheme not in schemes or not host or parts.username is not None:
            raise ValueError("not an address that may be asked")
        if not is_address(host):
            host = host.encode("idna").decode("ascii")
    except (ValueError, UnicodeError):
        raise Unreachable(f"{url[:200]!r} is no address that can be asked") from None
    secure = parts.scheme == "https"
    default = 443 if secure else 80
    shown = f"[{host}]" if ":" in host else host
    uri = quote(parts.path or "/", safe=_SAFE) + (f"?{quote(parts.query, safe=_SAFE)}" if parts.query else "")
    host_header = shown if port in (None, default) else f"{shown}:{port}"
    return Target(host, port or default, host if secure else None, verify), host_header, uri
