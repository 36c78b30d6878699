"""A server on a virtual clock, connections on in-memory transports, and a strict reader of what it answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httptools
import msgspec
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from homeserver.http.limits import HttpLimits
from homeserver.http.protocol import HttpProtocol
from homeserver.http.ratelimit import LimitClass, RateLimiter
from homeserver.http.request import Request
from homeserver.http.response import FileRange, Response
from homeserver.http.router import Auth, Route, Router
from homeserver.http.server import HttpServer
from homeserver.runtime.clock import TwistedClock

CORS = {
    b"access-control-allow-origin": b"*",
    b"access-control-allow-methods": b"GET, POST, PUT, DELETE, OPTIONS",
    # Those of the specification, and what sign-in by QR code needs of web pages (MSC4108).
    b"access-control-allow-headers": b"X-Requested-With, Content-Type, Authorization, If-Match, If-None-Match",
}


@dataclass
class Reply:
    """One parsed answer."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    complete: bool = False

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class ReplyReader:
    """Reads answers with llhttp's response side; `bodiless` says how many of them answer a HEAD."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.parser = httptools.HttpResponseParser(self)

    def on_message_begin(self) -> None:
        self.replies.append(Reply())

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in self.replies[-1].headers:
            raise AssertionError(f"header {name!r} twice")
        self.replies[-1].headers[name] = value

    def on_headers_complete(self) -> None:
        self.replies[-1].status = self.parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self.replies[-1].body += data

    def on_message_complete(self) -> None:
        self.replies[-1].complete = True


def read_replies(data: bytes) -> list[Reply]:
    """Every answer in `data`; bytes that are not one raise."""
    reader = ReplyReader()
    try:
        reader.parser.feed_data(data)
    except httptools.HttpParserError as error:
        raise AssertionError(f"not HTTP: {data!r}") from error
    return reader.replies


class Wire(StringTransport):
    """An in-memory TCP transport that can half-close, and whose write buffer can be filled on purpose."""

    def __init__(self, peer: str) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", peer, 50000))
        self.half_closed = False
        self.aborted = False

    def loseWriteConnection(self) -> None:
        self.half_closed = True

    def abortConnection(self) -> None:
        self.aborted = True
        self.disconnecting = True

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass


class Connection:
    """One client."""

    def __init__(self, protocol: HttpProtocol, peer: str = "198.51.100.7") -> None:
        self.protocol = protocol
        self.wire = Wire(peer)
        protocol.makeConnection(self.wire)

    def send(self, data: bytes) -> None:
        self.protocol.dataReceived(data)

    def send_bytewise(self, data: bytes) -> None:
        for index in range(len(data)):
            self.protocol.dataReceived(data[index : index + 1])

    @property
    def output(self) -> bytes:
        return self.wire.value()

    def replies(self) -> list[Reply]:
        return read_replies(self.output)

    def take(self) -> list[Reply]:
        replies = self.replies()
        self.wire.clear()
        return replies

    @property
    def is_closing(self) -> bool:
        return self.wire.disconnecting or self.wire.half_closed or self.wire.aborted

    @property
    def is_read_paused(self) -> bool:
        return self.wire.producerState == "paused"

    def lose(self) -> None:
        # As a real transport does.
        self.wire.producer = None
        self.protocol.connectionLost(Failure(ConnectionDone()))


class Handlers:
    """The routes of the tests, and what they saw."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, bytes]] = []
        self.waiting: list[Deferred[Any]] = []
        self.cancelled = 0
        self.uploaded: list[bytes] = []
        self.upload_error: Exception | None = None
        self.reading: Deferred[None] | None = None
        self.body: Callable[[], Any] = dict

    async def echo(self, request: Request, **parameters: Any) -> Any:
        self.seen.append((request.method, request.path, request.body))
        return {
            "method": request.method,
            "path": request.path,
            "query": request.query,
            "body": request.body.decode("latin-1"),
            "parameters": parameters,
            "ip": request.client_ip,
        }

    async def wait(self, request: Request) -> Any:
        self.seen.append((request.method, request.path, request.body))
        waiting: Deferred[Any] = Deferred(self._count_cancel)
        self.waiting.append(waiting)
        return await waiting

    def _count_cancel(self, _: Deferred[Any]) -> None:
        self.cancelled += 1

    async def upload(self, request: Request) -> Any:
        stream = request.body_stream
        assert stream is not None
        try:
            while True:
                if self.reading is not None:
                    await self.reading
                chunk = await stream.read_chunk()
                if chunk is None:
                    break
                self.uploaded.append(chunk)
        except Exception as error:
            self.upload_error = error
            raise
        return {"size": sum(map(len, self.uploaded))}

    async def refuse_upload(self, request: Request) -> Any:
        return Response(403, b'{"errcode":"M_FORBIDDEN","error":"no"}')

    async def fail(self, request: Request) -> Any:
        raise RuntimeError("a bug with a secret in it")

    async def produce(self, request: Request) -> Any:
        return self.body()

    def routes(self) -> list[Route]:
        def route(method: str, template: str, handler: Any, **options: Any) -> Route:
            options.setdefault("auth", Auth.NONE)
            return Route(method=method, template=template, handler=handler, spec="test", **options)

        return [
            route("GET", "/echo", self.echo),
            route("POST", "/echo", self.echo, max_body=1000),
            route("PUT", "/echo/{name}", self.echo, max_body=100_000),
            route("GET", "/wait", self.wait),
            route("GET", "/poll", self.wait, cancel_on_disconnect=True),
            route("POST", "/upload", self.upload, max_body=1_000_000, stream=True, body_timeout_s=20.0),
            route("PUT", "/upload", self.refuse_upload, max_body=1_000_000, stream=True),
            route("GET", "/fail", self.fail),
            route("GET", "/produce", self.produce),
            route("GET", "/socket", self.echo, upgrade=True),
            route("GET", "/federation", self.echo, serve="federation"),
            route("POST", "/limited", self.echo, limit="login"),
        ]


