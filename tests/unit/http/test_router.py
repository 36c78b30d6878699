"""The route table, the gates and the harness that API tests use."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from federation.errors import Malformed
from homeserver.http.errors import forbidden, missing_token, unknown_token
from homeserver.http.ratelimit import LimitClass, RateLimiter
from homeserver.http.request import Request
from homeserver.http.response import Response
from homeserver.http.router import Auth, Route, Router
from homeserver.runtime.clock import TwistedClock
from tests.support.http import HttpHarness, path_of


class Somebody:
    rate_limited = True

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id


class RouterCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.time = Clock()
        self.failures: list[BaseException] = []
        self.auth: Any = lambda request, auth: None

    def authenticate(self, request: Request, auth: Auth) -> Any:
        return self.auth(request, auth)

    def harness(self, *routes: Route, **options: Any) -> HttpHarness:
        clock = TwistedClock(self.time)
        router = Router(
            routes,
            authenticate=self.authenticate,
            ratelimit=RateLimiter(clock, {"send": LimitClass(1, 1)}),
            new_error_id=lambda: "error-1",
            log_failure=lambda error_id, request, error: self.failures.append(error),
        )
        return HttpHarness(router, **options)


def route(template: str, method: str = "GET", handler: Any = None, **options: Any) -> Route:
    async def tell(request: Request, **parameters: Any) -> Any:
        return {"template": template, "method": method, "parameters": parameters}

    options.setdefault("auth", Auth.NONE)
    return Route(method=method, template=template, handler=handler or tell, spec="test", **options)


class TableTests(RouterCase):
    def setUp(self) -> None:
        super().setUp()
        self.http = self.harness(
            route("/"),
            route("/rooms/{room_id:room_id}/state/{event_type}"),
            route("/rooms/{room_id:room_id}/state/{event_type}/{state_key:text}"),
            route("/rooms/{room_id:room_id}/state/{event_type}/{state_key:text}", "PUT"),
            route("/pushrules/"),
            route("/pushrules/global/"),
            route("/pushrules/global/{kind}/{rule_id}"),
            route("/profile/{user_id:user_id}/displayname", "PUT"),
            route("/profile/{user_id:user_id}/{key}"),
            route("/join/{room:room_id_or_alias}", "POST"),
            route("/alias/{alias:room_alias}"),
            route("/event/{event_id:event_id}"),
            route("/server/{server_name:server_name}"),
            route("/device/{device_id:device_id}"),
            route("/count/{n:int}"),
            route("/files/{rest:path}"),
            route("/files/special"),
            route("/fed", serve="federation"),
        )

    def test_templates(self) -> None:
        room = "!room:example.org"
        cases: list[tuple[str, str, dict[str, Any]]] = [
            ("/", "/", {}),
            (
                path_of("/rooms/{r}/state/m.room.name", r=room),
                "/rooms/{room_id:room_id}/state/{event_type}",
                {"room_id": room, "event_type": "m.room.name"},
            ),
            (
                path_of("/rooms/{r}/state/m.room.name/", r=room),
                "/rooms/{room_id:room_id}/state/{event_type}/{state_key:text}",
                {"room_id": room, "event_type": "m.room.name", "state_key": ""},
            ),
            (
                path_of("/rooms/{r}/state/{t}/{k}", r=room, t="a/b", k="é%/"),
                "/rooms/{room_id:room_id}/state/{event_type}/{state_key:text}",
                {"room_id": room, "event_type": "a/b", "state_key": "é%/"},
            ),
            ("/pushrules/", "/pushrules/", {}),
            ("/pushrules/global/", "/pushrules/global/", {}),
            (
                "/pushrules/global/override/.m.rule.master",
                "/pushrules/global/{kind}/{rule_id}",
                {"kind": "override", "rule_id": ".m.rule.master"},
            ),
            (
                "/profile/@a:example.org/displayname",
                "/profile/{user_id:user_id}/{key}",
                {"user_id": "@a:example.org", "key": "displayname"},
            ),
            ("/alias/%23a%3Aexample.org", "/alias/{alias:room_alias}", {"alias": "#a:example.org"}),
            (
                "/server/example.org:8448",
                "/server/{server_name:server_name}",
                {"server_name": "example.org:8448"},
            ),
            ("/count/42", "/count/{n:int}", {"n": 42}),
            ("/files/a/b%2Fc/", "/files/{rest:path}", {"rest": "a/b/c/"}),
            ("/files/", "/files/{rest:path}", {"rest": ""}),
            ("/files/special", "/files/special", {}),
            ("/%66iles/special", "/files/special", {}),
        ]
        for path, template, parameters in cases:
            answer = self.http.now("GET", path)
            self.assertEqual(answer.status, 200, path)
            self.assertEqual(
                (answer.json["template"], answer.json["parameters"]), (template, parameters), path
            )

    def test_paths_of_before_the_specification_had_versions(self) -> None:
        http = self.harness(
            route("/_matrix/client/v3/rooms/{room_id:room_id}/join", "POST"),
            route("/_matrix/media/v3/config"),
            route("/_matrix/federation/v3/x"),
        )
        for method, path, status in (
            ("POST", "/_matrix/client/r0/rooms/!a:b/join", 200),
            ("GET", "/_matrix/client/r0/rooms/!a:b/join", 405),
            ("GET", "/_matrix/media/r0/config", 200),
            ("GET", "/_matrix/client/r0/nowhere", 404),
            ("GET", "/_matrix/client/r0", 404),
            ("GET", "/_matrix/federation/r0/x", 404),
            ("GET", "/_matrix/client/r1/config", 404),
        ):
            self.assertEqual(status, http.now(method, path).status, path)

    def test_unknown(self) -> None:
        for path in (
            "/nowhere",
            "/pushrules",
            "/pushrules/global",
            "/pushrules/global//x",
            "/rooms/!a:b/state/",
            "/rooms//state/m.room.name",
            "/rooms/!a:b/state/m.room.name/a/b",
            "//",
            "*",
            "",
            "/" + "x/" * 5000,
            "/files",
        ):
            answer = self.http.now("GET", path)
            self.assertEqual((answer.status, answer.errcode), (404, "M_UNRECOGNIZED"), path)

    def test_wrong_method_names_the_right_ones(self) -> None:
        answer = self.http.now("POST", "/rooms/!a:b/state/m.room.name/x")
        self.assertEqual((answer.status, answer.errcode), (405, "M_UNRECOGNIZED"))
        self.assertEqual(answer.headers["allow"], "GET, OPTIONS, PUT")
        # Of two ways that lead to this path, the one with the method counts.
        self.assertEqual(self.http.now("PUT", "/profile/@a:b/displayname").json["method"], "PUT")
        self.assertEqual(self.http.now("PUT", "/profile/@a:b/avatar_url").status, 405)

    def test_head_is_get(self) -> None:
        self.assertEqual(self.http.now("HEAD", "/count/1").status, 200)

    def test_bad_identifiers(self) -> None:
        for path in (
            "/profile/nobody/x",
            "/profile/%40a%00:b/x",
            "/profile/%ff/x",
            "/rooms/room/state/x",
            "/alias/a",
            "/event/abc",
            "/server/not%20a%20name",
            "/device/" + "x" * 256,
            "/count/-1",
            "/count/1_0",
            "/count/%D9%A1",
            "/count/" + "9" * 100,
            "/pushrules/global/override/" + "x" * 5000,
        ):
            answer = self.http.now("GET", path)
            self.assertEqual((answer.status, answer.errcode), (400, "M_INVALID_PARAM"), path)
        self.assertEqual(self.failures, [])

    def test_listener_group(self) -> None:
        self.assertEqual(self.http.now("GET", "/fed").status, 200)
        client_only = HttpHarness(self.http.router, serve=frozenset({"client"}))
        self.assertEqual(client_only.now("GET", "/fed").status, 404)
        self.assertEqual(client_only.now("POST", "/fed").status, 404)

    def test_bad_tables_are_refused(self) -> None:
        for routes in (
            [route("/a"), route("/a")],
            [route("/{a}"), route("/{b}")],
            [route("a")],
            [route("/{a:nonsense}")],
            [route("/x{a}")],
            [route("/{a:path}/b")],
        ):
            with self.assertRaises(ValueError):
                self.harness(*routes)

    @given(st.text(max_size=40), st.sampled_from(["GET", "PUT", "DELETE"]))
    def test_any_path_has_an_answer(self, text: str, method: str) -> None:
        self.setUp()
        path = "/" + text.encode("utf-8", "surrogatepass").decode("latin-1")
        match = self.http.router.resolve(method, path.encode("latin-1"), self.http.serve)
        self.assertIsNotNone(match.route.handler)


class GateTests(RouterCase):
    def test_requester_is_given_to_the_handler(self) -> None:
        async def who(request: Request) -> Any:
            return {"user": request.requester.user_id}

        async def slow(request: Request) -> Any:
            return Somebody("@slow:b")

        http = self.harness(route("/who", handler=who, auth=Auth.USER))
        for auth, user in (
            (lambda request, auth: Somebody("@a:b"), "@a:b"),
            (lambda request, auth: slow(request), "@slow:b"),
            (lambda request, auth: succeed(Somebody("@c:d")), "@c:d"),
        ):
            self.auth = auth
            self.assertEqual(http.now("GET", "/who").json, {"user": user})

    def test_authentication_comes_first(self) -> None:
        def refuse(request: Request, auth: Auth) -> Any:
            self.assertIs(auth, Auth.ADMIN)
            raise missing_token() if request.access_token() is None else unknown_token(soft_logout=True)

        self.auth = refuse
        http = self.harness(route("/{room_id:room_id}", "POST", auth=Auth.ADMIN, limit="send"))
        for _ in range(3):
            answer = http.now("POST", "/nonsense", b"not json")
            self.assertEqual((answer.status, answer.errcode), (401, "M_MISSING_TOKEN"))
        answer = http.now("POST", "/nonsense", b"not json", token="abc")
        self.assertEqual(
            (answer.status, answer.errcode, answer.json["soft_logout"]), (401, "M_UNKNOWN_TOKEN", True)
        )

    def test_limits_count_users_else_addresses(self) -> None:
        self.auth = lambda request, auth: Somebody(request.access_token() or "")
        http = self.harness(
            route("/a", auth=Auth.USER, limit="send"), route("/b", limit="send"), route("/c", limit="unknown")
        )
        self.assertEqual([http.now("GET", "/a", token=user).status for user in "xyx"], [200, 200, 429])
        addresses = ("192.0.2.1", "192.0.2.2", "192.0.2.1")
        self.assertEqual([http.now("GET", "/b", client_ip=ip).status for ip in addresses], [200, 200, 429])
        self.assertEqual([http.now("GET", "/c").status for _ in range(3)], [200] * 3)
        self.time.advance(1)
        self.assertEqual(http.now("GET", "/a", token="x").status, 200)

    def test_neighbours_in_one_ipv6_network_count_as_one(self) -> None:
        http = self.harness(route("/b", limit="send"))
        addresses = (
            "2001:db8::1",
            "2001:db8::2",
            "2001:db8:0:1::1",
            "::ffff:192.0.2.9",
            "192.0.2.9",
            "odd:name",
            "",
        )
        self.assertEqual(
            [http.now("GET", "/b", client_ip=ip).status for ip in addresses],
            [200, 429, 200, 200, 429, 200, 200],
        )

    def test_some_are_exempt(self) -> None:
        somebody = Somebody("@bot:b")
        somebody.rate_limited = False
        self.auth = lambda request, auth: somebody
        http = self.harness(route("/a", auth=Auth.USER, limit="send"))
        self.assertEqual([http.now("GET", "/a").status for _ in range(5)], [200] * 5)

    def test_body_limit_holds_without_a_connection_too(self) -> None:
        http = self.harness(route("/a", "POST", max_body=3))
        self.assertEqual(http.now("POST", "/a", b"abcd").errcode, "M_TOO_LARGE")


class DispatchTests(RouterCase):
    def test_a_handler_that_does_not_wait_costs_no_deferred(self) -> None:
        http = self.harness(route("/a"))
        self.assertIsInstance(http.router.dispatch(http.request("GET", "/a")), Response)

    def test_nothing_is_an_empty_object(self) -> None:
        async def handler(request: Request) -> None:
            return None

        self.assertEqual(self.harness(route("/a", handler=handler)).now("GET", "/a").body, b"{}")

    def test_waiting_more_than_once(self) -> None:
        first: Deferred[int] = Deferred()
        second: Deferred[int] = Deferred()

        async def handler(request: Request) -> Any:
            return {"sum": await first + await second + await succeed(3)}

        answer = self.harness(route("/a", handler=handler)).call("GET", "/a")
        first.callback(1)
        self.assertNoResult(answer)
        second.callback(2)
        self.assertEqual(self.successResultOf(answer).json, {"sum": 6})

    def test_failures_after_waiting(self) -> None:
        for error, status, errcode in (
            (forbidden("no"), 403, "M_FORBIDDEN"),
            (Malformed("bad", "M_BAD_JSON", 400), 400, "M_BAD_JSON"),
            (KeyError("x"), 500, "M_UNKNOWN"),
        ):
            waiting: Deferred[None] = Deferred()

            async def handler(request: Request, waiting: Deferred[None] = waiting) -> Any:
                await waiting

            answer = self.harness(route("/a", handler=handler)).call("GET", "/a")
            waiting.errback(error)
            result = self.successResultOf(answer)
            self.assertEqual((result.status, result.errcode), (status, errcode))
        self.assertEqual([type(error) for error in self.failures], [KeyError])

    def test_a_handler_may_catch_what_it_waits_for(self) -> None:
        waiting: Deferred[None] = Deferred()

        async def handler(request: Request) -> Any:
            try:
                await waiting
            except KeyError:
                await fail(ValueError()).addErrback(lambda failure: None)
                return {"caught": True}

        answer = self.harness(route("/a", handler=handler)).call("GET", "/a")
        waiting.errback(KeyError())
        self.assertEqual(self.successResultOf(answer).json, {"caught": True})

    def test_cancelling(self) -> None:
        waiting: Deferred[None] = Deferred()
        cleaned: list[bool] = []

        async def handler(request: Request) -> Any:
            try:
                await waiting
            finally:
                cleaned.append(True)

        http = self.harness(route("/a", handler=handler))
        answer = http.router.dispatch(http.request("GET", "/a"))
        assert isinstance(answer, Deferred)
        answer.cancel()
        self.assertEqual(self.successResultOf(answer).status, 503)
        self.assertEqual((cleaned, self.failures), ([True], []))

    def test_streamed_bodies_reach_the_handler(self) -> None:
        async def handler(request: Request) -> Any:
            assert request.body_stream is not None
            size = 0
            while (chunk := await request.body_stream.read_chunk()) is not None:
                size += len(chunk)
            return {"size": size}

        http = self.harness(route("/a", "POST", handler=handler, stream=True, max_body=200_000))
        self.assertEqual(http.now("POST", "/a", b"x" * 200_000).json, {"size": 200_000})
        self.assertEqual(http.now("POST", "/a", b"x" * 200_001).errcode, "M_TOO_LARGE")
