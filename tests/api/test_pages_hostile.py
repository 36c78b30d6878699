"""What no browser sends to the pages that people see: a page says so, and nothing happens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from homeserver.accounts import validations
from homeserver.config.schema import RateLimit, RateLimits
from homeserver.http.route import Auth, Route
from homeserver.push import unsubscribing
from tests.support.app import TestApp, test_config
from tests.support.databases import DatabaseCase, on_each_database
from tests.support.http import Answer
from tests.support.oauth import BASE, FORM

FORMS: tuple[tuple[bytes, dict[str, str]], ...] = (
    (b"step=consent", {}),
    (b"{}", {"Content-Type": "application/json"}),
    (b"a=%00", FORM),
    (b"a=%ff", FORM),
    (b"&".join(b"a%d=b" % number for number in range(300)), FORM),
)


@on_each_database
class Hostile(DatabaseCase):
    def setUp(self) -> None:
        super().setUp()
        config = test_config(data_dir=Path(self.mktemp()), public_url=BASE)
        self.app = TestApp(self, self.new_database(), config)

    def pages(self) -> list[Route]:
        routes = self.app.app.router.routes
        shown = {one.template for one in routes if one.method == "GET" and one.auth is Auth.NONE}
        posted = [one for one in routes if one.method == "POST" and one.template in shown]
        pages = [one for one in posted if one.template.startswith(("/account", "/oauth2/"))]
        self.assertGreater(len(pages), 8)
        return pages

    def paths(self) -> dict[str, int]:
        """Where people send a form, and how long it may be; behind the links in letters and in apps, too."""
        others = (validations.PATH, unsubscribing.PATH, "/_matrix/client/v3/auth/")
        routes = self.app.app.router.routes
        found = [one for one in routes if one.method == "POST" and one.template.startswith(others)]
        self.assertEqual(len(others), len(found))
        return {
            one.template.replace("{auth_type}", "m.login.password"): one.max_body
            for one in [*self.pages(), *found]
        }

    def assert_page(self, answer: Answer, status: int, text: str) -> None:
        self.assertEqual(status, answer.status)
        self.assertIn(b"<!doctype html>", answer.body)
        self.assertIn(text.encode(), answer.body)
        self.assertEqual("text/html; charset=utf-8", answer.headers["content-type"].lower())
        self.assertEqual("no-store", answer.headers["cache-control"])

    def test_too_much(self) -> None:
        for path, most in self.paths().items():
            answer = self.app.answer("POST", path, b"a" * (most + 1), headers=FORM)
            self.assert_page(answer, 413, "The request is too large.")

    def test_too_often(self) -> None:
        limits = RateLimits(read=RateLimit(0.5, 1), write=RateLimit(0.5, 1))
        self.app.config = replace(self.app.config, rate_limits=limits)
        for path in (max(one.template for one in self.pages()), validations.PATH, unsubscribing.PATH):
            self.app.restart()
            for method in ("GET", "POST"):
                self.assertNotEqual(429, self.app.answer(method, path).status)
                answer = self.app.answer(method, path)
                self.assert_page(answer, 429, "That was too often. Please try again in 2 seconds.")
                self.assertEqual("2", answer.headers["retry-after"])

    def test_what_is_no_form(self) -> None:
        for route in self.pages():
            for body, headers in FORMS:
                answer = self.app.answer("POST", route.template, body, headers=headers)
                self.assertIn(answer.status, (303, 400), route.template)
                if answer.status == 400:
                    self.assertIn(b"<!doctype html>", answer.body)
                    self.assertEqual("no-store", answer.headers["cache-control"])