class Site:
    """A whole server on a virtual clock."""

    def __init__(
        self, limits: HttpLimits | None = None, extra: list[Route] | None = None, **options: Any
    ) -> None:
        self.time = Clock()
        self.clock = TwistedClock(self.time)
        self.handlers = Handlers()
        self.failures: list[BaseException] = []
        self.observed: list[tuple[str, str, int, float]] = []
        self.router = Router(
            self.handlers.routes() + (extra or []),
            authenticate=options.pop("authenticate", lambda request, auth: None),
            ratelimit=RateLimiter(self.clock, {"login": LimitClass(0.5, 2)}),
            new_error_id=lambda: "error-1",
            log_failure=self.log,
        )
        self.server = HttpServer(
            self.router,
            clock=self.clock,
            serve=options.pop("serve", ("client",)),
            log_failure=self.log,
            new_error_id=lambda: "error-1",
            limits=limits,
            observe=lambda *seen: self.observed.append(seen),
            **options,
        )

    def log(self, error_id: str, request: Request, error: BaseException) -> None:
        self.failures.append(error)

    def connect(self, peer: str = "198.51.100.7") -> Connection:
        protocol = self.server.buildProtocol(None)
        if protocol is None:
            raise ConnectionRefusedError
        return Connection(protocol, peer)

    def pass_time(self, seconds: float) -> None:
        """In small steps, as the watchdog ticks."""
        for _ in range(int(seconds * 4)):
            self.time.advance(0.25)


def get(path: str = "/echo", *lines: str) -> bytes:
    return ("\r\n".join([f"GET {path} HTTP/1.1", "Host: a", *lines]) + "\r\n\r\n").encode("latin-1")


def post(body: bytes, path: str = "/echo", *lines: str, method: str = "POST") -> bytes:
    head = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: a", f"Content-Length: {len(body)}", *lines])
    return head.encode("latin-1") + b"\r\n\r\n" + body


def chunked(
    pieces: list[bytes], path: str = "/echo", *lines: str, method: str = "POST", trailers: bytes = b""
) -> bytes:
    head = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: a", "Transfer-Encoding: chunked", *lines])
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return head.encode("latin-1") + b"\r\n\r\n" + body + b"0\r\n" + trailers + b"\r\n"


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


__all__ = [
    "CORS",
    "Connection",
    "FileRange",
    "Handlers",
    "Reply",
    "Site",
    "chunked",
    "get",
    "pieces",
    "post",
    "read_replies",
]
