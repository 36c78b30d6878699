"""ClientConnection: one connection to another server, one request at a time.

MUSTs: 1. nothing is written before TLS is up and the certificate is for the right name; 2. the head, the body and their
number of fields are bounded while they arrive; 3. what breaks a limit or the grammar ends the connection at once, without
waiting for the other side's consent.

# spec: RFC 9112
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import httptools
from service_identity import CertificateError, VerificationError
from service_identity.pyopenssl import verify_hostname, verify_ip_address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from homeserver.http.transport import AnswerTooLarge, Unreachable

# Bytes on the wire in a row that are no body: heads, interim answers, sizes and extensions of chunks, trailers.
MAX_UNSEEN_BYTES = 128 * 1024
MAX_HEADERS = 200
# What an error may say, even where the answer itself goes elsewhere.
MAX_ERROR_BYTES = 1024 * 1024


class NotConnected(Unreachable):
    """No connection: the request was not sent, so another place may be tried."""


class NotAnswered(Unreachable):
    """The connection broke before the first byte of an answer; one that was kept may have been closed before."""


@dataclass(frozen=True, slots=True)
class RawResponse:
    """A whole answer; names of headers in lower case, of a repeated one the last value."""

    status: int
    headers: dict[str, str]
    body: bytes


class _Reading:
    """The answer to one request, as it arrives: callbacks of llhttp."""

    def __init__(self, max_bytes: int, receive: Callable[[bytes], None] | None) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.status = 0
        self.headers: dict[str, str] = {}
        self.problem: Exception | None = None
        self.has_begun = False
        self.is_head_done = False
        self.is_complete = False
        self.may_go_on = False
        self._is_interim = False
        self._max_bytes = max_bytes
        self._receive = receive
        self._unseen_bytes = 0
        self._fields = 0
        self._size = 0
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> None:
        self.has_begun = True
        self._unseen_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            raise Unreachable("the answer changes the protocol") from None
        except httptools.HttpParserError:
            if not self.is_complete:
                raise self.problem or Unreachable("the answer is not HTTP") from None
            # The answer is whole, and what follows it nobody asked for.
            self.may_go_on = False
        if self._unseen_bytes > MAX_UNSEEN_BYTES:
            raise Unreachable("the head of the answer is too large")

    def response(self) -> RawResponse:
        return RawResponse(self.status, self.headers, b"".join(self._parts))

    @property
    def ends_with_connection(self) -> bool:
        """Whether nothing else says where the body ends."""
        delimited = "content-length" in self.headers or "transfer-encoding" in self.headers
        return self.is_head_done and not delimited

    def _refuse(self, problem: Exception) -> Exception:
        """The parser loses what its callbacks raise, so it is kept here."""
        self.problem = problem
        return problem

    # --- llhttp's callbacks ---

    def on_message_begin(self) -> None:
        if self.is_complete:
            raise self._refuse(Unreachable("more than one answer"))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        if self._fields > MAX_HEADERS:
            raise self._refuse(Unreachable("the answer has too many headers"))
        if not self.is_head_done:
            self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.status = self.parser.get_status_code()
        self._is_interim = 100 <= self.status < 200
        if self._is_interim:
            self.headers.clear()
            return
        self.is_head_done = True
        if self._receive is not None and not 200 <= self.status < 300:
            self._receive = None
            self._max_bytes = min(self._max_bytes, MAX_ERROR_BYTES)
        length = self.headers.get("content-length", "")
        if length.isdigit() and int(length) > self._max_bytes:
            raise self._refuse(AnswerTooLarge("the answer is too large"))

    def on_body(self, data: bytes) -> None:
        self._unseen_bytes = 0
        self._size += len(data)
        if self._size > self._max_bytes:
            raise self._refuse(AnswerTooLarge("the answer is too large"))
        if self._receive is None:
            self._parts.append(data)
            return
        try:
            self._receive(data)
        except Exception as error:
            raise self._refuse(error) from error

    def on_message_complete(self) -> None:
        if self._is_interim:
            return
        self.is_complete = True
        self.may_go_on = bool(self.parser.should_keep_alive())


@implementer(IHandshakeListener)
class ClientConnection(Protocol):
    """`ready` fires when requests may be sent; then `exchange`, once at a time.

    `name` is what the certificate must be for; None: without TLS, or without looking at it.
    """

    def __init__(self, *, secure: bool, name: str | None) -> None:
        self.ready: Deferred[None] = Deferred(lambda _: self.abort())
        self.is_open = False
        self._is_over = False
        self._secure = secure
        self._name = name
        self._reading: _Reading | None = None
        self._waiting: Deferred[RawResponse] | None = None

    def connectionMade(self) -> None:  # noqa: N802 (Twisted's names)
        transport: Any = self.transport
        transport.setTcpNoDelay(True)
        if not self._secure:
            self._open()

    def handshakeCompleted(self) -> None:  # noqa: N802
        """TLS is up and the chain is good; the name is ours to check."""
        if self._name is not None:
            transport: Any = self.transport
            try:
                _verify_name(transport.getHandle(), self._name)
            except (VerificationError, CertificateError, ValueError):
                self._not_ready(f"the certificate is not for {self._name}")
                self.abort()
                return
        self._open()

    def _open(self) -> None:
        self.is_open = True
        if not self.ready.called:
            self.ready.callback(None)

    def fail_handshake(self) -> None:
        """It takes too long."""
        self._not_ready("the handshake takes too long")
        self.abort()

    def _not_ready(self, why: str) -> None:
        if not self.ready.called:
            self.ready.errback(NotConnected(why))

    def exchange(
        self, request: bytes, max_bytes: int, receive: Callable[[bytes], None] | None
    ) -> Deferred[RawResponse]:
        """Send a whole request, get the whole answer (2xx bodies through ``receive``). Cancelling ends the connection."""
        if not self.is_open or self._reading is not None:
            raise RuntimeError("the connection is not free")
        self._reading = _Reading(max_bytes, receive)
        waiting: Deferred[RawResponse] = Deferred(lambda _: self._give_up())
        self._waiting = waiting
        transport: Any = self.transport
        transport.write(request)
        return waiting

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        reading = self._reading
        if reading is None:
            # Nobody has asked for anything.
            self.abort()
            return
        try:
            reading.feed(data)
        except Exception as error:  # noqa: BLE001 (also what the receiver raised; it goes to whoever waits)
            self._finish(error)
            self.abort()
            return
        if reading.is_complete:
            if not reading.may_go_on:
                self.abort()
            self._finish(reading.response())

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008, N802
        self.is_open = False
        self._is_over = True
        why = reason.getErrorMessage()
        self._not_ready(why)
        reading = self._reading
        if reading is None:
            return
        if reading.ends_with_connection and reason.check(ConnectionDone):
            self._finish(reading.response())
        elif reading.has_begun:
            self._finish(Unreachable(f"the answer broke off: {why}"))
        else:
            self._finish(NotAnswered(why))

    def abort(self) -> None:
        """Let go of the connection now."""
        self.is_open = False
        transport: Any = self.transport
        # Once is enough, and one that is lost has nothing to abort (TLS would raise).
        if transport is not None and not self._is_over:
            self._is_over = True
            transport.abortConnection()

    def _give_up(self) -> None:
        self._reading = None
        self._waiting = None
        self.abort()

    def _finish(self, result: RawResponse | Exception) -> None:
        waiting, self._waiting = self._waiting, None
        self._reading = None
        if waiting is None:
            return
        if isinstance(result, RawResponse):
            waiting.callback(result)
        else:
            waiting.errback(result)


def _verify_name(handle: Any, name: str) -> None:
    try:
        ip_address(name)
    except ValueError:
        verify_hostname(handle, name)
    else:
        verify_ip_address(handle, name)
