"""One connection with clients that mean harm: smuggling, floods, slowness, and every way to cut a request in two."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from homeserver.http.limits import HttpLimits
from tests.unit.http.support import Connection, Site, chunked, get, post

SMUGGLING = {
    "both framings": b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both framings, other order": (
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"
    ),
    "two lengths": b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "the same length twice": b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "a list of lengths": b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc",
    "signed length": b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc",
    "negative length": b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: -3\r\n\r\nabc",
    "hexadecimal length": b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc",
    "huge length": b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\nabc",
    "bare LF": b"GET /echo HTTP/1.1\nHost: a\n\n",
    "bare LF in the headers": b"GET /echo HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
    "bare CR in a value": b"GET /echo HTTP/1.1\r\nHost: a\r\nX: b\rTransfer-Encoding: chunked\r\n\r\n",
    "space before the colon": b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "folded header": b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "folded line": b"GET /echo HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n",
    "NUL in a value": b"GET /echo HTTP/1.1\r\nHost: a\r\nX: b\0c\r\n\r\n",
    "no header name": b"GET /echo HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
    "coding that is not chunked": b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "coding around chunked": b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked not last": b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "chunked twice": (
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "chunked for an old client": b"POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunk size with prefix": b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
    "chunk size overflow": (
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\na\r\n0\r\n\r\n"
    ),
    "chunk longer than its size": (
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n"
    ),
    "chunks ended by LF": b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\na\n0\n\n",
    "no host": b"GET /echo HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /echo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "HTTP/0.9": b"GET /echo\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/2.0": b"GET /echo HTTP/2.0\r\nHost: a\r\n\r\n",
    "another protocol": b"DESCRIBE /echo RTSP/1.0\r\n\r\n",
    "TLS": bytes.fromhex("16030100b8010000b4030307"),
    "space in the path": b"GET /echo x HTTP/1.1\r\nHost: a\r\n\r\n",
    "raw bytes in the path": b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n",
    "tunnel": b"CONNECT internal:22 HTTP/1.1\r\nHost: a\r\n\r\nSSH-2.0",
}


class SmugglingTests(SynchronousTestCase):
    """Whatever two servers could read differently is refused, and what follows it is not looked at."""

    def test_refused_whole_and_bytewise(self) -> None:
        for name, data in SMUGGLING.items():
            statuses = []
            for bytewise in (False, True):
                site = Site()
                connection = site.connect()
                smuggled = data + get("/echo?smuggled")
                connection.send_bytewise(smuggled) if bytewise else connection.send(smuggled)
                (reply,) = connection.replies()
                self.assertIn(reply.status, (400, 405, 413, 501, 505), name)
                self.assertIn("errcode", reply.json, name)
                self.assertEqual(reply.headers[b"connection"], b"close", name)
                self.assertEqual(site.handlers.seen, [], name)
                self.assertTrue(connection.is_closing, name)
                self.assertEqual(site.failures, [], name)
                statuses.append(reply.status)
            self.assertEqual(statuses[0], statuses[1], name)

    def test_what_came_before_is_still_answered(self) -> None:
        site = Site()
        connection = site.connect()
        connection.send(get("/wait") + SMUGGLING["two hosts"])
        self.assertFalse(connection.is_closing)
        site.handlers.waiting[0].callback({})
        self.assertEqual([reply.status for reply in connection.replies()], [200, 400])
        self.assertTrue(connection.is_closing)


class SizeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.site = Site(HttpLimits(max_url_bytes=2000, max_header_bytes=5000, max_header_count=20))
        self.connection = self.site.connect()

    def statuses(self) -> list[int]:
        return [reply.status for reply in self.connection.replies()]

    def test_long_url(self) -> None:
        self.connection.send(get("/echo?" + "x" * 1990))
        self.connection.send(get("/echo?" + "x" * 2000))
        self.assertEqual(self.statuses(), [200, 414])

    def test_endless_url(self) -> None:
        self.connection.send(b"GET /")
        for _ in range(1000):
            self.connection.send(b"x" * 1000)
        self.assertEqual(self.statuses(), [414])

    def test_many_headers(self) -> None:
        self.connection.send(get("/echo", *[f"X-{n}: y" for n in range(19)]))
        self.connection.send(get("/echo", *[f"X-{n}: y" for n in range(20)]))
        self.assertEqual(self.statuses(), [200, 431])

    def test_many_headers_of_one_name(self) -> None:
        self.connection.send(get("/echo", *["X: y"] * 20))
        self.assertEqual(self.statuses(), [431])

    def test_large_header(self) -> None:
        self.connection.send(get("/echo", "X: " + "y" * 4900))
        self.connection.send(get("/echo", "X: " + "y" * 5000))
        self.assertEqual(self.statuses(), [200, 431])

    def test_endless_header_value_name_and_padding(self) -> None:
        for start, more in ((b"X: ", b"y"), (b"", b"y"), (b"X:", b" ")):
            connection = self.site.connect()
            connection.send(b"GET /echo HTTP/1.1\r\nHost: a\r\n" + start)
            for _ in range(30):
                connection.send(more * 1000)
            self.assertEqual([reply.status for reply in connection.replies()], [431])

    def test_endless_chunk_extension(self) -> None:
        self.connection.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;")
        for _ in range(200):
            self.connection.send(b"x" * 1000)
        self.assertEqual(self.statuses(), [400])

    def test_endless_trailers(self) -> None:
        self.connection.send(chunked([b"x"])[:-2])
        for number in range(10_000):
            self.connection.send(b"X-%d: yyyyyyyyyy\r\n" % number)
        self.assertEqual(self.statuses(), [400])

    def test_endless_chunks(self) -> None:
        self.connection.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(2000):
            self.connection.send(b"1\r\nx\r\n")
        self.assertEqual(self.statuses(), [413])

    def test_after_a_refusal_input_is_thrown_away_and_then_cut_off(self) -> None:
        self.connection.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999\r\n\r\n")
        self.assertEqual(self.statuses(), [413])
        for _ in range(64):
            self.connection.send(b"x" * 65_536)
        self.assertFalse(self.connection.wire.aborted)
        self.connection.send(b"x" * 65_536)
        self.assertTrue(self.connection.wire.aborted)


class SlownessTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.site = Site(HttpLimits(header_timeout_s=10, idle_timeout_s=50, write_timeout_s=30))
        self.connection = self.site.connect()

    def trickle(self, data: bytes, every_s: float) -> float:
        """Send byte by byte until the connection closes; the seconds until then."""
        started = self.site.time.seconds()
        for index in range(len(data)):
            if self.connection.is_closing:
                break
            self.connection.send(data[index : index + 1])
            self.site.pass_time(every_s)
        return self.site.time.seconds() - started

    def test_slow_headers(self) -> None:
        seconds = self.trickle(get("/echo", "X: " + "y" * 100), every_s=0.5)
        self.assertEqual([reply.status for reply in self.connection.replies()], [408])
        self.assertLess(seconds, 12)

    def test_slow_body(self) -> None:
        self.connection.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\n")
        seconds = self.trickle(b"x" * 900, every_s=1)
        self.assertEqual([reply.status for reply in self.connection.replies()], [408])
        self.assertLess(seconds, 62)
        self.assertGreater(seconds, 58)

    def test_silence(self) -> None:
        self.site.pass_time(12)
        self.assertTrue(self.connection.is_closing)
        self.assertEqual(self.connection.output, b"")

    def test_idle_between_requests(self) -> None:
        self.connection.send(get())
        self.site.pass_time(48)
        self.connection.send(get())
        self.site.pass_time(48)
        self.assertFalse(self.connection.is_closing)
        self.site.pass_time(4)
        self.assertTrue(self.connection.wire.disconnecting)
        self.assertEqual(len(self.connection.replies()), 2)

    def test_a_handler_may_take_its_time(self) -> None:
        self.connection.send(get("/wait"))
        self.site.pass_time(300)
        self.site.handlers.waiting[0].callback({})
        self.assertEqual([reply.status for reply in self.connection.replies()], [200])
        self.assertFalse(self.connection.is_closing)

    def test_a_client_that_does_not_read_is_cut_off(self) -> None:
        self.connection.send(get())
        self.connection.protocol.pauseProducing()
        self.site.pass_time(28)
        self.assertFalse(self.connection.wire.aborted)
        self.site.pass_time(4)
        self.assertTrue(self.connection.wire.aborted)

    def test_a_client_that_keeps_the_connection_after_the_end_is_cut_off(self) -> None:
        self.connection.send(SMUGGLING["two hosts"])
        self.assertTrue(self.connection.wire.half_closed)
        self.site.pass_time(4)
        self.assertTrue(self.connection.wire.aborted)

    def test_half_a_request_behind_a_long_poll(self) -> None:
        self.connection.send(get("/wait") + b"GET /ec")
        self.site.pass_time(12)
        self.assertEqual(self.connection.output, b"")
        self.site.handlers.waiting[0].callback({})
        self.assertEqual([reply.status for reply in self.connection.replies()], [200, 408])
        self.assertTrue(self.connection.is_closing)

    def test_no_timer_without_connections(self) -> None:
        self.assertEqual(len(self.site.time.getDelayedCalls()), 1)
        self.connection.lose()
        self.assertEqual(self.site.time.getDelayedCalls(), [])


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(bounds)]


def outcome(parts: list[bytes]) -> tuple[bytes, bool, list[tuple[str, str, bytes]]]:
    """What a fresh server does with the parts: its output, whether it closes, what handlers saw."""
    site = Site(HttpLimits(max_pipelined=3, max_url_bytes=300, max_header_bytes=1000, max_header_count=10))
    connection: Connection = site.connect()
    for part in parts:
        if connection.is_read_paused:
            # A real transport would hold these back; the connection must hold them as well.
            connection.protocol.dataReceived(part)
        else:
            connection.send(part)
    if site.failures:
        raise site.failures[0]
    return connection.output, connection.is_closing, site.handlers.seen


GOOD = st.sampled_from(
    [
        get(),
        get("/echo?q=%C3%A9", "X: y", "Accept:"),
        get("/nowhere"),
        post(b'{"a":1}'),
        post(b"x" * 1000),
        post(b"", "/echo/%2F%41", method="PUT"),
        chunked([b"abc", b"d" * 300]),
        chunked([b"a"], "/upload", trailers=b"X: y\r\n"),
        post(b"u" * 5000, "/upload"),
        b"OPTIONS /echo HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\r\n" + get("/fail?") .replace(b"/fail", b"/echo"),
        get("/echo", "Connection: Upgrade", "Upgrade: h2c"),
        post(b"GET /echo?inside", "/echo", "Connection: Upgrade", "Upgrade: h2c"),
        post(b"v" * 5000, "/upload", "Connection: Upgrade", "Upgrade: h2c"),
        chunked([b"abc", b"def"], "/echo", "Connection: Upgrade", "Upgrade: h2c", trailers=b"Host: b\r\n"),
    ]
)  # fmt: skip
BAD = st.one_of(
    st.sampled_from(
        [*SMUGGLING.values(), post(b"x" * 1001), get("/" + "x" * 400), get("/echo", *["X: y"] * 12)]
    ),
    st.binary(max_size=60),
)


class SplitTests(SynchronousTestCase):
    @settings(max_examples=150, deadline=None)
    @given(
        st.lists(GOOD, max_size=6),
        st.one_of(st.just(b""), BAD),
        st.lists(st.integers(min_value=0), max_size=12),
    )
    def test_cuts_do_not_matter(self, good: list[bytes], bad: bytes, places: list[int]) -> None:
        data = b"".join(good) + bad
        self.assertEqual(outcome([data]), outcome(cut(data, places)))

    @settings(max_examples=40, deadline=None)
    @given(st.lists(GOOD, max_size=4), st.one_of(st.just(b""), BAD))
    def test_bytes_one_by_one(self, good: list[bytes], bad: bytes) -> None:
        data = b"".join(good) + bad
        self.assertEqual(outcome([data]), outcome([data[index : index + 1] for index in range(len(data))]))

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.binary(max_size=200), max_size=5))
    def test_noise_is_refused_or_waited_for(self, parts: list[bytes]) -> None:
        output, closing, seen = outcome(parts)
        self.assertEqual(seen, [])
        self.assertEqual(bool(output), closing)

    @settings(max_examples=200, deadline=None)
    @given(GOOD, st.integers(min_value=0), st.binary(min_size=1, max_size=3))
    def test_a_spoilt_request_never_is_a_500(self, data: bytes, place: int, spoil: bytes) -> None:
        place %= len(data)
        output, _, _ = outcome([data[:place] + spoil + data[place + len(spoil) :]])
        self.assertNotIn(b"HTTP/1.1 500", output)
