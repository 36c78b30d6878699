"""Connections: opens connections to other servers, keeps those that may be used again, and sends requests over them.

MUSTs: 1. only addresses that the filter allows are connected to, whoever names them and however they were found; 2. a
request is sent at most once, but where a kept connection turns out to have been closed before it came (and the method
allows it); 3. everything is bounded: connecting, the answer's size, what is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.error import ConnectError

from homeserver.http.addresses import AddressFilter
from homeserver.http.client_tls import ClientTls
from homeserver.http.connection import ClientConnection, NotAnswered, NotConnected, RawResponse
from homeserver.http.race import Race
from homeserver.http.resolve import Resolver
from homeserver.runtime.clock import Clock, DelayedCall

CONNECT_TIMEOUT_S: Final = 10.0
STAGGER_S: Final = 0.3
MAX_ADDRESSES: Final = 8
# Proxies commonly close idle connections after a minute, some sooner.
IDLE_S: Final = 25.0
# LIMIT(a hundred handshakes with one server take longer than to wait for the first connections to be free again)
MAX_AT_ONCE: Final = 24
MAX_IDLE_EACH: Final = 8
MAX_IDLE: Final = 500
# May be sent again when it is not known whether they arrived: by HTTP's definition, and the ids of our transactions.
_REPEATABLE: Final = frozenset({"GET", "PUT"})


@dataclass(frozen=True, slots=True)
class Target:
    """Where a connection leads: connections to the same target are alike."""

    host: str
    """A name to look up, or an address without brackets."""
    port: int
    certificate_name: str | None
    """None: without TLS."""
    verify: bool = True


class _Idle:
    __slots__ = ("connection", "target", "timer")

    def __init__(self, target: Target, connection: ClientConnection, timer: DelayedCall) -> None:
        self.target = target
        self.connection = connection
        self.timer = timer


class _Turns:
    """Who asks one target now, or waits for that."""

    __slots__ = ("semaphore", "users")

    def __init__(self) -> None:
        self.semaphore = DeferredSemaphore(MAX_AT_ONCE)
        self.users = 0


class Connections:
    """See the module."""

    def __init__(
        self, reactor: Any, resolver: Resolver, addresses: AddressFilter, tls: ClientTls, clock: Clock
    ) -> None:
        self._reactor = reactor
        self._resolver = resolver
        self._addresses = addresses
        self._tls = tls
        self._clock = clock
        # The oldest first; of all targets, and of each.
        self._idle: dict[ClientConnection, _Idle] = {}
        self._alike: dict[Target, list[_Idle]] = {}
        self._turns: dict[Target, _Turns] = {}
        self._stopped = False

    async def exchange(
        self,
        target: Target,
        method: str,
        request: bytes,
        max_bytes: int,
        receive: Callable[[bytes], None] | None = None,
    ) -> RawResponse:
        """The answer to one request (its bytes). Raises Unreachable; NotConnected where nothing was sent.

        How long it may take is the caller's: cancelling the Deferred ends whatever is under way.
        """
        turns = self._turns.setdefault(target, _Turns())
        turns.users += 1
        try:
            await turns.semaphore.acquire()
            try:
                return await self._exchange(target, method, request, max_bytes, receive)
            finally:
                turns.semaphore.release()
        finally:
            turns.users -= 1
            if not turns.users:
                del self._turns[target]

    async def _exchange(
        self,
        target: Target,
        method: str,
        request: bytes,
        max_bytes: int,
        receive: Callable[[bytes], None] | None,
    ) -> RawResponse:
        kept = self._take(target)
        if kept is not None:
            try:
                return await self._over(target, kept, request, max_bytes, receive)
            except NotAnswered:
                if method not in _REPEATABLE:
                    raise
        connection = await self._connect(target)
        return await self._over(target, connection, request, max_bytes, receive)

    def stop(self) -> None:
        """Keep nothing any more."""
        self._stopped = True
        for idle in list(self._idle.values()):
            self._drop(idle)

    @property
    def kept(self) -> int:
        """How many connections wait to be used again."""
        return len(self._idle)

    async def _over(
        self,
        target: Target,
        connection: ClientConnection,
        request: bytes,
        max_bytes: int,
        receive: Callable[[bytes], None] | None,
    ) -> RawResponse:
        response = await connection.exchange(request, max_bytes, receive)
        self._keep(target, connection)
        return response

    # --- connecting ----------------------------------------------------------------------------------

    async def _connect(self, target: Target) -> ClientConnection:
        found = await self._resolver.addresses(target.host)
        if not found:
            raise NotConnected(f"{target.host} has no address")
        allowed = [address for address in found if self._addresses.allows(address)][:MAX_ADDRESSES]
        if not allowed:
            raise NotConnected(f"{target.host} is at an address that this server may not call")
        race = Race([self._way(target, address) for address in allowed], self._clock, STAGGER_S)
        return await race.result

    def _way(self, target: Target, address: str) -> Callable[[], Deferred[ClientConnection]]:
        return lambda: Deferred.fromCoroutine(self._dial(target, address))

    async def _dial(self, target: Target, address: str) -> ClientConnection:
        kind = TCP6ClientEndpoint if ":" in address else TCP4ClientEndpoint
        endpoint: Any = kind(self._reactor, address, target.port, timeout=CONNECT_TIMEOUT_S)
        name = target.certificate_name
        if name is not None:
            endpoint = wrapClientTLS(self._tls.creator(name, verify=target.verify), endpoint)
        connection = ClientConnection(secure=name is not None, name=name if target.verify else None)
        try:
            await connectProtocol(endpoint, connection)
        except ConnectError as error:
            raise NotConnected(str(error)) from None
        # A handshake that drags on is no connection.
        timer = self._clock.callLater(CONNECT_TIMEOUT_S, connection.fail_handshake)
        try:
            await connection.ready
        finally:
            if timer.active():
                timer.cancel()
        return connection

    # --- keeping -------------------------------------------------------------------------------------

    def _take(self, target: Target) -> ClientConnection | None:
        """The connection of this kind that was used last: the others may go idle."""
        while alike := self._alike.get(target):
            idle = alike[-1]
            self._forget(idle)
            if idle.connection.is_open:
                return idle.connection
        return None

    def _keep(self, target: Target, connection: ClientConnection) -> None:
        if self._stopped or not connection.is_open:
            connection.abort()
            return
        alike = self._alike.get(target, ())
        if len(alike) >= MAX_IDLE_EACH:
            self._drop(alike[0])
        if len(self._idle) >= MAX_IDLE:
            self._drop(next(iter(self._idle.values())))
        timer = self._clock.callLater(IDLE_S, self._expire, connection)
        idle = self._idle[connection] = _Idle(target, connection, timer)
        self._alike.setdefault(target, []).append(idle)

    def _expire(self, connection: ClientConnection) -> None:
        idle = self._idle.get(connection)
        if idle is not None:
            self._drop(idle)

    def _drop(self, idle: _Idle) -> None:
        self._forget(idle)
        idle.connection.abort()

    def _forget(self, idle: _Idle) -> None:
        del self._idle[idle.connection]
        alike = self._alike[idle.target]
        alike.remove(idle)
        if not alike:
            del self._alike[idle.target]
        if idle.timer.active():
            idle.timer.cancel()


def build_request(method: str, uri: str, headers: Sequence[tuple[str, str]], body: bytes | None) -> bytes:
    """The bytes of a request. Raises ValueError for what could be read as more than one."""
    if not uri.startswith("/") or not uri.isascii() or not uri.isprintable() or " " in uri:
        raise ValueError("a request target is visible ASCII, and begins with a slash")
    lines = [f"{method} {uri} HTTP/1.1"]
    for name, value in headers:
        if not value.isascii() or not value.isprintable():
            raise ValueError(f"the header {name} holds what no header may")
        lines.append(f"{name}: {value}")
    if body is not None or method in ("PUT", "POST"):
        lines.append(f"Content-Length: {len(body or b'')}")
    return "\r\n".join([*lines, "", ""]).encode("ascii") + (body or b"")
