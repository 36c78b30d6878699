"""For tests of what we ask others: servers on loopback that say what the test wants, and a network that is ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock as TaskClock
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from federation.flows.needs import SrvRecord
from homeserver.http.addresses import AddressFilter
from homeserver.http.client import HttpClient
from homeserver.http.client_tls import ClientTls
from homeserver.http.connections import Connections
from homeserver.http.peer import PeerTransport
from homeserver.http.tls import server_context
from homeserver.runtime.clock import TwistedClock
from tests.interop.authority import Authority

T = TypeVar("T")

reactor: Any = installed_reactor
LOOPBACK = ip_network("127.0.0.0/8")


class TableResolver:
    """Names as the test has them."""

    def __init__(self) -> None:
        self.names: dict[str, Sequence[str]] = {}
        self.records: dict[str, Sequence[SrvRecord]] = {}
        self.asked: list[str] = []

    def addresses(self, name: str) -> Deferred[Sequence[str]]:
        result: Deferred[Sequence[str]] = Deferred()
        self.asked.append(name)
        result.callback(self.names.get(name, (name,) if name[:1].isdigit() or ":" in name else ()))
        return result

    def srv(self, name: str) -> Deferred[Sequence[SrvRecord] | None]:
        result: Deferred[Sequence[SrvRecord] | None] = Deferred()
        self.asked.append(name)
        result.callback(self.records.get(name, ()))
        return result


class _Connection(Protocol):
    factory: Any
    transport: Any

    def connectionMade(self) -> None:
        self.data = b""
        self.factory.connections.append(self)
        if self.factory.greeting:
            self.transport.write(self.factory.greeting)

    def dataReceived(self, data: bytes) -> None:
        self.data += data
        while b"\r\n\r\n" in self.data:
            head, _, rest = self.data.partition(b"\r\n\r\n")
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
            size = int(fields.get(b"content-length", b"0"))
            if len(rest) < size:
                return
            self.data = rest[size:]
            self.factory.requests.append((head, rest[:size]))
            self.factory.answer(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.lost.append(self)
        for waiting in self.factory.waiting_for_loss:
            waiting.callback(None)
        self.factory.waiting_for_loss.clear()


class Talker(Factory):
    """A server that answers each request with the next of ``answers``, the last one for ever.

    An answer is bytes, or a function of the connection's transport; None: silence.
    """

    protocol = _Connection

    def __init__(self, *answers: bytes | Callable[[Any], None] | None) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[bytes, bytes]] = []
        self.connections: list[_Connection] = []
        self.lost: list[_Connection] = []
        self.waiting_for_loss: list[Deferred[None]] = []
        self.waiting_for_requests: list[Deferred[None]] = []
        self.port = 0
        self.greeting = b""

    def answer(self, connection: _Connection) -> None:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, bytes):
            self._write(connection, answer)
        elif answer is not None:
            answer(connection.transport)
        for waiting in self.waiting_for_requests:
            waiting.callback(None)
        self.waiting_for_requests.clear()

    @staticmethod
    def _write(connection: Any, data: bytes) -> None:
        connection.transport.write(data)

    def requested(self) -> Deferred[None]:
        """Fires with the next request."""
        waiting: Deferred[None] = Deferred()
        self.waiting_for_requests.append(waiting)
        return waiting

    def loss(self) -> Deferred[None]:
        """Fires when a connection ends (or has ended)."""
        waiting: Deferred[None] = Deferred()
        if self.lost:
            waiting.callback(None)
        else:
            self.waiting_for_loss.append(waiting)
        return waiting


def http(body: bytes = b"{}", status: bytes = b"200 OK", **headers: str) -> bytes:
    fields = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()).encode()
    return b"HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s" % (status, fields, len(body), body)


class OutwardCase(TestCase):
    """Real sockets, a clock that stands still, and names as the test has them."""

    timeout = 30

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.authority = Authority(self.folder)
        self.time = TaskClock()
        self.clock = TwistedClock(self.time)
        self.resolver = TableResolver()
        self.build()

    def build(self, allowed: Sequence[Any] = (LOOPBACK,), *, verify: bool = True) -> None:
        self.connections = Connections(
            reactor,
            self.resolver,
            AddressFilter(allowed),
            ClientTls(self.authority.ca_file),
            self.clock,
        )
        self.client = HttpClient(self.connections, self.clock)
        self.peers = PeerTransport(self.connections, self.client, self.resolver, self.clock, verify=verify)
        self.addCleanup(self.connections.stop)

    def listen(self, talker: Talker, *names: str, address: str = "127.0.0.1", port: int = 0) -> Talker:
        """On the network, with a certificate for these names; without names no TLS."""
        if names:
            context = server_context(*self.authority.certify(*names))
            listening = reactor.listenSSL(port, talker, context, interface=address)
        else:
            listening = reactor.listenTCP(port, talker, interface=address)
        talker.port = listening.getHost().port
        self.addCleanup(self._close, talker, listening)
        return talker

    async def _close_all(self, talker: Talker, listening: Any) -> None:
        await listening.stopListening()
        for connection in talker.connections:
            if connection not in talker.lost:
                waiting: Deferred[None] = Deferred()
                talker.waiting_for_loss.append(waiting)
                connection.transport.abortConnection()
                await waiting

    def _close(self, talker: Talker, listening: Any) -> Deferred[None]:
        return Deferred.fromCoroutine(self._close_all(talker, listening))

    def turn(self) -> Deferred[None]:
        """One turn of the reactor."""
        waiting: Deferred[None] = Deferred()
        reactor.callLater(0, waiting.callback, None)
        return waiting

    @staticmethod
    def headers(request: tuple[bytes, bytes]) -> Mapping[str, str]:
        """The headers of a request that a Talker saw."""
        lines = request[0].decode().split("\r\n")[1:]
        return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
