"""Administrators make tokens with which people may register: docs/admin-api.md."""

from __future__ import annotations

from typing import Any

from tests.api.administration import AdminCase
from tests.support.databases import on_each_database

TOKENS = "/v1/registration_tokens"


@on_each_database
class RegistrationTokens(AdminCase):
    def make(self, **body: Any) -> Any:
        return self.does("POST", f"{TOKENS}/new", body)

    def names(self, **query: Any) -> list[str]:
        return [one["token"] for one in self.does("GET", TOKENS, None, query)["registration_tokens"]]

    def soon(self) -> int:
        return int(self.app.time.rightNow * 1000) + 5_000

    def test_made_and_looked_at(self) -> None:
        self.assertEqual([], self.names())
        drawn = self.make()
        token = drawn.pop("token")
        self.assertEqual(16, len(token))
        nothing = {"uses_allowed": None, "pending": 0, "completed": 0, "expiry_time": None}
        self.assertEqual(nothing, drawn)
        self.assertEqual(40, len(self.make(length=40)["token"]))
        soon = self.soon()
        made = self.make(token="a.b", uses_allowed=2, expiry_time=soon)
        self.assertEqual(("a.b", 2, soon), (made["token"], made["uses_allowed"], made["expiry_time"]))
        self.assertEqual(made, self.does("GET", f"{TOKENS}/a.b"))
        self.assertEqual(3, len(self.names()))
        self.refuses(400, "M_INVALID_PARAM", "POST", f"{TOKENS}/new", {"token": "a.b"})
        self.refuses(404, "M_NOT_FOUND", "GET", f"{TOKENS}/none")

    def test_which_can_be_used(self) -> None:
        self.make(token="open")
        self.make(token="used", uses_allowed=0)
        self.make(token="soon", expiry_time=self.soon())
        self.assertEqual((["open", "soon"], ["used"]), (self.names(valid="true"), self.names(valid="false")))
        self.app.advance(6)
        self.assertEqual((["open"], ["soon", "used"]), (self.names(valid="true"), self.names(valid="false")))
        self.refuses(400, "M_INVALID_PARAM", "GET", TOKENS, None, {"valid": "maybe"})

    def test_changed_and_deleted(self) -> None:
        path, soon = f"{TOKENS}/token", self.soon()
        self.make(token="token", uses_allowed=2)
        found = self.does("PUT", path, {"expiry_time": soon})
        self.assertEqual((2, soon), (found["uses_allowed"], found["expiry_time"]))
        self.app.advance(6)
        # What is over may stay so, where only the other is changed.
        found = self.does("PUT", path, {"uses_allowed": None})
        self.assertEqual((None, soon), (found["uses_allowed"], found["expiry_time"]))
        self.assertIsNone(self.does("PUT", path, {"expiry_time": None})["expiry_time"])
        self.assertEqual({}, self.does("DELETE", path))
        for method in ("GET", "PUT", "DELETE"):
            self.refuses(404, "M_NOT_FOUND", method, path, {})

    def test_what_is_none(self) -> None:
        self.make(token="token")
        for body in (
            {"uses_allowed": -1},
            {"expiry_time": 1},
            {"expiry_time": 2**60},
            {"uses_allowed": 2**60},
        ):
            self.refuses(400, "M_INVALID_PARAM", "PUT", f"{TOKENS}/token", body)
            self.refuses(400, "M_INVALID_PARAM", "POST", f"{TOKENS}/new", body)
        for wrong in ({"token": ""}, {"token": "a b"}, {"token": "x" * 65}, {"length": 0}, {"length": 65}):
            self.refuses(400, "M_INVALID_PARAM", "POST", f"{TOKENS}/new", wrong)
        self.refuses(400, "M_BAD_JSON", "POST", f"{TOKENS}/new", {"uses_allowed": "x"})

    def test_nobody_else(self) -> None:
        self.make(token="token")
        for method, path in (
            ("GET", TOKENS),
            ("POST", f"{TOKENS}/new"),
            ("GET", f"{TOKENS}/token"),
            ("PUT", f"{TOKENS}/token"),
            ("DELETE", f"{TOKENS}/token"),
        ):
            self.assert_refused(self.ask(method, path, {}, who="alice"), 403, "M_FORBIDDEN")
        self.assertEqual(["token"], self.names())
