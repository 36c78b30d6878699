"""PeerTransport: requests to other servers over the network: found by their names, tried place by place.

Implements ``transport.Transport``. Of every failure it makes an ``Unreachable``.

# spec: server-server-api#resolving-server-names
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred

from federation.flows.discovery import Endpoint, Location, WellKnown, discover, needs_well_known
from federation.flows.needs import HttpAnswer, NeedHttp, NeedSrv, SrvRecord
from federation.ids import ServerName
from homeserver.http.client import USER_AGENT, HttpClient, HttpLimits
from homeserver.http.connection import NotConnected, RawResponse
from homeserver.http.connections import Connections, Target, build_request
from homeserver.http.deadline import cut_off
from homeserver.http.resolve import Resolver
from homeserver.http.transport import PeerRequest, PeerResponse, Unreachable
from homeserver.runtime.clock import Clock
from homeserver.runtime.drive import drive

MAX_SERVERS: Final = 10_000
# LIMIT(each place may cost the whole of a connection's time)
MAX_ENDPOINTS: Final = 4


class PeerTransport:
    """See the module. ``verify``: whether certificates are checked at all."""

    def __init__(
        self,
        connections: Connections,
        http: HttpClient,
        resolver: Resolver,
        clock: Clock,
        *,
        verify: bool,
    ) -> None:
        self._connections = connections
        self._http = http
        self._resolver = resolver
        self._clock = clock
        self._verify = verify
        self._locations: dict[ServerName, Location] = {}
        self._well_known: dict[str, WellKnown] = {}
        self._searching: dict[ServerName, list[Deferred[Location]]] = {}

    def send(
        self, request: PeerRequest, receive: Callable[[bytes], None] | None = None
    ) -> Deferred[PeerResponse]:
        """Send; with ``receive`` the body of a 2xx answer goes there in pieces, and the response's is empty."""
        work = Deferred.fromCoroutine(self._send(request, receive))
        return cut_off(self._clock, request.timeout_s, work)

    def heard_from(self, server_name: ServerName) -> None:
        """A sign of life: what failed on the way to that server may be there again."""
        hostname = needs_well_known(server_name)
        if hostname is None:
            return
        known = self._well_known.get(hostname)
        if known is not None and known.failures:
            del self._well_known[hostname]
            self._locations.pop(server_name, None)

    async def _send(self, request: PeerRequest, receive: Callable[[bytes], None] | None) -> PeerResponse:
        location = await self.locate(request.destination)
        problem: Unreachable = Unreachable(f"{request.destination} is nowhere")
        for endpoint in location.endpoints[:MAX_ENDPOINTS]:
            try:
                response = await self._ask(endpoint, request, receive)
            except NotConnected as error:
                problem = error
                continue
            return PeerResponse(response.status, response.body, response.headers)
        # Perhaps it has moved: the next request looks again, as far as the well-known document allows.
        self._locations.pop(request.destination, None)
        raise problem

    async def _ask(
        self, endpoint: Endpoint, request: PeerRequest, receive: Callable[[bytes], None] | None
    ) -> RawResponse:
        headers = [("Host", endpoint.host_header), ("User-Agent", USER_AGENT)]
        if request.authorization is not None:
            headers.append(("Authorization", request.authorization))
        if request.body is not None:
            headers.append(("Content-Type", "application/json"))
        target = Target(endpoint.host, endpoint.port, endpoint.certificate_name, self._verify)
        try:
            data = build_request(request.method, request.uri, headers, request.body)
        except ValueError as error:
            raise Unreachable(str(error)) from None
        return await self._connections.exchange(target, request.method, data, request.max_bytes, receive)

    # --- discovery -----------------------------------------------------------------------------------

    async def locate(self, server_name: ServerName) -> Location:
        """Where a server is: remembered, or found by the one search that is under way for it."""
        known = self._locations.get(server_name)
        if known is not None and self._clock.now_ms() < known.until_ts_ms:
            return known
        waiting: Deferred[Location] = Deferred()
        if server_name in self._searching:
            self._searching[server_name].append(waiting)
        else:
            self._searching[server_name] = [waiting]
            # Not this request's own: when it is given up, others still wait for the same.
            Deferred.fromCoroutine(self._search(server_name)).addBoth(self._found, server_name)
        return await waiting

    async def _search(self, server_name: ServerName) -> Location:
        hostname = needs_well_known(server_name)
        known = None if hostname is None else self._well_known.get(hostname)
        location = await drive(discover(server_name, known, self._clock.now_ms()), self._answer)
        if hostname is not None and location.well_known is not None:
            _remember(self._well_known, hostname, location.well_known)
        _remember(self._locations, server_name, location)
        return location

    def _found(self, result: Any, server_name: ServerName) -> None:
        for waiting in self._searching.pop(server_name):
            # `callback` passes a failure on as one.
            if not waiting.called:
                waiting.callback(result)

    async def _answer(self, need: NeedHttp | NeedSrv) -> HttpAnswer | Sequence[SrvRecord] | None:
        if isinstance(need, NeedSrv):
            return await self._resolver.srv(need.name)
        limits = HttpLimits(need.timeout_s, need.max_bytes, need.max_redirects, ("https",))
        try:
            response = await self._http.request("GET", need.url, limits=limits, verify=self._verify)
        except Unreachable:
            return None
        return HttpAnswer(response.status, response.body, response.headers)


def _remember(memory: dict[Any, Any], key: Any, value: Any) -> None:
    memory.pop(key, None)
    memory[key] = value
    if len(memory) > MAX_SERVERS:
        del memory[next(iter(memory))]
