"""Administrators let some users do more, or less, than the configuration says: docs/admin-api.md."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from homeserver.config.schema import RateLimit, RateLimits
from synapse_compat.extension import EXTENSION
from tests.api.administration import AdminCase
from tests.api.talk import V3, user
from tests.support.app import TestApp, test_config
from tests.support.databases import on_each_database

PATH = f"/v1/users/{user('bob')}/override_ratelimit"


@on_each_database
class Rates(AdminCase):
    def make_app(self) -> TestApp:
        limits, roomy = RateLimits(enabled=True), RateLimit(1000, 1000)
        limits = replace(limits, write=RateLimit(1, 3), read=roomy, register=roomy)
        config = test_config(rate_limits=limits, data_dir=Path(self.mktemp()))
        return TestApp(self, self.new_database(), config=config, extra_routes=[EXTENSION.routes])

    def writes(self) -> int:
        """How many writes of bob's come through at once, of ten; a minute passes before."""
        self.app.advance(60)
        path = f"{V3}/user/{user('bob')}/account_data/m.x"
        answers = [self.app.call("PUT", path, {}, self.tokens["bob"])[0] for _ in range(10)]
        self.assertLessEqual(set(answers), {200, 429})
        return answers.count(200)

    def test_more_and_less(self) -> None:
        self.assertEqual({}, self.does("GET", PATH))
        self.assertEqual(3, self.writes())
        rate = {"messages_per_second": 4, "burst_count": 7}
        self.assertEqual(rate, self.does("POST", PATH, rate))
        self.assertEqual(rate, self.does("GET", PATH))
        self.assertEqual(7, self.writes())
        self.app.restart()
        self.assertEqual(7, self.writes())
        self.does("POST", PATH, {"messages_per_second": 1})
        self.assertEqual(1, self.writes())
        nothing = {"messages_per_second": 0, "burst_count": 0}
        self.assertEqual(nothing, self.does("POST", PATH, {}))
        self.assertEqual(nothing, self.does("GET", PATH))
        self.assertEqual(10, self.writes())
        self.assertEqual({}, self.does("DELETE", PATH))
        self.assertEqual({}, self.does("GET", PATH))
        self.assertEqual(3, self.writes())

    def test_what_is_no_rate(self) -> None:
        for body in ({"messages_per_second": -1}, {"burst_count": 2**60}, {"burst_count": "x"}):
            self.app.advance(60)
            self.refuses(400, "M_BAD_JSON", "POST", PATH, body)
        self.refuses(404, "M_NOT_FOUND", "GET", f"/v1/users/{user('nobody')}/override_ratelimit")
