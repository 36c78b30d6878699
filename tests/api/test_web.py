"""The page at `/`, health and metrics, called through the router."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial import unittest

from homeserver.api.web.health import PATIENCE_S, HealthApi
from homeserver.api.web.metrics_page import MetricsApi
from homeserver.api.web.page import PageApi, SampleLogin
from homeserver.config.schema import Registration, Switch
from homeserver.db.errors import DatabaseUnavailable
from homeserver.http.ratelimit import RateLimiter
from homeserver.http.route import Route
from homeserver.http.router import Router
from homeserver.runtime.clock import TwistedClock
from homeserver.runtime.metrics import make_metrics
from tests.support.app import test_config
from tests.support.http import Answer, HttpHarness


class WebCase(unittest.TestCase):
    def harness(self, routes: list[Route], serve: str) -> HttpHarness:
        router = Router(
            routes,
            authenticate=lambda request, auth: None,
            ratelimit=RateLimiter(TwistedClock(Clock()), {}),
            new_error_id=lambda: "id",
            log_failure=lambda error_id, request, error: self.fail(f"failed: {error}"),
        )
        return HttpHarness(router, serve=frozenset({serve}))


class Elements(HTMLParser):
    """Tags with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


class Page(WebCase):
    def get(self, page: PageApi, path: str = "/", method: str = "GET") -> Answer:
        return self.successResultOf(self.harness(page.routes(), "web").call(method, path))

    def text(self, page: PageApi) -> str:
        return self.get(page).body.decode("utf-8")

    def test_says_how_to_connect(self) -> None:
        config = test_config(public_url="https://chat.test.example")
        page = self.text(PageApi(config))
        for expected in (
            "<!doctype html>",
            "Matrix client",
            "https://chat.test.example",
            "@you:test.example",
        ):
            self.assertIn(expected, page)
        self.assertNotIn("Sample community", page)

    def test_the_policy_names_the_very_style(self) -> None:
        answer = self.get(PageApi(test_config()))
        style = re.search(r"<style>(.*?)</style>", answer.body.decode(), re.DOTALL)
        assert style is not None
        digest = b64encode(sha256(style[1].encode()).digest()).decode()
        policy = answer.headers["content-security-policy"]
        self.assertIn(f"style-src 'sha256-{digest}'", policy)
        self.assertIn("default-src 'none'", policy)
        self.assertNotIn("unsafe", policy)

    def test_nothing_comes_from_elsewhere_and_no_script_runs(self) -> None:
        page = PageApi(test_config())
        page.show_logins([SampleLogin("@a:b", "A", "secret")])
        for tag, attributes in Elements(self.text(page)).found:
            self.assertNotIn(tag, ("script", "iframe", "form", "object"))
            self.assertFalse(any(name.startswith("on") or name == "style" for name in attributes))
            for name in ("src", "href"):
                self.assertIn(attributes.get(name), (None, "/favicon.svg"))

    def test_what_it_shows_is_escaped(self) -> None:
        page = PageApi(test_config())
        page.show_logins([SampleLogin("<b>", "<script>alert(1)</script>", "&")])
        text = self.text(page)
        self.assertNotIn("<script>", text)
        self.assertIn("&lt;script&gt;alert(1)&lt;/script&gt;", text)

    def test_how_to_join_follows_the_configuration(self) -> None:
        config = test_config()
        page = PageApi(config)
        self.assertIn("Create account", self.text(page))
        page.reload(replace(config, registration=Registration(mode="token")))
        self.assertIn("registration token", self.text(page))
        page.reload(replace(config, registration=Registration(mode="closed")))
        self.assertNotIn("Create account", self.text(page))

    def test_where_one_looks_after_an_account(self) -> None:
        config = test_config(public_url="https://chat.test.example/")
        page = PageApi(config)
        self.assertIn('href="https://chat.test.example/account/"', self.text(page))
        # Without OAuth 2.0 there is no such page.
        page.reload(replace(config, oauth=Switch(enabled=False)))
        self.assertNotIn("/account/", self.text(page))

    def test_sample_logins(self) -> None:
        page = PageApi(test_config())
        page.show_logins([SampleLogin("@otto:localhost", "Otto", "secret")])
        for expected in ("Sample community", "@otto:localhost", "Otto", "secret"):
            self.assertIn(expected, self.text(page))

    def test_icon_robots_and_head(self) -> None:
        page = PageApi(test_config())
        for path in ("/favicon.ico", "/favicon.svg"):
            answer = self.get(page, path)
            self.assertEqual((answer.status, answer.headers["content-type"]), (200, "image/svg+xml"))
            self.assertTrue(answer.body.startswith(b"<svg"))
        self.assertIn(b"Disallow: /", self.get(page, "/robots.txt").body)
        self.assertEqual(self.get(page, "/", "HEAD").status, 200)
        self.assertEqual(self.get(page, "/nothing").status, 404)

    def test_only_where_it_is_served(self) -> None:
        harness = self.harness(PageApi(test_config()).routes(), "client")
        self.assertEqual(self.successResultOf(harness.call("GET", "/")).status, 404)


