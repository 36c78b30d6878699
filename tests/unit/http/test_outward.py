"""What we ask others, over real sockets: limits, TLS, which addresses, redirects."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from homeserver.http.client import HttpLimits, HttpResponse
from homeserver.http.client_tls import ClientTls
from homeserver.http.connection import ClientConnection, RawResponse
from homeserver.http.connections import IDLE_S, MAX_AT_ONCE, build_request
from homeserver.http.transport import Unreachable
from tests.unit.http.outward import OutwardCase, Talker, http


def stream(*pieces: bytes) -> Any:
    """Writes pieces for as long as somebody reads."""

    def write(transport: Any) -> None:
        for piece in pieces:
            transport.write(piece)

    return write


def endless(head: bytes, piece: bytes) -> Any:
    """An answer that never ends."""

    class Producer:
        def __init__(self, transport: Any) -> None:
            self.transport = transport

        def resumeProducing(self) -> None:
            self.transport.write(piece)

        def stopProducing(self) -> None: ...

    def write(transport: Any) -> None:
        transport.write(head)
        transport.registerProducer(Producer(transport), False)

    return write


class Exchange(OutwardCase):
    async def get(self, talker: Talker, path: str = "/", **options: Any) -> HttpResponse:
        return await self.client.request("GET", f"http://127.0.0.1:{talker.port}{path}", **options)

    async def refused(self, talker: Talker, **options: Any) -> str:
        try:
            await self.get(talker, **options)
        except Unreachable as error:
            return str(error)
        raise AssertionError("it was answered")

    async def test_a_request_and_its_answer(self) -> None:
        talker = self.listen(Talker(http(b"hello", X_One="1", x_one="2")))
        response = await self.client.request(
            "POST", f"http://127.0.0.1:{talker.port}/a?b=ü c", body=b"{}", headers={"X-Two": "3"}
        )
        self.assertEqual((response.status, response.body, response.headers["x-one"]), (200, b"hello", "2"))
        head, body = talker.requests[0]
        self.assertEqual(head.split(b"\r\n")[0], b"POST /a?b=%C3%BC%20c HTTP/1.1")
        self.assertEqual(body, b"{}")
        headers = self.headers(talker.requests[0])
        self.assertEqual(headers["host"], f"127.0.0.1:{talker.port}")
        self.assertEqual(headers["x-two"], "3")

    async def test_bodies_of_every_kind(self) -> None:
        for raw, body in (
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
                b"abcde",
            ),
            (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
            (b"HTTP/1.1 100 Continue\r\n\r\n" + http(b"after"), b"after"),
        ):
            talker = self.listen(Talker(raw))
            self.assertEqual((await self.get(talker)).body, body)

        def until_the_end(transport: Any) -> None:
            transport.write(b"HTTP/1.1 200 OK\r\n\r\nall of it")
            transport.loseConnection()

        self.assertEqual((await self.get(self.listen(Talker(until_the_end)))).body, b"all of it")

    async def test_connections_are_used_again_and_let_go(self) -> None:
        talker = self.listen(Talker(http()))
        for _ in range(3):
            await self.get(talker)
        self.assertEqual(len(talker.connections), 1)
        self.time.advance(IDLE_S)
        self.assertEqual(self.connections.kept, 0)
        await talker.loss()
        await self.get(talker)
        self.assertEqual(len(talker.connections), 2)

    async def test_many_at_once_share_a_few_connections(self) -> None:
        talker = self.listen(Talker(http()))
        waiting = [self.client.request("GET", f"http://127.0.0.1:{talker.port}/") for _ in range(100)]
        for one in waiting:
            self.assertEqual((await one).status, 200)
        self.assertLessEqual(len(talker.connections), MAX_AT_ONCE)
        # Those that wait for nothing can be given up too.
        silent = self.listen(Talker(None))
        waiting = [self.client.request("GET", f"http://127.0.0.1:{silent.port}/") for _ in range(100)]
        self.time.advance(30)
        for one in waiting:
            with self.assertRaises(Unreachable):
                await one

    async def test_a_connection_that_was_closed_meanwhile_costs_no_request(self) -> None:
        talker = self.listen(Talker(http(), lambda transport: transport.abortConnection(), http(b"again")))
        await self.get(talker)
        self.assertEqual((await self.get(talker)).body, b"again")
        self.assertEqual(len(talker.connections), 2)

    async def test_but_a_post_is_not_sent_twice(self) -> None:
        talker = self.listen(Talker(http(), lambda transport: transport.abortConnection(), http(b"again")))
        await self.get(talker)
        with self.assertRaises(Unreachable):
            await self.client.request("POST", f"http://127.0.0.1:{talker.port}/", body=b"x")
        self.assertEqual(len(talker.requests), 2)

    async def test_a_server_that_closes_is_not_asked_on_the_same_connection(self) -> None:
        talker = self.listen(Talker(http(Connection="close")))
        for _ in range(2):
            await self.get(talker)
        self.assertEqual(len(talker.connections), 2)

    async def test_more_than_was_asked_for_ends_the_connection(self) -> None:
        talker = self.listen(Talker(http(b"one") + http(b"smuggled"), http(b"two")))
        self.assertEqual((await self.get(talker)).body, b"one")
        self.assertEqual((await self.get(talker)).body, b"two")
        self.assertEqual(len(talker.connections), 2)

    async def test_what_is_no_http_is_no_answer(self) -> None:
        for raw in (
            b"SSH-2.0-OpenSSH\r\n",
            b"HTTP/1.1 abc\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            b"\x00" * 1000,
        ):
            await self.refused(self.listen(Talker(raw)))

    async def test_an_answer_that_breaks_off_is_none(self) -> None:
        def broken(transport: Any) -> None:
            transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
            transport.loseConnection()

        await self.refused(self.listen(Talker(broken)))

    async def test_answers_are_cut_at_their_size(self) -> None:
        limits = HttpLimits(max_bytes=1000)
        exact = self.listen(Talker(http(b"x" * 1000)))
        self.assertEqual(len((await self.get(exact, limits=limits)).body), 1000)
        chunk = b"40000\r\n" + b"x" * 0x40000 + b"\r\n"
        for answer in (
            http(b"x" * 1001),
            endless(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536),
            endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunk),
        ):
            talker = self.listen(Talker(answer))
            self.assertIn("too large", await self.refused(talker, limits=limits))
            # It is not read to its end.
            await talker.loss()

    async def test_floods_of_what_is_no_body_are_cut(self) -> None:
        start = b"HTTP/1.1 200 OK\r\n"
        for answer in (
            endless(start, b"X-Y: z\r\n" * 1000),
            endless(start + b"X-Y: ", b"z" * 65536),
            endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
            endless(start + b"Transfer-Encoding: chunked\r\n\r\n1;", b"z" * 65536),
            endless(start + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-Y: z\r\n" * 1000),
            endless(start + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: ", b"z" * 65536),
        ):
            talker = self.listen(Talker(answer))
            await self.refused(talker)
            await talker.loss()

    async def test_silence_and_slow_drips_end_with_the_time(self) -> None:
        for answer in (None, stream(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nab")):
            talker = self.listen(Talker(answer))
            requested = talker.requested()
            waiting = self.client.request("GET", f"http://127.0.0.1:{talker.port}/")
            await requested
            self.time.advance(29)
            self.assertFalse(waiting.called)
            self.time.advance(1)
            with self.assertRaises(Unreachable):
                await waiting
            await talker.loss()

    async def test_a_body_may_go_elsewhere_but_not_that_of_an_error(self) -> None:
        pieces: list[bytes] = []
        talker = self.listen(Talker(http(b"x" * 100_000), http(b"no", b"404 Not Found")))
        response = await self.get(talker, receive=pieces.append)
        self.assertEqual((response.body, b"".join(pieces)), (b"", b"x" * 100_000))
        response = await self.get(talker, receive=pieces.append)
        self.assertEqual((response.status, response.body, len(b"".join(pieces))), (404, b"no", 100_000))

    async def test_what_the_receiver_raises_is_raised_and_ends_it(self) -> None:
        def full(_: bytes) -> None:
            raise OSError("disk full")

        talker = self.listen(Talker(http(b"x")))
        with self.assertRaises(OSError):
            await self.get(talker, receive=full)
        await talker.loss()

    async def test_giving_up_ends_the_connection(self) -> None:
        talker = self.listen(Talker(None))
        requested = talker.requested()
        waiting = self.client.request("GET", f"http://127.0.0.1:{talker.port}/")
        await requested
        waiting.addErrback(lambda _: None)
        waiting.cancel()
        await talker.loss()

    def test_nothing_can_be_smuggled_into_a_request(self) -> None:
        for uri in ("/a b", "/a\r\nX: y", "/ü", "*", "", "http://x/"):
            self.assertRaises(ValueError, build_request, "GET", uri, [], None)
        for value in ("a\r\nb", "ü", "a\0"):
            self.assertRaises(ValueError, build_request, "GET", "/", [("X", value)], None)

    async def test_nobody_listens(self) -> None:
        talker = self.listen(Talker(http()), address="127.0.0.2")
        await self.refused(talker)


class Wire(StringTransport):
    """The part of a socket that a connection uses."""

    def setTcpNoDelay(self, _: bool) -> None: ...


class Wires(SynchronousTestCase):
    """Answers in pieces of any size, without sockets."""

    def ask(self, *pieces: bytes, lost: bool = False) -> RawResponse | Failure | None:
        wire = Wire()
        connection = ClientConnection(secure=False, name=None)
        connection.makeConnection(wire)
        results: list[Any] = []
        connection.exchange(b"GET / HTTP/1.1\r\n\r\n", 1000, None).addBoth(results.append)
        for piece in pieces:
            connection.dataReceived(piece)
        if lost:
            connection.connectionLost(Failure(ConnectionDone()))
        return results[0] if results else None

    def test_however_an_answer_is_cut_it_is_the_same(self) -> None:
        interim, head = b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 404 No\r\n"
        body = b"Transfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n1\r\nc\r\n0\r\nX-T: 1\r\n\r\n"
        for raw in (http(b"hello", X_A="1"), interim + head + body):
            whole = self.ask(raw)
            self.assertIsInstance(whole, RawResponse)
            for place in range(1, len(raw)):
                self.assertEqual(self.ask(raw[:place], raw[place:]), whole)
            self.assertEqual(self.ask(*(raw[place : place + 1] for place in range(len(raw)))), whole)

    @given(st.binary(max_size=200), st.integers(0, 40))
    @settings(max_examples=200, deadline=None)
    def test_whatever_comes_ends_in_an_answer_or_in_none(self, data: bytes, place: int) -> None:
        raw = http(b"hello")
        for mangled in (data, raw[:place] + data + raw[place:], raw[:place] + data):
            result = self.ask(mangled, lost=True)
            if not isinstance(result, RawResponse):
                assert isinstance(result, Failure)
                result.trap(Unreachable)


class Addresses(OutwardCase):
    async def test_private_addresses_are_not_called_whatever_the_name(self) -> None:
        talker = self.listen(Talker(http()))
        self.build(allowed=())
        self.resolver.names = {
            "evil.example": ["127.0.0.1"],
            "mapped.example": ["::ffff:127.0.0.1"],
            "both.example": ["10.0.0.1", "127.0.0.1"],
        }
        for host in (
            "127.0.0.1",
            "evil.example",
            "mapped.example",
            "both.example",
            "[::ffff:127.0.0.1]",
            "[::1]",
        ):
            with self.assertRaises(Unreachable) as caught:
                await self.client.request("GET", f"http://{host}:{talker.port}/")
            self.assertIn("may not call", str(caught.exception))
        self.assertEqual(talker.connections, [])

    async def test_a_name_that_changes_its_mind_is_judged_each_time(self) -> None:
        talker = self.listen(Talker(http(Connection="close")), address="127.0.0.3")
        self.build(allowed=[ip_network("127.0.0.3/32")])
        self.resolver.names["evil.example"] = ["127.0.0.3"]
        url = f"http://evil.example:{talker.port}/"
        self.assertEqual((await self.client.request("GET", url)).status, 200)
        self.resolver.names["evil.example"] = ["127.0.0.1"]
        with self.assertRaises(Unreachable):
            await self.client.request("GET", url)

    async def test_a_redirect_is_judged_like_the_first_request(self) -> None:
        inner = self.listen(Talker(http(b"secret")), address="127.0.0.1")
        outer = self.listen(
            Talker(http(b"", b"302 Found", Location=f"http://127.0.0.1:{inner.port}/")), address="127.0.0.3"
        )
        self.build(allowed=[ip_network("127.0.0.3/32")])
        with self.assertRaises(Unreachable):
            await self.client.request(
                "GET", f"http://127.0.0.3:{outer.port}/", limits=HttpLimits(max_redirects=3)
            )
        self.assertEqual(inner.connections, [])

    async def test_the_next_address_is_tried(self) -> None:
        talker = self.listen(Talker(http(b"here")), address="127.0.0.3")
        self.resolver.names["three.example"] = ["127.0.0.4", "127.0.0.5", "127.0.0.3"]
        response = await self.client.request("GET", f"http://three.example:{talker.port}/")
        self.assertEqual(response.body, b"here")

    async def test_what_is_no_address_is_refused(self) -> None:
        for url in (
            "ftp://127.0.0.1/",
            "file:///etc/passwd",
            "http://user@127.0.0.1/",
            "http://127.0.0.1:99999/",
            "http://[::1/",
            "http:///",
            "",
            "http://" + "a" * 10_000,
            "http://\u2028/",
        ):
            with self.assertRaises(Unreachable):
                await self.client.request("GET", url)


class Redirects(OutwardCase):
    async def test_they_are_followed_only_where_asked_and_not_for_ever(self) -> None:
        talker = self.listen(Talker(http(b"", b"302 Found", Location="/next")))
        url = f"http://127.0.0.1:{talker.port}/"
        self.assertEqual((await self.client.request("GET", url)).status, 302)
        with self.assertRaises(Unreachable):
            await self.client.request("GET", url, limits=HttpLimits(max_redirects=3))
        self.assertEqual(len(talker.requests), 5)
        with self.assertRaises(Unreachable):
            await self.client.request("POST", url, body=b"", limits=HttpLimits(max_redirects=3))

    async def test_their_bytes_are_what_counts(self) -> None:
        # As many sites write it, and browsers take it.
        talker = self.listen(Talker(http(b"", b"301 Moved", Location="/é%C3%A9?ü"), http(b"done")))
        url = f"http://127.0.0.1:{talker.port}/"
        response = await self.client.request("GET", url, limits=HttpLimits(max_redirects=1))
        self.assertEqual(response.body, b"done")
        self.assertTrue(
            talker.requests[1][0].startswith(b"GET /%C3%A9%C3%A9?%C3%BC HTTP/1.1"), talker.requests[1]
        )

    async def test_they_lead_to_names_in_any_script(self) -> None:
        self.resolver.names["xn--bcher-kva.example"] = ["127.0.0.1"]
        goal = self.listen(Talker(http(b"done")))
        talker = self.listen(Talker(http(b"", b"301 Moved", Location=f"http://bücher.example:{goal.port}/ä")))
        url = f"http://127.0.0.1:{talker.port}/"
        response = await self.client.request("GET", url, limits=HttpLimits(max_redirects=1))
        self.assertEqual(response.body, b"done")
        self.assertIn(b"Host: xn--bcher-kva.example:", goal.requests[0][0])

    async def test_they_lead_to_an_answer(self) -> None:
        talker = self.listen(Talker(http(b"", b"307 Temporary Redirect", Location="there?x"), http(b"done")))
        url = f"http://127.0.0.1:{talker.port}/a/b"
        response = await self.client.request("GET", url, limits=HttpLimits(max_redirects=1))
        self.assertEqual(response.body, b"done")
        self.assertEqual(response.url, f"http://127.0.0.1:{talker.port}/a/there?x")

    async def test_never_down_to_plain_text(self) -> None:
        plain = self.listen(Talker(http()))
        secure = self.listen(
            Talker(http(b"", b"302 Found", Location=f"http://127.0.0.1:{plain.port}/")), "127.0.0.1"
        )
        with self.assertRaises(Unreachable):
            await self.client.request(
                "GET",
                f"https://127.0.0.1:{secure.port}/",
                limits=HttpLimits(max_redirects=3, schemes=("https",)),
            )
        self.assertEqual(plain.connections, [])


class Tls(OutwardCase):
    async def get(self, talker: Talker, host: str, **options: Any) -> HttpResponse:
        self.resolver.names[host] = ["127.0.0.1"]
        return await self.client.request("GET", f"https://{host}:{talker.port}/", **options)

    async def test_names_and_addresses_are_verified(self) -> None:
        talker = self.listen(Talker(http()), "good.example", "*.wild.example", "127.0.0.1")
        for host in ("good.example", "one.wild.example", "127.0.0.1"):
            self.assertEqual((await self.get(talker, host)).status, 200)
        for host in ("evil.example", "wild.example", "a.b.wild.example"):
            with self.assertRaises(Unreachable):
                await self.get(talker, host)
        # Nothing was written to those whose certificate is another's.
        self.assertEqual(len(talker.requests), 3)

    def test_a_file_without_authorities_is_told_plainly(self) -> None:
        for number, content in enumerate((None, b"", b"nonsense")):
            path = self.folder / f"{number}.pem"
            if content is not None:
                path.write_bytes(content)
            self.assertRaises(ValueError, ClientTls, path)

    async def test_an_address_that_the_certificate_does_not_hold(self) -> None:
        talker = self.listen(Talker(http()), "good.example")
        with self.assertRaises(Unreachable):
            await self.get(talker, "127.0.0.1")

    async def test_an_unknown_authority_is_refused_unless_nothing_is_verified(self) -> None:
        talker = self.listen(Talker(http()), "good.example")
        self.authority = type(self.authority)(self.folder / "other")
        self.build()
        with self.assertRaises(Unreachable):
            await self.get(talker, "good.example")
        self.assertEqual(talker.requests, [])
        self.assertEqual((await self.get(talker, "good.example", verify=False)).status, 200)
        # What was not verified is not taken for what was.
        with self.assertRaises(Unreachable):
            await self.get(talker, "good.example")

    async def test_plain_text_where_tls_was_expected(self) -> None:
        talker = self.listen(Talker(None))
        talker.greeting = http(b"", b"400 Bad Request")
        with self.assertRaises(Unreachable):
            await self.get(talker, "good.example")

    async def test_a_handshake_that_never_ends(self) -> None:
        talker = self.listen(Talker(None))
        self.resolver.names["good.example"] = ["127.0.0.1"]
        waiting = self.client.request("GET", f"https://good.example:{talker.port}/")
        while not talker.connections:
            await self.turn()
        self.time.advance(10)
        with self.assertRaises(Unreachable):
            await waiting
        await talker.loss()
