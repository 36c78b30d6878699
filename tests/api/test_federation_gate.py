"""The gate of federation, over a network of whole servers: signatures, keys, who is let in."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from federation.errors import RemoteError
from federation.ids import ServerName
from homeserver.config.schema import Federation, RateLimit, RateLimits
from homeserver.http.request import Request
from homeserver.http.route import Auth, Route
from homeserver.http.transport import PeerResponse, Unreachable
from tests.support.app import test_key
from tests.support.federation import NetServer, TestNet

PATH = "/_matrix/federation/v1/echo"


class EchoApi:
    """An endpoint that says who asked what."""

    def routes(self) -> list[Route]:
        return [
            Route(
                method=method,
                template=PATH,
                handler=self.echo,
                auth=Auth.FEDERATION,
                serve="federation",
                spec="server-server-api#request-authentication",
            )
            for method in ("GET", "PUT")
        ]

    async def echo(self, request: Request) -> dict[str, Any]:
        return {"origin": request.requester.origin, "content": request.json(allow_empty=True)}


def echo(*_: object) -> list[Route]:
    return EchoApi().routes()


def ask(net: TestNet, server: NetServer, *args: Any, **kwargs: Any) -> Any:
    return net.wait(Deferred.fromCoroutine(server.app.peering.client.ask(*args, **kwargs)))


class Gate(TestCase):
    def setUp(self) -> None:
        self.net = TestNet(self)
        self.a = self.net.server("a.example")
        self.b = self.net.server("b.example", extra_routes=[echo])
        self.evil = self.net.stranger("evil.example")

    def refused(self, status: int, errcode: str, *args: Any, **kwargs: Any) -> None:
        answer = self.evil.ask("b.example", "PUT", PATH, *args, **kwargs)
        self.assertEqual((answer[0], answer[1]["errcode"]), (status, errcode), answer)

    def test_a_signed_request_is_admitted_with_its_body(self) -> None:
        content = {"b": [1, {"ü": 2.5}], "a": "\u0000"}
        answer = ask(self.net, self.a, ServerName("b.example"), "PUT", f"{PATH}?x=%C3%BC&y", content)
        self.assertEqual(answer, {"origin": "a.example", "content": content})
        self.assertEqual(
            ask(self.net, self.a, ServerName("b.example"), "GET", PATH),
            {"origin": "a.example", "content": {}},
        )

    def test_keys_are_fetched_once_and_survive_a_restart(self) -> None:
        for _ in range(3):
            ask(self.net, self.a, ServerName("b.example"), "GET", PATH)
        self.assertEqual(len(self.net.sent("/_matrix/key/v2/server", "b.example", "a.example")), 1)
        self.b.restart()
        ask(self.net, self.a, ServerName("b.example"), "GET", PATH)
        self.assertEqual(len(self.net.sent("/_matrix/key/v2/server", "b.example", "a.example")), 1)

    def test_many_at_once_are_one_fetch(self) -> None:
        started = [self.evil.start("b.example", "GET", PATH) for _ in range(20)]
        self.assertEqual([self.net.wait(one).status for one in started], [200] * 20)
        self.assertEqual(len(self.net.sent("/_matrix/key/v2/server", "b.example")), 1)

    def test_no_header_and_garbage_headers_are_401(self) -> None:
        for header in (
            "",
            "Bearer abc",
            "X-Matrix",
            "X-Matrix origin=evil.example",
            'X-Matrix origin="evil.example",key="ed25519:x",sig="AAAA"',
            'X-Matrix origin="not a name",destination="b.example",key="ed25519:test",sig="AAAA"',
            "X-Matrix " + "a=b," * 1000,
        ):
            self.refused(401, "M_UNAUTHORIZED", {}, authorization=header)

    def test_a_signature_for_somebody_else_is_401(self) -> None:
        self.refused(
            401,
            "M_UNAUTHORIZED",
            {},
            authorization=self.evil.authorization("a.example", "PUT", PATH, {}),
        )

    def test_method_uri_and_body_are_covered(self) -> None:
        for method, uri, content in (
            ("GET", PATH, {"a": 1}),
            ("PUT", PATH + "?b", {"a": 1}),
            ("PUT", PATH, {"a": 2}),
            ("PUT", PATH, None),
        ):
            header = self.evil.authorization("b.example", method, uri, content)
            self.refused(401, "M_UNAUTHORIZED", {"a": 1}, authorization=header)

    def test_another_key_or_another_name_is_401(self) -> None:
        wrong = test_key("evil.example", seed=99)
        header = self.evil.authorization("b.example", "PUT", PATH, {}, wrong)
        self.refused(401, "M_UNAUTHORIZED", {}, authorization=header)
        # With the name of another server, and a key id that this one has.
        forged = self.evil.authorization("b.example", "PUT", PATH, {}).replace("evil.example", "a.example")
        self.refused(401, "M_UNAUTHORIZED", {}, authorization=forged)
        # In the name of the server itself.
        ours = self.evil.authorization("b.example", "PUT", PATH, {}, test_key("b.example", seed=99))
        self.refused(401, "M_UNAUTHORIZED", {}, authorization=ours)

    def test_a_body_that_is_no_json_is_refused(self) -> None:
        header = self.evil.authorization("b.example", "PUT", PATH, {})
        self.refused(400, "M_NOT_JSON", b"{", authorization=header)
        self.refused(400, "M_BAD_JSON", b"[" * 400 + b"]" * 400, authorization=header)

    def test_an_expired_key_does_not_count_for_requests(self) -> None:
        self.evil.answers["GET", "/_matrix/key/v2/server"] = lambda _: (
            200,
            self.evil.key_response(valid_ms=-1000),
        )
        self.refused(401, "M_UNAUTHORIZED", {})

    def test_keys_that_ran_out_are_fetched_anew(self) -> None:
        self.assertEqual(self.evil.ask("b.example", "PUT", PATH, {})[0], 200)
        self.net.leap(8 * 24 * 3600)
        self.assertEqual(self.evil.ask("b.example", "PUT", PATH, {})[0], 200)
        self.assertEqual(len(self.net.sent("/_matrix/key/v2/server", "b.example", "evil.example")), 2)

    def test_keys_are_refreshed_in_the_second_half_of_their_life(self) -> None:
        self.evil.ask("b.example", "PUT", PATH, {})
        self.net.leap(4 * 24 * 3600)
        self.assertEqual(self.evil.ask("b.example", "PUT", PATH, {})[0], 200)
        self.net.settle()
        self.assertEqual(len(self.net.sent("/_matrix/key/v2/server", "b.example", "evil.example")), 2)

    def test_garbage_instead_of_keys_is_401(self) -> None:
        response = self.evil.key_response()
        other = test_key("evil.example", seed=98)
        answers: list[Any] = [
            b"",
            b"<html>",
            b"[]",
            b"{" * 1000,
            {},
            {**response, "server_name": "a.example"},
            {**response, "valid_until_ts": "tomorrow"},
            {**response, "verify_keys": {other.key_id: {"key": "A" * 43}}},
            {**response, "signatures": {"evil.example": 7}},
            {**response, "old_verify_keys": [1]},
            b'{"server_name":"' + b"x" * 70_000 + b'"}',
        ]
        for number, garbage in enumerate(answers):
            with self.subTest(number=number):
                self.evil.answers["GET", "/_matrix/key/v2/server"] = lambda _, garbage=garbage: (200, garbage)  # type: ignore[misc]
                self.refused(401, "M_UNAUTHORIZED", {})
                self.net.advance(6)

    def test_a_server_without_keys_is_not_asked_for_each_request(self) -> None:
        self.evil.answers["GET", "/_matrix/key/v2/server"] = lambda _: (500, {})
        for _ in range(10):
            self.refused(401, "M_UNAUTHORIZED", {})
        self.assertEqual(len(self.net.sent("/_matrix/key/v2/server", "b.example", "evil.example")), 1)
        # But it is asked soon after it has come to its senses.
        del self.evil.answers["GET", "/_matrix/key/v2/server"]
        self.evil.answers["GET", "/_matrix/key/v2/server"] = lambda _: (200, self.evil.key_response())
        self.net.advance(6)
        self.assertEqual(self.evil.ask("b.example", "PUT", PATH, {})[0], 200)

    def test_a_silent_server_does_not_hold_the_others(self) -> None:
        self.evil.answers["GET", "/_matrix/key/v2/server"] = None
        waiting = self.evil.start("b.example", "PUT", PATH, {})
        self.assertEqual(ask(self.net, self.a, ServerName("b.example"), "GET", PATH)["origin"], "a.example")
        self.assertEqual(self.net.wait(waiting).status, 401)

    def test_a_request_is_a_sign_of_life(self) -> None:
        heard: list[ServerName] = []
        self.b.app.peering.health.observe(on_contact=heard.append)
        self.refused(401, "M_UNAUTHORIZED", {}, authorization="")
        self.assertEqual(heard, [])
        self.evil.ask("b.example", "PUT", PATH, {})
        self.assertEqual(heard, ["evil.example"])


class WhoMay(TestCase):
    def test_deny_and_allow_lists_bind_both_ways_and_are_reloaded(self) -> None:
        net = TestNet(self)
        evil, good = net.stranger("evil.example"), net.stranger("good.example")
        server = net.server(
            "b.example", extra_routes=[echo], federation=Federation(deny_servers=("Evil.example",))
        )
        for name in ("evil.example", "EVIL.example"):
            header = evil.authorization("b.example", "PUT", PATH, {}, test_key(name, seed=2))
            status, json = evil.ask("b.example", "PUT", PATH, {}, authorization=header)
            self.assertEqual((status, json["errcode"]), (403, "M_FORBIDDEN"))
        # Its keys were not even asked for.
        self.assertEqual(net.sent("/_matrix/key/"), [])
        self.assertRaises(Unreachable, ask, net, server, ServerName("evil.example"), "GET", "/x")
        self.assertEqual(good.ask("b.example", "PUT", PATH, {})[0], 200)
        server.app.reload(
            net.servers[ServerName("b.example")].config.__class__(
                server_name="b.example", federation=Federation(allow_servers=("evil.example",))
            )
        )
        self.assertEqual(evil.ask("b.example", "PUT", PATH, {})[0], 200)
        self.assertEqual(good.ask("b.example", "PUT", PATH, {})[0], 403)

    def test_without_federation_nothing_of_it_is_there(self) -> None:
        net = TestNet(self)
        server = net.server("b.example", federation=Federation(enabled=False))
        other = net.stranger("other.example")
        for path in ("/_matrix/key/v2/server", "/_matrix/federation/v1/version", PATH):
            status, json = other.ask("b.example", "GET", path)
            self.assertEqual((status, json["errcode"]), (404, "M_UNRECOGNIZED"))
        self.assertRaises(Unreachable, ask, net, server, ServerName("other.example"), "GET", "/x")
        self.assertEqual(net.sent(origin="b.example"), [])

    def test_requests_are_limited_by_server(self) -> None:
        net = TestNet(self)
        one, other = net.stranger("one.example"), net.stranger("other.example")
        limits = RateLimits(enabled=True, federation=RateLimit(0.1, 3))
        net.server("b.example", extra_routes=[echo], rate_limits=limits)
        answers = [one.ask("b.example", "PUT", PATH, {})[0] for _ in range(4)]
        self.assertEqual(answers, [200, 200, 200, 429])
        self.assertEqual(other.ask("b.example", "PUT", PATH, {})[0], 200)

    def test_what_may_be_asked_without_a_signature_is_limited_too(self) -> None:
        net = TestNet(self)
        server = net.server("b.example")
        unlimited = [
            route.template
            for route in server.app.router.routes
            if route.serve == "federation" and route.auth is not Auth.FEDERATION and not route.limit
        ]
        self.assertEqual(unlimited, [])


class Asking(TestCase):
    """The client of a server, and what it makes of answers."""

    def setUp(self) -> None:
        self.net = TestNet(self)
        self.a = self.net.server("a.example")
        self.other = self.net.stranger("other.example")

    def ask(self, **options: Any) -> Any:
        return ask(self.net, self.a, ServerName("other.example"), "GET", "/_matrix/x", **options)

    def error(self, status: int, content: Any) -> RemoteError:
        self.other.answers["GET", "/_matrix/x"] = lambda _: (status, content)
        with self.assertRaises(RemoteError) as caught:
            self.ask()
        return caught.exception

    def test_errors_carry_their_code_whatever_the_body_is(self) -> None:
        error = self.error(403, {"errcode": "M_FORBIDDEN", "error": "no", "room_version": "7"})
        self.assertEqual((error.status, error.errcode, error.message), (403, "M_FORBIDDEN", "no"))
        self.assertEqual(error.content["room_version"], "7")
        for status, body in (
            (500, b"<html>"),
            (404, b"[]"),
            (301, b""),
            (400, {"errcode": 7, "error": []}),
            (418, {"errcode": "", "error": "\u0000"}),
            (400, b"{" * 100_000),
        ):
            error = self.error(status, body)
            self.assertEqual((error.status, error.errcode), (status, "M_UNKNOWN"))
        self.assertEqual(len(self.error(400, {"errcode": "M_X" * 1000, "error": "y" * 9999}).errcode), 255)

    def test_a_good_answer_that_is_no_object_is_an_error(self) -> None:
        for body in (b"", b"7", b"[]", b"{", b"\xff", b'{"a":' * 300 + b"1" + b"}" * 300):
            self.assertEqual(self.error(200, body).status, 502)

    def test_a_limit_says_how_long(self) -> None:
        self.assertEqual(
            self.error(429, {"errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": 1500}).retry_after_ms, 1500
        )
        self.assertLess(self.error(429, {"retry_after_ms": 2**80}).retry_after_ms or 0, 10**8)
        self.assertIsNone(self.error(429, {"retry_after_ms": "soon"}).retry_after_ms)

    def test_too_large_and_too_slow_answers_are_none(self) -> None:
        self.other.answers["GET", "/_matrix/x"] = lambda _: (200, {"a": "b" * 1000})
        self.assertRaises(Unreachable, self.ask, max_bytes=1000)
        self.other.answers["GET", "/_matrix/x"] = None
        self.assertRaises(Unreachable, self.ask, timeout_s=10)

    def test_a_server_that_failed_is_left_alone_by_those_who_do_not_insist(self) -> None:
        ended: list[str] = []
        health = self.a.app.peering.health
        health.observe(
            on_success=lambda name: ended.append(f"{name} answered"),
            on_failure=lambda name: ended.append(f"{name} did not"),
        )
        self.other.answers["GET", "/_matrix/x"] = lambda _: (200, {})
        self.net.down("other.example")
        self.assertRaises(Unreachable, self.ask)
        before = len(self.net.requests)
        self.assertRaises(Unreachable, self.ask, insist=False)
        self.assertEqual(len(self.net.requests), before)
        self.net.up("other.example")
        self.assertEqual(self.ask(), {})
        self.assertEqual(self.ask(insist=False), {})
        self.assertEqual(ended, ["other.example did not"] + ["other.example answered"] * 2)

    def test_the_wait_of_a_server_that_fails_grows_and_ends(self) -> None:
        health = self.a.app.peering.health
        self.net.down("other.example")
        name = ServerName("other.example")
        for wait_s in (10, 20, 40):
            self.assertFalse(health.is_down(name))
            self.assertRaises(Unreachable, self.ask)
            self.net.advance(wait_s - 1)
            self.assertTrue(health.is_down(name))
            self.net.advance(1)
        self.assertRaises(Unreachable, self.ask)
        health.heard_from(name)
        self.assertFalse(health.is_down(name))

    def test_a_proxy_without_a_server_is_a_failure_and_an_error_of_the_server_is_not(self) -> None:
        health = self.a.app.peering.health
        self.error(500, {"errcode": "M_UNKNOWN"})
        self.assertFalse(health.is_down(ServerName("other.example")))
        self.error(502, b"<html>bad gateway</html>")
        self.assertTrue(health.is_down(ServerName("other.example")))

    def test_whoever_is_consulted_is_heard(self) -> None:
        self.a.app.peering.health.consult(lambda name: name == "other.example")
        self.assertRaises(Unreachable, self.ask, insist=False)

    def test_nobody_asks_himself(self) -> None:
        for name in ("a.example", "A.example"):
            self.assertRaises(Unreachable, ask, self.net, self.a, ServerName(name), "GET", "/x")

    def test_a_body_may_go_elsewhere_in_pieces(self) -> None:
        self.other.answers["GET", "/_matrix/x"] = lambda _: (200, b"x" * 5000)
        pieces: list[bytes] = []
        response: PeerResponse = self.net.wait(
            Deferred.fromCoroutine(
                self.a.app.peering.client.ask_raw(
                    ServerName("other.example"), "GET", "/_matrix/x", receive=pieces.append
                )
            )
        )
        self.assertEqual((response.status, response.body, b"".join(pieces)), (200, b"", b"x" * 5000))
