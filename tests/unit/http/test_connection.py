"""One connection with well-behaved clients: keep-alive, pipelining, bodies, CORS, HEAD, errors."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import msgspec
from twisted.internet.testing import MemoryReactor
from twisted.trial.unittest import SynchronousTestCase

from homeserver.composition.listening import Listeners
from homeserver.config.schema import Listener
from homeserver.http.errors import MatrixError
from homeserver.http.limits import HttpLimits
from homeserver.http.request import Request
from homeserver.http.response import Response
from homeserver.http.route import Auth, Route
from tests.unit.http.support import CORS, Connection, Site, chunked, get, post


class KeepAliveTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.site = Site()
        self.connection = self.site.connect()

    def test_requests_follow_each_other_on_one_connection(self) -> None:
        for number in range(3):
            self.connection.send(get(f"/echo?n={number}"))
            (reply,) = self.connection.take()
            self.assertEqual(reply.status, 200)
            self.assertEqual(reply.json["query"], {"n": [str(number)]})
        self.assertFalse(self.connection.is_closing)

    def test_connection_close_is_obeyed(self) -> None:
        self.connection.send(get("/echo", "Connection: close") + get("/echo"))
        (reply,) = self.connection.replies()
        self.assertEqual(reply.headers[b"connection"], b"close")
        self.assertTrue(self.connection.is_closing)
        self.assertEqual(len(self.site.handlers.seen), 1)

    def test_old_client_gets_its_answer_and_the_end(self) -> None:
        self.connection.send(b"GET /echo HTTP/1.0\r\n\r\n")
        (reply,) = self.connection.replies()
        self.assertEqual(reply.status, 200)
        self.assertTrue(self.connection.wire.disconnecting)

    def test_old_client_may_ask_for_more(self) -> None:
        self.connection.send(b"GET /echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        (reply,) = self.connection.take()
        self.assertEqual(reply.headers[b"connection"], b"keep-alive")
        self.connection.send(get())
        self.assertEqual([reply.status for reply in self.connection.take()], [200])

    def test_absolute_form_is_the_same_path(self) -> None:
        self.connection.send(get("http://example.org/echo?a=b"))
        (reply,) = self.connection.take()
        self.assertEqual((reply.json["path"], reply.json["query"]), ("/echo", {"a": ["b"]}))

    def test_empty_lines_between_requests_are_passed_over(self) -> None:
        self.connection.send(get() + b"\r\n\r\n" + get() + b"\r\n")
        self.assertEqual([reply.status for reply in self.connection.take()], [200, 200])

    def test_upgrade_to_something_unknown_is_ignored(self) -> None:
        self.connection.send(get("/echo", "Connection: Upgrade", "Upgrade: h2c") + get("/echo?second"))
        replies = self.connection.take()
        self.assertEqual([reply.status for reply in replies], [200, 200])
        self.assertEqual(replies[1].json["query"], {"second": [""]})

    def test_and_the_body_of_such_a_request_is_its_body(self) -> None:
        body = get("/echo?inside")
        for data in (
            post(body, "/echo", "Connection: Upgrade", "Upgrade: h2c"),
            chunked([body[:9], body[9:]], "/echo", "Connection: Upgrade", "Upgrade: h2c"),
        ):
            self.connection.send(data + get("/echo?second"))
            first, second = self.connection.take()
            self.assertEqual(first.json["body"].encode(), body)
            self.assertEqual(second.json["query"], {"second": [""]})


class BodyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.site = Site()
        self.connection = self.site.connect()

    def test_body_in_chunks_is_the_same_as_in_one(self) -> None:
        self.connection.send(post(b"hello world") + chunked([b"hello", b" ", b"world"]))
        first, second = self.connection.take()
        self.assertEqual(first.json["body"], "hello world")
        self.assertEqual(first.body, second.body)

    def test_trailers_do_not_become_headers(self) -> None:
        self.connection.send(chunked([b"x"], "/echo", trailers=b"Authorization: Bearer y\r\n") + get())
        self.assertEqual([reply.status for reply in self.connection.take()], [200, 200])

    def test_limit_is_known_before_the_body(self) -> None:
        self.connection.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n")
        (reply,) = self.connection.replies()
        self.assertEqual((reply.status, reply.json["errcode"]), (413, "M_TOO_LARGE"))
        self.assertEqual(self.site.handlers.seen, [])
        self.assertTrue(self.connection.wire.half_closed)

    def test_limit_holds_for_chunks(self) -> None:
        self.connection.send(chunked([b"x" * 500, b"x" * 500]))
        self.connection.send(chunked([b"x" * 500, b"x" * 501]))
        self.assertEqual([reply.status for reply in self.connection.replies()], [200, 413])

    def test_a_route_says_in_its_own_way_what_is_too_large(self) -> None:
        async def show(_: Request) -> str:
            raise ZeroDivisionError

        def refuse(error: MatrixError) -> Response:
            return Response(error.status, b"<p>No</p>", content_type=b"text/html")

        route = Route(
            method="POST", template="/page", handler=show, spec="test", auth=Auth.NONE, max_body=9, refuse=refuse
        )  # fmt: skip
        site = Site(extra=[route])
        for data in (post(b"x" * 10, "/page"), chunked([b"x" * 5, b"x" * 5], "/page")):
            connection = site.connect()
            connection.send(post(b"x" * 9, "/echo") + data)
            good, page = connection.replies()
            self.assertEqual((200, 413, b"<p>No</p>"), (good.status, page.status, page.body))
        # A fault of ours too; but not what comes after it and is no request of that route's.
        connection = site.connect()
        connection.send(post(b"", "/page") + post(b"x" * 1001))
        page, refusal = connection.replies()
        self.assertEqual((500, b"<p>No</p>"), (page.status, page.body))
        self.assertEqual((413, "M_TOO_LARGE"), (refusal.status, refusal.json["errcode"]))
        site.failures.clear()

    def test_each_route_has_its_own_limit(self) -> None:
        self.connection.send(post(b"x" * 99_999, "/echo/name", method="PUT"))
        (reply,) = self.connection.take()
        self.assertEqual((reply.status, len(reply.json["body"])), (200, 99_999))

    def test_continue_is_said_once_and_only_when_needed(self) -> None:
        head, body = post(b"abc", "/echo", "Expect: 100-continue").split(b"\r\n\r\n")
        self.connection.send(head + b"\r\n\r\n")
        self.assertEqual(self.connection.output, b"HTTP/1.1 100 Continue\r\n\r\n")
        self.connection.wire.clear()
        self.connection.send(body)
        (reply,) = self.connection.take()
        self.assertEqual(reply.json["body"], "abc")
        self.connection.send(head + b"\r\n\r\n" + body)
        self.assertNotIn(b"100 Continue", self.connection.output)

    def test_continue_is_not_said_to_a_body_that_is_too_large(self) -> None:
        self.connection.send(
            b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9999\r\nExpect: 100-continue\r\n\r\n"
        )
        self.assertEqual([reply.status for reply in self.connection.replies()], [413])

    def test_continue_waits_for_the_answers_before_it(self) -> None:
        head, body = post(b"abc", "/echo", "Expect: 100-continue").split(b"\r\n\r\n")
        self.connection.send(get("/wait") + head + b"\r\n\r\n")
        self.assertEqual(self.connection.output, b"")
        self.site.handlers.waiting[0].callback({})
        self.assertTrue(self.connection.output.endswith(b"\r\n\r\n{}HTTP/1.1 100 Continue\r\n\r\n"))
        self.connection.wire.clear()
        self.connection.send(body)
        self.assertEqual(self.connection.take()[0].json["body"], "abc")

    def test_unknown_expectation_fails(self) -> None:
        self.connection.send(post(b"abc", "/echo", "Expect: miracles"))
        self.assertEqual([reply.status for reply in self.connection.replies()], [417])


class PipeliningTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.site = Site(HttpLimits(max_pipelined=4))
        self.connection = self.site.connect()

    def test_answers_keep_the_order(self) -> None:
        self.connection.send(get("/wait") + get("/echo?2") + get("/wait") + get("/echo?4"))
        self.assertEqual(self.connection.output, b"")
        self.site.handlers.waiting[0].callback({"n": 1})
        self.assertEqual([reply.json.get("n") for reply in self.connection.replies()], [1, None])
        self.site.handlers.waiting[1].callback({"n": 3})
        replies = self.connection.take()
        self.assertEqual(replies[0].json, {"n": 1})
        self.assertEqual(replies[1].json["query"], {"2": [""]})
        self.assertEqual(replies[2].json, {"n": 3})
        self.assertEqual(replies[3].json["query"], {"4": [""]})

    def test_a_full_queue_is_not_read_on(self) -> None:
        self.connection.send(get("/wait"))
        for _ in range(4):
            self.assertFalse(self.connection.is_read_paused)
            self.connection.send(get())
        self.assertTrue(self.connection.is_read_paused)
        self.site.handlers.waiting[0].callback({})
        self.assertFalse(self.connection.is_read_paused)
        self.assertEqual(len(self.connection.take()), 5)

    def test_a_flood_in_one_read_is_answered_in_full_and_in_order(self) -> None:
        self.connection.send(get("/wait") + b"".join(get(f"/echo?{n}") for n in range(1000)))
        # The parser ran at most one slice too far.
        self.assertLess(len(self.connection.protocol._queue), 4 + 4096 // 30)
        self.site.handlers.waiting[0].callback({})
        replies = self.connection.take()
        self.assertEqual(
            [next(iter(reply.json["query"])) for reply in replies[1:]], [str(n) for n in range(1000)]
        )

    def test_large_bodies_fill_the_queue_sooner(self) -> None:
        site = Site(HttpLimits(max_pipelined_bytes=150_000))
        connection = site.connect()
        connection.send(get("/wait") + post(b"x" * 90_000, "/echo/a", method="PUT"))
        self.assertFalse(connection.is_read_paused)
        connection.send(post(b"x" * 90_000, "/echo/b", method="PUT") + get("/echo"))
        self.assertTrue(connection.is_read_paused)
        site.handlers.waiting[0].callback({})
        self.assertEqual([reply.status for reply in connection.take()], [200] * 4)
        self.assertFalse(connection.is_read_paused)

    def test_nothing_is_started_while_the_client_does_not_read(self) -> None:
        self.connection.protocol.pauseProducing()
        self.connection.send(get() + get())
        self.assertEqual(self.site.handlers.seen, [])
        self.connection.protocol.resumeProducing()
        self.assertEqual(len(self.connection.take()), 2)


class AnswerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.site = Site()
        self.connection = self.site.connect()

    def test_every_answer_has_the_cors_headers(self) -> None:
        for request in (
            get(),
            get("/nowhere"),
            post(b"", "/wait"),
            get("/fail"),
            get("/%ff"),
            b"OPTIONS /nowhere/at/all HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /echo HTTP/1.1\r\n\r\n",
            b"NONSENSE\r\n\r\n",
            get("/" + "x" * 20_000),
            get("/echo", *[f"X-{n}: y" for n in range(200)]),
        ):
            connection = self.site.connect()
            connection.send(request)
            (reply,) = connection.replies()
            self.assertTrue(reply.complete)
            self.assertEqual({name: reply.headers.get(name) for name in CORS}, CORS, request)
            self.assertEqual(reply.headers[b"content-type"], b"application/json")

    def test_preflight_runs_no_handler(self) -> None:
        for path in ("/echo", "/upload", "/nowhere", "*"):
            self.connection.send(f"OPTIONS {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            (reply,) = self.connection.take()
            self.assertEqual(reply.status, 200)
            # Else browsers ask again after five seconds: half of what a web client sends would be such questions.
            self.assertEqual(reply.headers[b"access-control-max-age"], b"7200")
        self.assertEqual(self.site.handlers.seen, [])

    def test_unknown_paths_and_methods(self) -> None:
        self.connection.send(get("/nowhere") + post(b"{}", "/wait") + get("/federation"))
        replies = self.connection.take()
        self.assertEqual([reply.status for reply in replies], [404, 405, 404])
        self.assertEqual({reply.json["errcode"] for reply in replies}, {"M_UNRECOGNIZED"})
        self.assertEqual(replies[1].headers[b"allow"], b"GET, OPTIONS")

    def test_methods_that_nothing_has(self) -> None:
        self.connection.send(b"PROPFIND /echo HTTP/1.1\r\nHost: a\r\n\r\n")
        (reply,) = self.connection.replies()
        self.assertEqual((reply.status, reply.json["errcode"]), (405, "M_UNRECOGNIZED"))

    def test_head_has_the_length_but_no_body(self) -> None:
        self.connection.send(b"HEAD /echo HTTP/1.1\r\nHost: a\r\n\r\n")
        head, separator, rest = self.connection.output.partition(b"\r\n\r\n")
        self.assertEqual((separator, rest), (b"\r\n\r\n", b""))
        self.assertIn(b"Content-Length: ", head)
        self.connection.wire.clear()
        self.connection.send(get())
        self.assertEqual(len(self.connection.take()), 1)

    def test_every_answer_says_when_it_was_made(self) -> None:
        self.site.handlers.body = lambda: Response(204, b"", content_type=None)
        self.site.time.rightNow = 784_111_777.25
        self.connection.send(get("/produce") + get("/nowhere"))
        self.site.time.advance(0.5)
        self.connection.send(get())
        self.site.time.advance(0.5)
        self.connection.send(get())
        dates = [reply.headers[b"date"] for reply in self.connection.take()]
        at_first = b"Sun, 06 Nov 1994 08:49:37 GMT"
        self.assertEqual(dates, [at_first, at_first, at_first, b"Sun, 06 Nov 1994 08:49:38 GMT"])

    def test_no_content_has_neither(self) -> None:
        self.site.handlers.body = lambda: Response(204, b"", content_type=None)
        self.connection.send(get("/produce"))
        self.assertNotIn(b"Content-Length", self.connection.output)
        self.assertTrue(self.connection.output.endswith(b"\r\n\r\n"))

    def test_a_bug_is_a_500_without_its_text(self) -> None:
        self.connection.send(get("/fail") + get())
        failed, following = self.connection.take()
        self.assertEqual((failed.status, failed.json["errcode"]), (500, "M_UNKNOWN"))
        self.assertIn("error-1", failed.json["error"])
        self.assertNotIn("secret", failed.json["error"])
        self.assertEqual(following.status, 200)
        self.assertEqual([str(error) for error in self.site.failures], ["a bug with a secret in it"])

    def test_a_header_cannot_break_out(self) -> None:
        for field in ((b"X", b"a\r\nSet-Cookie: b"), (b"X\r\nY", b"a"), (b"X", b"a\0")):
            self.site.handlers.body = lambda field=field: Response(200, b"{}", [field])  # type: ignore[misc]
            self.connection.send(get("/produce"))
            (reply,) = self.connection.take()
            self.assertEqual(reply.status, 500)
            self.assertNotIn(b"set-cookie", reply.headers)
        self.assertEqual(len(self.site.failures), 3)

    def test_what_cannot_be_encoded_is_a_bug(self) -> None:
        self.site.handlers.body = lambda: {"a": object()}
        self.connection.send(get("/produce"))
        self.assertEqual(self.connection.take()[0].status, 500)

    def test_values_become_json(self) -> None:
        class Body(msgspec.Struct):
            a: int

        for value, body in (
            ({"a": 1}, b'{"a":1}'),
            ([1], b"[1]"),
            (Body(2), b'{"a":2}'),
            (b'{"b":3}', b'{"b":3}'),
        ):
            self.site.handlers.body = lambda value=value: value  # type: ignore[misc]
            self.connection.send(get("/produce"))
            self.assertEqual(self.connection.take()[0].body, body)

    def test_metrics_see_the_template(self) -> None:
        self.connection.send(post(b"", "/echo/name", method="PUT") + get("/nowhere"))
        self.assertEqual(
            [seen[:3] for seen in self.site.observed], [("/echo/{name}", "PUT", 200), ("", "", 404)]
        )

    def test_rate_limits_answer_with_the_time_to_wait(self) -> None:
        self.connection.send(post(b"", "/limited") * 3)
        replies = self.connection.take()
        self.assertEqual([reply.status for reply in replies], [200, 200, 429])
        self.assertEqual(replies[2].json["errcode"], "M_LIMIT_EXCEEDED")
        self.assertEqual(replies[2].json["retry_after_ms"], 2000)
        self.assertEqual(replies[2].headers[b"retry-after"], b"2")


class DisconnectTests(SynchronousTestCase):
    def test_a_connection_is_freed_at_once(self) -> None:
        gc.disable()
        self.addCleanup(gc.enable)
        for data in (
            get(),
            post(b"x", "/upload"),
            b"NONSENSE\r\n\r\n",
            get()[:-3],
        ):
            site = Site()
            connection = site.connect()
            connection.send(data)
            connection.lose()
            protocol = weakref.ref(connection.protocol)
            del connection
            self.assertIsNone(protocol(), data)

    def test_a_long_poll_ends_with_its_client(self) -> None:
        site = Site()
        connection = site.connect()
        connection.send(get("/poll"))
        connection.lose()
        self.assertEqual(site.handlers.cancelled, 1)
        self.assertEqual(site.failures, [])

    def test_other_handlers_finish_what_they_began(self) -> None:
        site = Site()
        connection = site.connect()
        connection.send(get("/wait") + get("/echo"))
        connection.lose()
        self.assertEqual(site.handlers.cancelled, 0)
        site.handlers.waiting[0].callback({})
        self.assertEqual(connection.output, b"")
        # What had not begun is not begun for nobody.
        self.assertEqual(len(site.handlers.seen), 1)
        self.assertEqual(site.server.connection_count, 0)


class ProxyTests(SynchronousTestCase):
    """Whose requests these are, at listeners as they are opened."""

    def ip(self, *lines: str, trust: bool = True) -> str:
        site, reactor = Site(), MemoryReactor()
        listeners = Listeners(reactor, site.router, site.clock, site.log, lambda: "error-1")
        listeners.open(Listener(8008, serve=("client",), trust_forwarded_for=trust))
        server: Any = reactor.tcpServers[0][1]
        connection = Connection(server.buildProtocol(None), "127.0.0.1")
        connection.send(get("/echo", *lines))
        address: str = connection.take()[0].json["ip"]
        return address

    def test_only_a_proxy_is_believed(self) -> None:
        self.assertEqual(self.ip("X-Forwarded-For: 192.0.2.5", trust=False), "127.0.0.1")
        self.assertEqual(self.ip("X-Forwarded-For: 192.0.2.5"), "192.0.2.5")
        self.assertEqual(self.ip("X-Forwarded-For: 2001:db8::1"), "2001:db8::1")
        self.assertEqual(self.ip(), "127.0.0.1")

    def test_what_the_client_wrote_itself_is_not(self) -> None:
        for forged in ("8.8.8.8", "8.8.8.8, 10.1.1.1", "nonsense", ""):
            self.assertEqual(self.ip(f"X-Forwarded-For: {forged}, 192.0.2.5"), "192.0.2.5")
            self.assertEqual(self.ip(f"X-Forwarded-For: {forged}", "X-Forwarded-For: 192.0.2.5"), "192.0.2.5")

    def test_nor_is_it_where_the_proxy_wrote_nonsense(self) -> None:
        for nonsense in ("unknown", "", "\xff"):
            self.assertEqual(self.ip(f"X-Forwarded-For: 192.0.2.5, {nonsense}"), "127.0.0.1")
