"""Large bodies both ways: never more in memory than a few slices, whoever of the two sides is slow."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from homeserver.http.errors import ClientGone, MatrixError
from homeserver.http.limits import HttpLimits
from homeserver.http.outgoing import INLINE_BODY_BYTES, PIECE_BYTES
from homeserver.http.response import BrokenOff, FileRange, Response
from tests.unit.http.support import Site, chunked, get, pieces, post


class _Socket:
    """The part of a TCP connection that takes bytes past its own buffer, as long as there is room."""

    def __init__(self, wire: Any, room: int) -> None:
        self.connected = True
        self._writeDisconnected = False
        self.dataBuffer = b""
        self._tempDataBuffer: list[bytes] = []
        self.buffered = 0
        self._room = room
        self._write = wire.write
        wire.write = self.write

    def write(self, data: bytes) -> None:
        self.buffered += len(data)
        self._write(data)

    def writeSomeData(self, data: Any) -> int:
        taken = min(self._room, len(data), 131_072)
        self._room -= taken
        self._write(bytes(data[:taken]))
        return taken


class UploadTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.site = Site(HttpLimits(stream_buffer_bytes=10_000))
        self.handlers = self.site.handlers
        self.connection = self.site.connect()

    def test_arrives_piece_by_piece(self) -> None:
        data = post(b"x" * 50_000, "/upload")
        self.connection.send(data[:20_000])
        self.assertGreater(sum(map(len, self.handlers.uploaded)), 19_000)
        self.connection.send(data[20_000:] + get())
        replies = self.connection.take()
        self.assertEqual(replies[0].json, {"size": 50_000})
        self.assertEqual(replies[1].status, 200)

    def test_chunked(self) -> None:
        self.connection.send(chunked([b"x" * 7000] * 10, "/upload"))
        self.assertEqual(self.connection.take()[0].json, {"size": 70_000})

    def test_empty(self) -> None:
        self.connection.send(post(b"", "/upload"))
        self.assertEqual(self.connection.take()[0].json, {"size": 0})

    def test_a_slow_handler_holds_the_sender_back(self) -> None:
        self.handlers.reading = Deferred()
        self.connection.send(post(b"", "/upload").replace(b"Length: 0", b"Length: 100000"))
        self.connection.send(b"x" * 9_999)
        self.assertFalse(self.connection.is_read_paused)
        self.connection.send(b"x")
        self.assertTrue(self.connection.is_read_paused)
        # Held back by us, the client is not slow.
        self.site.pass_time(120)
        self.assertFalse(self.connection.is_closing)
        reading, self.handlers.reading = self.handlers.reading, None
        reading.callback(None)
        self.assertFalse(self.connection.is_read_paused)
        self.connection.send(b"x" * 90_000)
        self.assertEqual(self.connection.take()[0].json, {"size": 100_000})

    def test_known_too_large_is_refused_before_the_handler_runs(self) -> None:
        self.connection.send(post(b"", "/upload").replace(b"Length: 0", b"Length: 1000001"))
        (reply,) = self.connection.replies()
        self.assertEqual((reply.status, reply.json["errcode"]), (413, "M_TOO_LARGE"))
        self.assertIsNone(self.handlers.upload_error)

    def test_too_large_is_found_while_receiving(self) -> None:
        self.connection.send(chunked([b"x" * 100_000] * 11, "/upload"))
        (reply,) = self.connection.replies()
        self.assertEqual((reply.status, reply.json["errcode"]), (413, "M_TOO_LARGE"))
        self.assertIsInstance(self.handlers.upload_error, MatrixError)
        self.assertTrue(self.connection.is_closing)

    def test_the_handler_hears_of_a_client_that_left(self) -> None:
        self.connection.send(post(b"x" * 1000, "/upload")[:-1])
        self.connection.lose()
        self.assertIsInstance(self.handlers.upload_error, ClientGone)
        self.assertEqual(self.site.failures, [])

    def test_an_upload_must_get_on(self) -> None:
        self.connection.send(post(b"", "/upload").replace(b"Length: 0", b"Length: 900000"))
        for _ in range(30):
            self.connection.send(b"x" * 10_000)
            self.site.pass_time(2)
        self.assertFalse(self.connection.is_closing)
        for _ in range(30):
            self.connection.send(b"x")
            self.site.pass_time(1)
        self.assertEqual([reply.status for reply in self.connection.replies()], [408])
        self.assertTrue(self.connection.is_closing)

    def test_malformed_chunks_reach_the_handler_as_a_refusal(self) -> None:
        self.connection.send(chunked([b"abc"], "/upload")[:-5] + b"zzz\r\n" + get())
        self.assertEqual([reply.status for reply in self.connection.replies()], [400])

    def test_an_answer_before_the_end_closes(self) -> None:
        self.connection.send(post(b"x" * 1000, "/upload", method="PUT")[:-1])
        (reply,) = self.connection.replies()
        self.assertEqual((reply.status, reply.headers[b"connection"]), (403, b"close"))
        self.assertTrue(self.connection.is_closing)

    def test_continue_is_said_when_the_handler_reads(self) -> None:
        self.handlers.reading = Deferred()
        head = b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
        self.connection.send(head)
        self.assertEqual(self.connection.output, b"")
        reading, self.handlers.reading = self.handlers.reading, None
        reading.callback(None)
        self.assertEqual(self.connection.output, b"HTTP/1.1 100 Continue\r\n\r\n")
        self.connection.wire.clear()
        self.connection.send(b"abc")
        self.assertEqual(self.connection.take()[0].json, {"size": 3})

    def test_continue_is_not_said_by_a_handler_that_refuses(self) -> None:
        head = b"PUT /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
        self.connection.send(head)
        self.assertEqual([reply.status for reply in self.connection.replies()], [403])

    def test_a_queued_upload_is_held_back_too(self) -> None:
        self.connection.send(get("/wait") + post(b"", "/upload").replace(b"Length: 0", b"Length: 50000"))
        self.connection.send(b"x" * 30_000)
        self.assertTrue(self.connection.is_read_paused)
        self.handlers.waiting[0].callback({})
        self.connection.send(b"x" * 20_000)
        self.assertEqual(self.connection.take()[1].json, {"size": 50_000})


class DownloadTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.site = Site()
        self.connection = self.site.connect()

    def answer(self, response: Response) -> None:
        self.site.handlers.body = lambda: response

    def test_iterator_without_length_is_chunked(self) -> None:
        self.answer(Response(200, pieces(b"ab", b"", b"cde"), content_type=b"text/plain"))
        self.connection.send(get("/produce") + get())
        first, second = self.connection.take()
        self.assertEqual((first.headers[b"transfer-encoding"], first.body), (b"chunked", b"abcde"))
        self.assertEqual(second.status, 200)

    def test_iterator_with_length(self) -> None:
        self.answer(Response(200, pieces(b"ab", b"cde"), length=5))
        self.connection.send(get("/produce") + get())
        first, second = self.connection.take()
        self.assertEqual((first.headers[b"content-length"], first.body), (b"5", b"abcde"))
        self.assertEqual(second.status, 200)

    def test_old_clients_get_no_chunks(self) -> None:
        self.answer(Response(200, pieces(b"ab", b"cde")))
        self.connection.send(b"GET /produce HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        self.assertTrue(self.connection.output.endswith(b"Connection: close\r\n\r\nabcde"))
        self.assertTrue(self.connection.wire.disconnecting)

    def test_a_body_that_breaks_off_is_seen_as_such(self) -> None:
        async def broken() -> AsyncIterator[bytes]:
            yield b"ab"
            raise RuntimeError("disk gone")

        for response in (
            Response(200, broken()),
            Response(200, pieces(b"ab"), length=5),
            Response(200, pieces(b"abcdef"), length=5),
        ):
            self.answer(response)
            connection = self.site.connect()
            connection.send(get("/produce"))
            self.assertTrue(connection.wire.aborted)
            self.assertFalse(connection.replies()[0].complete)
        self.assertEqual(len(self.site.failures), 3)

    def test_a_body_that_knows_why_is_no_failure_of_ours(self) -> None:
        async def broken() -> AsyncIterator[bytes]:
            yield b"ab"
            raise BrokenOff

        self.answer(Response(200, broken(), length=5))
        self.connection.send(get("/produce"))
        self.assertTrue(self.connection.wire.aborted)
        self.assertFalse(self.connection.replies()[0].complete)
        self.assertEqual([], self.site.failures)

    def test_large_bytes_wait_for_the_client(self) -> None:
        body = b"x" * (INLINE_BODY_BYTES + PIECE_BYTES + 1)
        self.answer(Response(200, body, content_type=b"text/plain"))
        self.connection.protocol.pauseProducing()
        self.connection.protocol.resumeProducing()
        # As a transport does whose buffer is full after each write.
        write = self.connection.wire.write

        def write_and_block(data: bytes) -> None:
            write(data)
            self.connection.protocol.pauseProducing()

        self.connection.wire.write = write_and_block  # type: ignore[method-assign]
        self.connection.send(get("/produce"))
        sizes = [len(self.connection.output)]
        while len(self.connection.output) < sizes[0] + len(body):
            self.connection.protocol.resumeProducing()
            sizes.append(len(self.connection.output))
        steps = [after - before for before, after in pairwise(sizes)]
        self.assertEqual(steps, [PIECE_BYTES, PIECE_BYTES, PIECE_BYTES, 1])
        self.connection.protocol.resumeProducing()
        self.assertEqual(self.connection.take()[0].body, body)

    def test_large_bytes_go_straight_into_a_socket_that_has_room(self) -> None:
        body = bytes(range(256)) * 4_000
        self.answer(Response(200, body, content_type=b"text/plain"))
        for room in (2_000_000, 300_000, 10):
            with self.subTest(room=room):
                self.connection = self.site.connect()
                socket = _Socket(self.connection.wire, room)
                self.connection.protocol._direct = socket
                self.connection.send(get("/produce"))
                self.assertEqual(max(0, len(self.connection.output) - room), socket.buffered)
                self.assertEqual(body, self.connection.take()[0].body)

    def test_a_stalled_download_is_cut_off_and_its_file_closed(self) -> None:
        file = io.BytesIO(b"x" * 500_000)
        self.answer(Response(200, FileRange(file, 0, 500_000)))
        write = self.connection.wire.write

        def write_and_block(data: bytes) -> None:
            write(data)
            self.connection.protocol.pauseProducing()

        self.connection.wire.write = write_and_block  # type: ignore[method-assign]
        self.connection.send(get("/produce"))
        self.site.pass_time(62)
        self.assertTrue(self.connection.wire.aborted)
        self.connection.lose()
        self.assertTrue(file.closed)
        self.assertEqual(self.site.failures, [])

    def test_file_range(self) -> None:
        file = io.BytesIO(bytes(range(256)) * 1000)
        self.answer(Response(206, FileRange(file, 256, 200_000), content_type=b"image/png"))
        self.connection.send(get("/produce") + get())
        first, second = self.connection.take()
        self.assertEqual((first.status, first.headers[b"content-length"]), (206, b"200000"))
        self.assertEqual(first.body, (bytes(range(256)) * 1000)[256:200_256])
        self.assertTrue(file.closed)
        self.assertEqual(second.status, 200)

    def test_head_reads_nothing_and_closes(self) -> None:
        file = io.BytesIO(b"x" * 10)
        self.answer(Response(200, FileRange(file, 0, 10)))
        self.connection.send(b"HEAD /produce HTTP/1.1\r\nHost: a\r\n\r\n")
        self.assertIn(b"Content-Length: 10\r\n", self.connection.output)
        self.assertTrue(self.connection.output.endswith(b"\r\n\r\n"))
        self.assertTrue(file.closed)

    def test_a_client_that_leaves_stops_the_iterator(self) -> None:
        closed: list[bool] = []
        waiting: Deferred[None] = Deferred()

        async def endless() -> AsyncIterator[bytes]:
            try:
                yield b"a"
                await waiting
            finally:
                closed.append(True)

        self.answer(Response(200, endless()))
        self.connection.send(get("/produce"))
        self.assertEqual(closed, [])
        self.connection.lose()
        self.assertEqual(closed, [True])
        self.assertEqual(self.site.failures, [])