class FakeDatabase:
    """Answers with what it is told to."""

    dialect = "sqlite"
    answers_later = False

    def __init__(self) -> None:
        self.answer: Deferred[Any] = succeed(7)
        self.asked = 0

    def read(self, unit: Any, /, *args: Any, **kwargs: Any) -> Deferred[Any]:
        self.asked += 1
        return self.answer

    def write(self, unit: Any, /, *args: Any, **kwargs: Any) -> Deferred[Any]:
        raise AssertionError("health writes nothing")

    write_short = write

    def stop(self) -> None:
        """Nothing to stop."""


class Health(WebCase):
    def setUp(self) -> None:
        self.time = Clock()
        self.database = FakeDatabase()
        api = HealthApi(self.database, TwistedClock(self.time), lambda: 7, "test.example")
        self.http = self.harness(api.routes(), "health")

    def ask(self) -> Deferred[Answer]:
        return self.http.call("GET", "/_chaos/health")

    def check_failing(self, asked: Deferred[Answer]) -> None:
        answer = self.successResultOf(asked)
        self.assertEqual(answer.status, 503)
        self.assertEqual(
            answer.json,
            {"status": "failing", "database": "unreachable", "position": 7, "server_name": "test.example"},
        )

    def test_well(self) -> None:
        answer = self.successResultOf(self.ask())
        self.assertEqual(answer.status, 200)
        self.assertEqual(
            answer.json,
            {"status": "ok", "database": "reachable", "position": 7, "server_name": "test.example"},
        )
        self.assertEqual(answer.headers["cache-control"], "no-store")
        self.assertEqual(self.time.getDelayedCalls(), [])

    def test_unreachable_and_back(self) -> None:
        self.database.answer = fail(DatabaseUnavailable("gone"))
        self.check_failing(self.ask())
        self.database.answer = succeed(8)
        self.assertEqual(self.successResultOf(self.ask()).status, 200)
        self.assertEqual(self.time.getDelayedCalls(), [])

    def test_a_database_that_hangs_is_asked_once(self) -> None:
        hanging = self.database.answer = Deferred()
        waiting = [self.ask() for _ in range(50)]
        self.time.advance(PATIENCE_S - 0.1)
        self.assertNoResult(waiting[0])
        self.time.advance(0.2)
        for asked in waiting:
            self.check_failing(asked)
        late = self.ask()
        self.time.advance(PATIENCE_S)
        self.check_failing(late)
        self.assertEqual(self.database.asked, 1)
        last = self.ask()
        hanging.callback(7)
        self.assertEqual(self.successResultOf(last).status, 200)
        self.database.answer = succeed(7)
        self.assertEqual(self.successResultOf(self.ask()).status, 200)
        self.assertEqual(self.database.asked, 2)

    def test_only_where_it_is_served(self) -> None:
        api = HealthApi(self.database, TwistedClock(self.time), lambda: 7, "test.example")
        answer = self.harness(api.routes(), "client").call("GET", "/_chaos/health")
        self.assertEqual(self.successResultOf(answer).status, 404)


class MetricsPage(WebCase):
    def test_the_exposition(self) -> None:
        metrics = make_metrics()
        metrics.request("/_matrix/x/{room_id}", "GET", 200, 0.01)
        metrics.watch("stream_position", lambda: 11)
        http = self.harness(MetricsApi(metrics).routes(), "metrics")
        answer = self.successResultOf(http.call("GET", "/metrics"))
        self.assertEqual(answer.status, 200)
        self.assertIn("text/plain", answer.headers["content-type"])
        self.assertIn(b"chaos_stream_position 11.0", answer.body)
        self.assertIn(b'route="/_matrix/x/{room_id}"', answer.body)

    def test_only_where_it_is_served(self) -> None:
        for group in ("client", "federation", "web", "health"):
            http = self.harness(MetricsApi(make_metrics()).routes(), group)
            self.assertEqual(self.successResultOf(http.call("GET", "/metrics")).status, 404)
