"""The load generator's own HTTP reader: however the bytes arrive, the same answers."""

from __future__ import annotations

from twisted.trial import unittest

from tests.bench.wire import Response, ResponseReader, WireError, build_request

PLAIN = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 404 Not Found\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\na;x=y\r\n0123456789\r\n0\r\n\r\n"


def feed(reader: ResponseReader, data: bytes) -> Response | None:
    """Let bytes come, as many at once as there is space for."""
    found = None
    while data:
        assert found is None
        with reader.space() as space:
            count = min(len(space), len(data))
            space[:count] = data[:count]
            found = reader.advance(count)
        data = data[count:]
    return found


class ResponseReaderTests(unittest.TestCase):
    def test_whole(self) -> None:
        reader = ResponseReader()
        self.assertEqual(feed(reader, PLAIN), Response(200, b"hello"))
        self.assertEqual(feed(reader, CHUNKED), Response(404, b"abc0123456789"))
        self.assertEqual(feed(reader, PLAIN), Response(200, b"hello"))

    def test_byte_by_byte(self) -> None:
        reader = ResponseReader()
        for answer, wanted in ((CHUNKED, Response(404, b"abc0123456789")), (PLAIN, Response(200, b"hello"))):
            answers = [feed(reader, answer[at : at + 1]) for at in range(len(answer))]
            self.assertEqual(answers[-1], wanted)
            self.assertEqual(set(answers[:-1]), {None})

    def test_larger_than_its_buffer(self) -> None:
        reader, body = ResponseReader(), bytes(range(256)) * 5_000
        plain = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        pieces = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in (body[:300_000], body[300_000:]))
        chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + pieces + b"0\r\n\r\n"
        for answer in (plain, chunked, PLAIN, chunked):
            wanted = Response(200, b"hello" if answer is PLAIN else body)
            self.assertEqual(feed(reader, answer), wanted)

    def test_empty_body(self) -> None:
        answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
        self.assertEqual(feed(ResponseReader(), answer), Response(200, b""))

    def test_refuses_what_has_no_length(self) -> None:
        with self.assertRaises(WireError):
            feed(ResponseReader(), b"HTTP/1.1 200 OK\r\nserver: x\r\n\r\nhello")

    def test_refuses_another_protocol(self) -> None:
        with self.assertRaises(WireError):
            feed(ResponseReader(), b"SSH-2.0-x\r\n\r\n")


class BuildRequestTests(unittest.TestCase):
    def test_get_has_no_body(self) -> None:
        request = build_request("GET", "/path", "secret", query={"from": "a b"})
        self.assertTrue(request.startswith(b"GET /path?from=a+b HTTP/1.1\r\n"))
        self.assertIn(b"\r\nAuthorization: Bearer secret\r\n", request)
        self.assertTrue(request.endswith(b"\r\n\r\n"))
        self.assertNotIn(b"Content-Length", request)

    def test_put_counts_its_bytes(self) -> None:
        head, _, body = build_request("PUT", "/path", None, {"a": "ü"}).partition(b"\r\n\r\n")
        self.assertIn(f"Content-Length: {len(body)}".encode(), head)
