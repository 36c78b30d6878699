"""RequestReader: bytes of one connection become requests, in order, within every bound.

llhttp (through httptools) does the syntax, strictly: bare LF, folded headers, a space before the colon, doubled or
odd Content-Length, Content-Length together with Transfer-Encoding are its errors. What it leaves open is decided
here. The first thing wrong ends the reading: the connection answers what came before, then the refusal, then closes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import MappingProxyType
from typing import Final

import httptools

from homeserver.http.body import UploadStream
from homeserver.http.edge import Edge
from homeserver.http.errors import ClientGone, MatrixError, too_large, wrong_method
from homeserver.http.request import Headers, Request
from homeserver.http.response import Response

_METHODS: Final = MappingProxyType(
    {name.encode(): name for name in ("GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH")}
)
_DISCARDED_BODY_BYTES: Final = 65_536
# Seconds: the most that Chromium takes. Without it browsers ask again after five.
_PREFLIGHT_HOLDS: Final = (b"Access-Control-Max-Age", b"7200")
_UNSEEN_BYTES: Final = 65_536


# Where the reader is: between requests, in the request line or the headers, in the body.
# (Integers, not an Enum: these are looked at many times per request.)
IDLE: Final = 0
HEAD: Final = 1
BODY: Final = 2


class Pending:
    """A request (or a refusal) that waits for its turn to be answered."""

    __slots__ = ("keep_alive", "method", "old_client", "refusal", "request", "started", "stream", "upgrade")

    def __init__(self, method: str, *, keep_alive: bool, old_client: bool = False) -> None:
        self.method = method
        self.keep_alive = keep_alive
        self.old_client = old_client
        self.request: Request | None = None
        self.refusal: Response | None = None
        self.stream: UploadStream | None = None
        self.upgrade = False
        self.started = 0.0


class RequestReader:
    """The parser's callbacks (`on_*`), and what the connection asks between two slices of input."""

    __slots__ = (
        "_chunked",
        "_edge",
        "_first_bytes",
        "_headers",
        "_is_muted",
        "_max_body",
        "_on_demand",
        "_parser",
        "_parts",
        "_peer",
        "_ready",
        "_refusal",
        "_slice_bytes",
        "_tell",
        "_url",
        "_wire_bytes",
        "body_timeout_s",
        "current",
        "expects_continue",
        "leftover",
        "messages",
        "phase",
        "ready_bytes",
        "refused",
        "remaining",
        "size",
    )

    def __init__(self, edge: Edge, peer: str, ready: deque[Pending], on_demand: Callable[[], None]) -> None:
        self._edge = edge
        self._peer = peer
        self._ready = ready
        self._on_demand = on_demand
        self._parser = httptools.HttpRequestParser(self)
        self._refusal: MatrixError | None = None
        self._url = b""
        self._headers = Headers()
        self._wire_bytes = 0
        self._first_bytes = 0
        # Between the head of an upgrade request with a body and that body: what the parser says is not to be heard.
        self._is_muted = False
        self._slice_bytes = 0
        self._chunked = False
        self._max_body = 0
        self._tell: Callable[[MatrixError], Response] = MatrixError.to_response
        self._parts: list[bytes] = []
        self.phase: int = IDLE
        self.messages = 0
        self.current: Pending | None = None
        self.expects_continue = False
        self.body_timeout_s = 0.0
        self.remaining = 0
        self.size = 0
        self.ready_bytes = 0
        self.refused = False
        self.leftover: bytes | None = None

    # --- for the connection ---

    @property
    def saw_request_line(self) -> bool:
        return self.phase != IDLE and bool(self._url)

    def feed(self, data: bytes) -> None:
        """Parse one slice. What is complete goes to the queue; `refused` and `leftover` tell of an end."""
        before = self.phase
        self._slice_bytes = len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._after_upgrade(data, upgrade.args[0])
        except httptools.HttpParserError:
            self.refuse(self._refusal or MatrixError(400, "M_UNKNOWN", "Malformed HTTP request"))
        else:
            if self.phase == before != IDLE:
                self._count_wire(len(data))

    def refuse(self, error: MatrixError) -> None:
        """Read no further; the error is the answer to what was being received."""
        if self.refused:
            return
        self.refused = True
        stream = self.current.stream if self.current is not None else None
        if self.current is not None and stream is not None:
            # Its handler runs already: it hears of the error where it reads.
            self.current.keep_alive = False
            stream.fail(error)
        else:
            pending = Pending("GET", keep_alive=False)
            pending.refusal = self._tell(error)
            self._ready.append(pending)
        self._drop_current()

    def abandon(self) -> None:
        """The connection is gone."""
        if self.current is not None and self.current.stream is not None:
            self.current.stream.fail(ClientGone())
        self._drop_current()
        self.refused = True

    def release(self) -> None:
        """Break the reference cycles, so that a connection is freed at once and not by the collector."""
        self._parser = None  # type: ignore[assignment]
        self._on_demand = _nothing

    def _drop_current(self) -> None:
        self.current = None
        self._parts = []
        self._tell = MatrixError.to_response
        self.phase = IDLE

    def _count_wire(self, size: int) -> None:
        """What the callbacks do not see costs too: padding, chunk extensions, a value that never ends."""
        self._wire_bytes += size
        limits = self._edge.limits
        if self.phase == HEAD:
            if self._wire_bytes > limits.max_url_bytes + 2 * limits.max_header_bytes:
                self.refuse(_headers_too_large())
        elif self._wire_bytes > _UNSEEN_BYTES:
            # Since the last byte of body.
            self.refuse(MatrixError(400, "M_UNKNOWN", "Malformed HTTP request"))

    def _after_upgrade(self, data: bytes, offset: int) -> None:
        """The parser stops after a request that asks for another protocol."""
        rest = bytes(data[offset:])
        if self.leftover is not None:
            self.leftover = rest
            return
        # Not for us (h2c, which Java's client always asks for): an ordinary request, and the next one follows it.
        self._parser = httptools.HttpRequestParser(self)
        if self._is_muted:
            # The old parser passed over the body. The new one learns from a head of ours where that ends.
            framing = (
                b"Transfer-Encoding: chunked" if self._chunked else b"Content-Length: %d" % self.remaining
            )
            self._parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n\r\n")
            self._is_muted = False
        if rest:
            self.feed(rest)

    # --- the parser's callbacks ---

    def on_message_begin(self) -> None:
        if self._is_muted:
            return
        self.phase = HEAD
        self._tell = MatrixError.to_response
        self.messages += 1
        self._url = b""
        self._headers = Headers()
        self._wire_bytes = 0
        self._first_bytes = self._slice_bytes

    def on_url(self, url: bytes) -> None:
        if self._is_muted:
            return
        self._url = self._url + url if self._url else url
        if len(self._url) > self._edge.limits.max_url_bytes:
            raise self._stop(MatrixError(414, "M_TOO_LARGE", "The URL is too long"))

    def on_header(self, name: bytes, value: bytes) -> None:
        # Six times per request: so the limits are checked at the end of the headers, and _count_wire bounds the way
        # there. Trailer fields come here too, when _headers is no longer the request's: nobody asked for them.
        name = name.lower()
        headers = self._headers
        if name in headers:
            headers.add(name, value)
        else:
            headers[name] = value

    def on_headers_complete(self) -> None:
        if self._is_muted:
            self._headers = Headers()
            return
        headers = self._headers
        # Trailers, if any, go elsewhere.
        self._headers = Headers()
        version = self._parser.get_http_version()
        self._check_framing(headers, version)
        method = _METHODS.get(self._parser.get_method())
        if method is None:
            raise self._stop(wrong_method(sorted(_METHODS.values())))
        pending = Pending(method, keep_alive=self._parser.should_keep_alive(), old_client=version == "1.0")
        target = self._origin_form()
        if method == "OPTIONS":
            # spec: client-server-api#web-browser-clients: no logic of the endpoint runs
            pending.refusal = Response(200, b"{}", headers=[_PREFLIGHT_HOLDS])
            self._max_body = _DISCARDED_BODY_BYTES
            self.body_timeout_s = self._edge.limits.header_timeout_s
        else:
            match = self._edge.router.resolve(method, target.partition(b"?")[0], self._edge.serve)
            self._max_body = match.route.max_body
            self._tell = match.route.refuse
            self.body_timeout_s = match.route.body_timeout_s
            client_ip = self._edge.client_ip(headers, self._peer)
            pending.request = Request(
                method, target, headers, match=match, serve=self._edge.serve, client_ip=client_ip
            )
        self.phase = BODY
        self.size = 0
        self._wire_bytes = 0
        self._chunked = b"transfer-encoding" in headers
        # llhttp has checked that these are digits that fit 64 bits.
        self.remaining = int(headers.get(b"content-length", b"0"))
        if self.remaining > self._max_body:
            raise self._stop(too_large())
        if b"upgrade" in headers and self._parser.should_upgrade():
            self._ask_upgrade(pending)
        expect = headers.get(b"expect")
        if expect is not None and version == "1.1":
            if expect.lower() != b"100-continue":
                raise self._stop(MatrixError(417, "M_UNKNOWN", "Unknown expectation"))
            self.expects_continue = self._chunked or self.remaining > 0
        self.current = pending
        if pending.request is not None and pending.request.match.route.stream:
            pending.stream = UploadStream(self._edge.limits.stream_buffer_bytes, self._on_demand)
            pending.request.body_stream = pending.stream
            self._ready.append(pending)

    def on_body(self, data: bytes) -> None:
        size = len(data)
        self._wire_bytes = 0
        self.size += size
        self.remaining -= size
        self.expects_continue = False
        if self.size > self._max_body:
            raise self._stop(too_large())
        pending = self.current
        if pending is None:
            return
        if pending.stream is not None:
            pending.stream.feed(data)
        elif pending.request is not None:
            self._parts.append(data)

    def on_message_complete(self) -> None:
        if self._is_muted:
            return
        pending = self.current
        self.current = None
        self.phase = IDLE
        self.expects_continue = False
        self.remaining = 0
        if pending is None:
            return
        if pending.stream is not None:
            pending.stream.finish()
            return
        if pending.request is not None and self._parts:
            parts = self._parts
            pending.request.body = parts[0] if len(parts) == 1 else b"".join(parts)
            self._parts = []
            self.ready_bytes += self.size
        self._ready.append(pending)

    # --- decisions on the head of a request ---

    def _stop(self, error: MatrixError) -> MatrixError:
        """Raised inside a callback it ends the parsing; the parser loses the exception, so it is kept here."""
        self._refusal = error
        return error

    def _check_framing(self, headers: Headers, version: str) -> None:
        """Everything by which two servers could disagree on where a request ends, or for whom it is."""
        self._check_size(headers)
        if version not in ("1.1", "1.0"):
            raise self._stop(MatrixError(505, "M_UNKNOWN", "HTTP version not supported"))
        coding = headers.get(b"transfer-encoding")
        if coding is not None:
            if (
                version == "1.0"
                or b"content-length" in headers
                or len(headers.get_all(b"transfer-encoding")) > 1
            ):
                raise self._stop(MatrixError(400, "M_UNKNOWN", "Malformed HTTP request"))
            if coding.strip().lower() != b"chunked":
                raise self._stop(MatrixError(501, "M_UNKNOWN", "Transfer coding not supported"))
        hosts = len(headers.get_all(b"host")) if headers.repeated is not None else b"host" in headers
        if hosts > 1 or (not hosts and version == "1.1"):
            raise self._stop(MatrixError(400, "M_UNKNOWN", "A request needs one Host header"))

    def _check_size(self, headers: Headers) -> None:
        limits = self._edge.limits
        repeated = headers.repeated or ()
        if len(headers) + len(repeated) > limits.max_header_count:
            raise self._stop(_headers_too_large())
        # The slice with the first byte, those between, and this one: where all of it is little, no need to add up.
        if self._first_bytes + self._wire_bytes + self._slice_bytes <= limits.max_header_bytes:
            return
        size = sum(map(len, headers)) + sum(map(len, headers.values()))
        size += sum(len(name) + len(value) for name, value in repeated)
        if size > limits.max_header_bytes:
            raise self._stop(_headers_too_large())

    def _origin_form(self) -> bytes:
        """The target as path and query; a proxy's absolute form loses its scheme and authority."""
        target = self._url
        if target[:1] != b"/":
            scheme, separator, rest = target.partition(b"://")
            if separator and scheme.lower() in (b"http", b"https"):
                _, slash, path = rest.partition(b"/")
                target = slash + path if slash else b"/"
        return target.partition(b"#")[0]

    def _ask_upgrade(self, pending: Pending) -> None:
        """The parser will pass over the body as if it were the other protocol's: see _after_upgrade."""
        if self._chunked or self.remaining:
            self._is_muted = True
            return
        request = pending.request
        if request is not None and request.match.route.upgrade and self._edge.upgrade is not None:
            pending.upgrade = True
            self.leftover = b""


def _nothing() -> None:
    """What a reader without a connection asks for."""


def _headers_too_large() -> MatrixError:
    return MatrixError(431, "M_TOO_LARGE", "The request headers are too large")
