"""HttpProtocol: one connection. Requests in, answers out in the same order, one at a time.

MUSTs: 1. answers keep the order of the requests; 2. whoever does not read is not written to, whoever is not served
is not read from, so nothing grows; 3. every answer has a deadline on the client's side and every request on ours;
4. an accepted request is finished even when the server stops (long polls excepted, which are cut short).
A client that shuts down its writing side counts as gone: that is how a vanished long poll is noticed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final, Protocol, cast

from twisted.internet import protocol
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import ISSLTransport
from twisted.python.failure import Failure

from homeserver.http.direct import goes_straight, write_now
from homeserver.http.edge import Edge, UpgradedConnection
from homeserver.http.errors import ClientGone, MatrixError
from homeserver.http.incoming import BODY, HEAD, IDLE, Pending, RequestReader
from homeserver.http.limits import FOREVER
from homeserver.http.outgoing import INLINE_BODY_BYTES, PIECE_BYTES, body_length, chunks_of, close_body
from homeserver.http.render import BODILESS, CONTINUE
from homeserver.http.response import BrokenOff, Response

_SLICE_BYTES: Final = 4096


class Transport(Protocol):
    """What we use of a Twisted TCP or TLS transport."""

    def write(self, data: bytes) -> None: ...
    def loseConnection(self) -> None: ...  # noqa: N802
    def loseWriteConnection(self) -> None: ...  # noqa: N802
    def abortConnection(self) -> None: ...  # noqa: N802
    def pauseProducing(self) -> None: ...  # noqa: N802
    def resumeProducing(self) -> None: ...  # noqa: N802
    def registerProducer(self, producer: object, streaming: bool) -> None: ...  # noqa: N802
    def unregisterProducer(self) -> None: ...  # noqa: N802


# What the read deadline is for: nothing, the next request, or the rest of a head or a body.
_NOTHING: Final = 0
_REQUEST: Final = 1
_HEAD: Final = 2
_BODY: Final = 3


class HttpProtocol(protocol.Protocol):
    """The connection's state machine. Every entry point ends in `_advance`, which does all that can be done now."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._queue: deque[Pending] = deque()
        self._active: Pending | None = None
        self._waiting: Deferred[Any] | None = None
        self._sending: Deferred[Any] | None = None
        self._writable: Deferred[None] | None = None
        self._held = b""
        self._advancing = False
        self._reading_paused = False
        self._write_blocked = False
        self._stopped = False
        self._shutting_down = False
        self._closing = False
        self._cut_off = False
        self._lost = False
        self._drained_bytes = 0
        self._direct: Any = None
        self._taken: UpgradedConnection | None = None
        self._awaited = _REQUEST
        self._progress_mark = 0
        self._read_deadline = FOREVER
        self._write_deadline = FOREVER
        self.deadline = FOREVER

    # --- from the transport ---

    def connectionMade(self) -> None:  # noqa: N802
        edge = self._edge
        transport: Any = self.transport
        self._io = cast(Transport, transport)
        set_no_delay = getattr(transport, "setTcpNoDelay", None)
        if set_no_delay is not None:
            set_no_delay(True)
        peer: str = getattr(transport.getPeer(), "host", "")
        self._reader = RequestReader(edge, peer, self._queue, self._on_demand)
        self._set_read_deadline(edge.clock.monotonic() + edge.limits.header_timeout_s)
        edge.watchdog.add(self)
        edge.opened(self)
        self._io.registerProducer(self, True)
        # Of the transports, a plain TCP connection takes bytes past its own buffer; with TLS that lies below (``tls.py``).
        plain = hasattr(transport, "writeSomeData") and not ISSLTransport.providedBy(transport)
        self._direct = transport if plain else None

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        if self._taken is not None:
            self._taken.data_received(data)
        elif self._stopped:
            self._drained_bytes += len(data)
            if self._drained_bytes > self._edge.limits.max_drain_bytes:
                self._io.abortConnection()
        else:
            self._held = self._held + data if self._held else data
            self._advance()

    def connectionLost(self, reason: Failure = protocol.connectionDone) -> None:  # noqa: N802, ARG002
        self._lost = True
        self._stopped = True
        self._held = b""
        self._queue.clear()
        self._edge.watchdog.discard(self)
        waiting = self._waiting
        if waiting is None:
            self._edge.closed(self)
        if self._taken is not None:
            self._taken.connection_lost()
            return
        self._reader.abandon()
        self._cancel_long_poll()
        if self._cut_off and waiting is not None:
            waiting.cancel()
        if self._sending is not None:
            self._sending.cancel()
        self._reader.release()

    # The transport calls these as its buffer fills and empties (IPushProducer): they are about writing.

    def pauseProducing(self) -> None:  # noqa: N802
        self._write_blocked = True
        self._set_write_deadline(self._edge.clock.monotonic() + self._edge.limits.write_timeout_s)

    def resumeProducing(self) -> None:  # noqa: N802
        self._write_blocked = False
        self._set_write_deadline(FOREVER)
        writable, self._writable = self._writable, None
        if writable is not None:
            writable.callback(None)
        self._advance()

    def stopProducing(self) -> None:  # noqa: N802
        """The connection is closing; connectionLost follows."""

    # --- from the server ---

    @property
    def is_closing(self) -> bool:
        """Whether everything is answered, and only the other side's consent to the end is waited for."""
        return self._closing

    def shut_down(self) -> None:
        """Finish what was accepted, then close; long polls are answered at once."""
        self._shutting_down = True
        if self._taken is not None:
            self._taken.shut_down()
            return
        self._cancel_long_poll()
        self._advance()

    def abort(self) -> None:
        """The grace period is over."""
        self._cut_off = True
        self._io.abortConnection()
        if self._lost and self._waiting is not None:
            self._waiting.cancel()

    def check_deadline(self, now: float) -> None:
        if self._closing or self._write_deadline <= now:
            self._io.abortConnection()
            return
        self._set_read_deadline(FOREVER)
        if self._reader.saw_request_line:
            self._reader.refuse(MatrixError(408, "M_UNKNOWN", "The request did not arrive in time"))
        self._stopped = True
        self._held = b""
        self._advance()

    # --- the engine ---

    def _advance(self) -> None:
        """Answer and parse as far as possible. Whatever happens underneath only leaves marks for this loop."""
        if self._advancing or self._lost or self._taken is not None:
            return
        self._advancing = True
        try:
            while True:
                if self._queue:
                    self._answer_queue()
                if not self._held or self._stopped or self._is_full():
                    break
                self._parse_slice()
        finally:
            self._advancing = False
        self._settle()

    def _is_full(self) -> bool:
        if not self._queue and self._reader.current is None:
            return False
        limits = self._edge.limits
        if len(self._queue) >= limits.max_pipelined or self._reader.ready_bytes > limits.max_pipelined_bytes:
            return True
        current = self._reader.current
        return current is not None and current.stream is not None and current.stream.is_full

    def _parse_slice(self) -> None:
        """Small slices, so that a full queue stops the parser soon; a body of known length goes in one piece."""
        held = self._held
        reader = self._reader
        size = max(_SLICE_BYTES, reader.remaining)
        if len(held) <= size:
            self._held = b""
            reader.feed(held)
        else:
            self._held = held[size:]
            reader.feed(held[:size])
        if reader.refused:
            self._stopped = True
            self._held = b""
        elif reader.leftover is not None:
            # Bytes after an upgrade request belong to the next protocol, held until its turn comes.
            reader.leftover += self._held
            self._held = b""
            self._stopped = True

    def _answer_queue(self) -> None:
        while self._queue and self._active is None and not self._write_blocked and not self._lost:
            self._start(self._queue.popleft())

    def _start(self, pending: Pending) -> None:
        self._active = pending
        if self._edge.observe is not None:
            pending.started = self._edge.clock.monotonic()
        request = pending.request
        if pending.refusal is not None or request is None:
            self._reply(pending, pending.refusal or Response())
            return
        if pending.stream is None:
            self._reader.ready_bytes -= len(request.body)
        if pending.upgrade:
            self._hand_over(pending)
            return
        answer = self._edge.router.dispatch(request)
        if isinstance(answer, Deferred):
            self._waiting = answer
            answer.addCallback(self._answered, pending)
            if self._shutting_down:
                self._cancel_long_poll()
        else:
            self._reply(pending, answer)

    def _answered(self, response: Response, pending: Pending) -> None:
        self._waiting = None
        if self._lost:
            close_body(response)
            # What it began goes on without a client: until now the server was not done with it.
            self._edge.closed(self)
            return
        self._reply(pending, response)
        self._advance()

    def _hand_over(self, pending: Pending) -> None:
        """The connection belongs to another protocol from here on."""
        request, upgrade = pending.request, self._edge.upgrade
        if request is None or upgrade is None:
            raise RuntimeError("an upgrade without a hook")
        self._active = None
        self._io.unregisterProducer()
        self._edge.watchdog.discard(self)
        if self._reading_paused:
            self._io.resumeProducing()
        try:
            self._taken = upgrade(request, self.transport, self._reader.leftover or b"")
        except Exception as error:  # noqa: BLE001 (as for handlers)
            self._failed(pending, error)
            self._closing = True
            self._io.abortConnection()
            return
        self._reader.release()

    # --- answering ---

    def _reply(self, pending: Pending, response: Response) -> None:
        close = not pending.keep_alive or self._is_last()
        if pending.stream is not None and not pending.stream.is_complete:
            # The handler did not want the rest of the upload: neither do we.
            close = True
        length = body_length(response)
        try:
            head = self._edge.renderer.head(
                response, length=length, close=close, old_client=pending.old_client
            )
        except (ValueError, TypeError) as error:
            close_body(response)
            response = self._failed(pending, error)
            length = body_length(response)
            head = self._edge.renderer.head(
                response, length=length, close=close, old_client=pending.old_client
            )
        if length is None and pending.old_client:
            # An old client knows the end of such an answer by the end of the connection.
            close = True
            head = head.replace(b"Connection: keep-alive", b"Connection: close")
        body = response.body
        if pending.method == "HEAD" or response.status in BODILESS:
            self._io.write(head)
            close_body(response)
            self._finish(pending, response.status, close)
        elif isinstance(body, bytes):
            rest = self._write_at_once(head, body)
            if rest:
                left = Response(body=rest)
                self._sending = Deferred.fromCoroutine(
                    self._send_body(pending, left, len(rest), chunked=False, close=close)
                )
            else:
                self._finish(pending, response.status, close)
        else:
            self._io.write(head)
            chunked = length is None and not pending.old_client
            self._sending = Deferred.fromCoroutine(
                self._send_body(pending, response, length, chunked=chunked, close=close)
            )

    def _write_at_once(self, head: bytes, body: bytes) -> bytes:
        """What the socket has room for, past the transport's buffer; returns what is left, to go piece by piece.

        A reader who keeps up with the server has an answer of megabytes without a turn of the reactor for each piece.
        """
        if len(body) <= INLINE_BODY_BYTES:
            self._write_now(head + body)
            return b""
        if not self._goes_straight():
            self._io.write(head)
            return body
        self._write_now(head + body[:PIECE_BYTES])
        start = PIECE_BYTES
        view = memoryview(body)
        while start < len(body) and self._goes_straight():
            sent = self._direct.writeSomeData(view[start:])
            if not isinstance(sent, int) or not sent:
                break  # the socket is full; or broken, which the next write finds out
            start += sent
        return body[start:]

    def _goes_straight(self) -> bool:
        """Whether nothing waits before what is written now."""
        return self._direct is not None and goes_straight(self._direct)

    def _write_now(self, data: bytes) -> None:
        if self._direct is None:
            self._io.write(data)
        else:
            write_now(self._direct, data)

    async def _send_body(
        self, pending: Pending, response: Response, length: int | None, *, chunked: bool, close: bool
    ) -> None:
        """The body piece by piece, each when the client has made room. A body that breaks off ends in an abort:
        only so can the client tell that from a complete one."""
        sent = 0
        chunks: AsyncIterator[bytes] = chunks_of(response)
        try:
            if self._write_blocked:
                await self._until_writable()
            async for chunk in chunks:
                if self._lost:
                    return
                sent += len(chunk)
                if length is not None and sent > length:
                    raise ValueError("the body is longer than was said")
                if chunk:
                    self._io.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
                if self._write_blocked:
                    await self._until_writable()
            if length is not None and sent != length:
                raise ValueError("the body is shorter than was said")
        except (CancelledError, ClientGone, BrokenOff):
            self._io.abortConnection()
            return
        except Exception as error:  # noqa: BLE001 (a body is handler code: its bugs are logged, not spread)
            self._failed(pending, error)
            self._io.abortConnection()
            return
        finally:
            close_body(response)
        if chunked:
            self._io.write(b"0\r\n\r\n")
        self._sending = None
        self._finish(pending, response.status, close)
        self._advance()

    async def _until_writable(self) -> None:
        self._writable = Deferred()
        try:
            await self._writable
        finally:
            self._writable = None

    def _failed(self, pending: Pending, error: Exception) -> Response:
        """An exception of ours while answering: log it, and the answer that tells of it."""
        error_id = self._edge.new_error_id()
        if pending.request is not None:
            self._edge.log_failure(error_id, pending.request, error)
        return MatrixError(500, "M_UNKNOWN", f"Internal server error ({error_id})").to_response()

    def _finish(self, pending: Pending, status: int, close: bool) -> None:
        self._active = None
        observe = self._edge.observe
        if observe is not None:
            template = pending.request.match.route.template if pending.request is not None else ""
            # A method is the client's own word: only those of the table may become a label.
            method = pending.request.match.route.method if template and pending.request is not None else ""
            observe(template, method, status, self._edge.clock.monotonic() - pending.started)
        if close:
            self._stopped = True
            self._queue.clear()
            self._held = b""

    def _is_last(self) -> bool:
        """Whether the answer now given is the last one before a shutdown closes the connection."""
        return self._shutting_down and not self._queue and not self._held and self._reader.phase == IDLE

    # --- after each step ---

    def _settle(self) -> None:
        """Close, or set reading and its deadline to what the new state asks for."""
        if self._closing or self._lost or self._taken is not None:
            return
        idle = self._active is None and not self._queue
        if idle and (self._stopped or self._is_last()):
            self._close()
            return
        reader = self._reader
        if idle and reader.expects_continue and reader.current is not None and reader.current.stream is None:
            reader.expects_continue = False
            self._io.write(CONTINUE)
        pause = self._is_full()
        if pause is not self._reading_paused:
            self._reading_paused = pause
            if pause:
                self._io.pauseProducing()
            else:
                self._io.resumeProducing()
        self._arm(idle, pause)

    def _arm(self, idle: bool, pause: bool) -> None:
        """One deadline for each thing awaited; it is not moved by bytes that trickle in."""
        reader, limits = self._reader, self._edge.limits
        if pause or self._stopped:
            awaited, allowed_s = _NOTHING, FOREVER
        elif reader.phase == HEAD:
            awaited, allowed_s = _HEAD, limits.header_timeout_s
        elif reader.phase == BODY:
            awaited, allowed_s = _BODY, reader.body_timeout_s
        elif idle:
            awaited, allowed_s = _REQUEST, limits.idle_timeout_s
        else:
            awaited, allowed_s = _NOTHING, FOREVER
        # The message's number tells this request's head from the next one's.
        key = reader.messages * 4 + awaited
        if key == self._awaited:
            if awaited is not _BODY or reader.current is None or reader.current.stream is None:
                return
            # An upload may be long, but it must get on.
            if reader.size - self._progress_mark < limits.min_stream_progress_bytes:
                return
        self._awaited = key
        self._progress_mark = reader.size if awaited is _BODY else 0
        if allowed_s == FOREVER:
            self._set_read_deadline(FOREVER)
        else:
            self._set_read_deadline(self._edge.clock.monotonic() + allowed_s)

    def _on_demand(self) -> None:
        """A handler reads its upload: ask the client for it, and let the connection be read again."""
        if self._lost:
            return
        reader = self._reader
        if reader.expects_continue and reader.current is self._active:
            reader.expects_continue = False
            self._io.write(CONTINUE)
        self._advance()

    def _cancel_long_poll(self) -> None:
        active, waiting = self._active, self._waiting
        if active is None or waiting is None or active.request is None:
            return
        if active.request.match.route.cancel_on_disconnect:
            waiting.cancel()

    def _close(self) -> None:
        """Close so that the last answer arrives: unread input at a close would make the kernel throw it away."""
        self._closing = True
        limits = self._edge.limits
        self._io.unregisterProducer()
        clean = not self._reader.refused and self._reader.phase == IDLE
        if clean or ISSLTransport.providedBy(self.transport):
            allowed_s = limits.write_timeout_s
            self._io.loseConnection()
        else:
            allowed_s = limits.write_timeout_s if self._write_blocked else limits.drain_timeout_s
            if self._reading_paused:
                self._io.resumeProducing()
            self._io.loseWriteConnection()
        self._write_deadline = FOREVER
        self._set_read_deadline(self._edge.clock.monotonic() + allowed_s)

    def _set_read_deadline(self, deadline: float) -> None:
        self._read_deadline = deadline
        self.deadline = min(self._write_deadline, deadline)

    def _set_write_deadline(self, deadline: float) -> None:
        self._write_deadline = deadline
        self.deadline = min(deadline, self._read_deadline)
