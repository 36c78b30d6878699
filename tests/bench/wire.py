"""HTTP/1.1 for a load generator: requests as ready bytes, answers with the least parsing that is still right.

The generator shares two cores with the server that it measures, so what it costs itself must stay small: one
request in flight per connection, no headers beyond what a server needs, no body decoded that nobody looks at.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import time
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote, urlencode

RECEIVE_BYTES = 1 << 18
TIMEOUT_S = 120.0


class WireError(Exception):
    """The server broke off, or answered what HTTP/1.1 does not allow."""


@dataclass(frozen=True, slots=True)
class Response:
    """One answer: its status and its body, unchunked."""

    status: int
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class ResponseReader:
    """Incremental reader of answers on one connection: bytes go into `space`, and `advance` gives an answer once it is whole.

    One buffer serves all answers of a connection, and grows once for a large one: it would be timed with it if each piece
    were an object of its own, to be joined with those before it.
    """

    __slots__ = ("_body_at", "_buffer", "_filled", "_length", "_status")

    def __init__(self) -> None:
        self._buffer = bytearray(RECEIVE_BYTES)
        self._start_over()

    def _start_over(self) -> None:
        self._filled = 0
        self._status = 0
        self._body_at = 0
        self._length = -1  # -1: chunked

    def space(self) -> memoryview:
        """Where the next bytes go."""
        if self._filled == len(self._buffer):
            self._grow(2 * self._filled)
        return memoryview(self._buffer)[self._filled :]

    def _grow(self, size: int) -> None:
        # Not in place: who was given space may still hold it.
        grown = bytearray(size)
        grown[: self._filled] = memoryview(self._buffer)[: self._filled]
        self._buffer = grown

    def advance(self, count: int) -> Response | None:
        """So many bytes have come."""
        self._filled += count
        if self._status == 0 and not self._read_head():
            return None
        if self._length < 0:
            body = _join_chunks(self._buffer, self._body_at, self._filled)
            if body is None:
                return None
        else:
            end = self._body_at + self._length
            if self._filled < end:
                if len(self._buffer) < end:
                    self._grow(end)
                return None
            body = bytes(memoryview(self._buffer)[self._body_at : end])
        response = Response(self._status, body)
        self._start_over()
        return response

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n", 0, self._filled)
        if end < 0:
            return False
        head = self._buffer[:end].lower()
        if not head.startswith(b"http/1.1 "):
            raise WireError(f"not an HTTP/1.1 answer: {head[:60]!r}")
        self._body_at = end + 4
        at = head.find(b"\r\ncontent-length:")
        if at >= 0:
            stop = head.find(b"\r\n", at + 2)
            self._length = int(head[at + 17 : stop if stop >= 0 else None])
        elif b"\r\ntransfer-encoding: chunked" in head:
            self._length = -1
        else:
            raise WireError("an answer without a length")
        self._status = int(head[9:12])
        return True


def _join_chunks(buffer: bytearray, at: int, filled: int) -> bytes | None:
    """The body of a chunked answer, or None while it is incomplete."""
    chunks: list[bytearray] = []
    while True:
        line_end = buffer.find(b"\r\n", at, filled)
        if line_end < 0:
            return None
        size = int(buffer[at:line_end].partition(b";")[0], 16)
        start = line_end + 2
        if filled < start + size + 2:
            return None
        if size == 0:
            return b"".join(chunks)
        chunks.append(buffer[start : start + size])
        at = start + size + 2


def build_request(
    method: str,
    path: str,
    token: str | None = None,
    content: object = None,
    query: dict[str, str] | None = None,
) -> bytes:
    """The bytes of one request; `path` is percent-encoded already (see `encode`)."""
    target = f"{path}?{urlencode(query)}" if query else path
    head = [f"{method} {target} HTTP/1.1", "Host: 127.0.0.1", "User-Agent: bench"]
    if token is not None:
        head.append(f"Authorization: Bearer {token}")
    body = b""
    if method in ("POST", "PUT"):
        body = json.dumps({} if content is None else content).encode()
        head += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*head, "", ""]).encode() + body


def encode(identifier: str) -> str:
    """An identifier as one path segment."""
    return quote(identifier, safe="")


def expect_ok(response: Response) -> Response:
    """The answer, which must be a success: a bench that counts refusals would measure nothing."""
    if response.status != 200:
        raise WireError(f"status {response.status}: {response.body[:400]!r}")
    return response


class BlockingConnection:
    """A connection for rows with one client in turn: no event loop in what is timed."""

    def __init__(self, port: int, address: str = "127.0.0.1", context: ssl.SSLContext | None = None) -> None:
        self._socket = socket.create_connection((address, port), TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            self._socket = context.wrap_socket(self._socket, server_hostname=address)
        self._reader = ResponseReader()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_details: object) -> None:
        self._socket.close()

    def request(self, data: bytes) -> Response:
        self._socket.sendall(data)
        while True:
            with self._reader.space() as space:
                received = self._socket.recv_into(space)
            if not received:
                raise WireError("the server closed the connection")
            response = self._reader.advance(received)
            if response is not None:
                return response

    def timed(self, data: bytes) -> tuple[Response, float]:
        """An answer, and the milliseconds from the first byte of its request until all of it was here."""
        started_s = time.perf_counter()
        response = self.request(data)
        return response, (time.perf_counter() - started_s) * 1000


class Connection(asyncio.BufferedProtocol):
    """A kept-alive connection for rows with many clients at a time; one request in flight."""

    def __init__(self) -> None:
        self._reader = ResponseReader()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Response] | None = None

    @classmethod
    async def open(cls, port: int) -> Connection:
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_connection(cls, "127.0.0.1", port)
        return protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._reader.space()

    def buffer_updated(self, nbytes: int) -> None:
        try:
            response = self._reader.advance(nbytes)
        except (WireError, ValueError) as error:
            self._fail(WireError(str(error)))
            return
        waiter = self._waiter
        if response is not None and waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(response)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail(WireError(f"the server closed the connection: {exc}"))

    def _fail(self, error: WireError) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)

    def send(self, data: bytes) -> asyncio.Future[Response]:
        """Send a request; the future has its answer."""
        if self._waiter is not None:
            raise WireError("a request is in flight on this connection")
        if self._transport is None:
            raise WireError("the connection is closed")
        waiter: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._waiter = waiter
        self._transport.write(data)
        return waiter

    def close(self) -> None:
        self._waiter = None
        if self._transport is not None:
            self._transport.close()
