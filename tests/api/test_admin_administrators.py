"""Who administers the server: docs/admin-api.md."""

from __future__ import annotations

from typing import Any

from tests.api.administration import AdminCase
from tests.api.talk import V3, user
from tests.support.databases import on_each_database


@on_each_database
class Administrators(AdminCase):
    def admin_path(self, name: str) -> str:
        return f"/v1/users/{user(name)}/admin"

    def test_who_is_one(self) -> None:
        self.assertEqual({"admin": True}, self.does("GET", self.admin_path("root")))
        self.assertEqual({"admin": False}, self.does("GET", self.admin_path("alice")))
        self.refuses(404, "M_NOT_FOUND", "GET", self.admin_path("nobody"))
        self.refuses(400, "M_INVALID_PARAM", "GET", "/v1/users/@x:elsewhere.org/admin")
        self.refuses(400, "M_INVALID_PARAM", "GET", "/v1/users/alice/admin")

    def test_making_and_unmaking(self) -> None:
        self.assertEqual({}, self.does("PUT", self.admin_path("alice"), {"admin": True}))
        # From her next request on, with the token that she has.
        self.assertEqual(200, self.ask("GET", self.admin_path("root"), who="alice")[0])
        self.assertEqual({}, self.does("PUT", self.admin_path("alice"), {"admin": False}))
        self.assert_refused(self.ask("GET", self.admin_path("root"), who="alice"), 403, "M_FORBIDDEN")

    def test_what_cannot_be(self) -> None:
        path = self.admin_path("root")
        self.refuses(403, "M_FORBIDDEN", "PUT", path, {"admin": False})
        self.assertEqual({}, self.does("PUT", path, {"admin": True}))
        wrong: list[Any] = [{}, {"admin": 1}, {"admin": None}, []]
        for body in wrong:
            self.refuses(400, "M_BAD_JSON", "PUT", self.admin_path("alice"), body)
        self.refuses(404, "M_NOT_FOUND", "PUT", self.admin_path("nobody"), {"admin": True})
        self.refuses(400, "M_INVALID_PARAM", "PUT", "/v1/users/@x:elsewhere.org/admin", {"admin": True})
        self.assertEqual({"admin": False}, self.does("GET", self.admin_path("alice")))

    def test_nobody_else(self) -> None:
        for method, path, body in (
            ("GET", self.admin_path("alice"), None),
            ("GET", self.admin_path("nobody"), None),
            ("PUT", self.admin_path("alice"), {"admin": True}),
            ("GET", "/v1/server_version", None),
            ("GET", f"/v1/whois/{user('alice')}", None),
        ):
            self.assert_refused(self.ask(method, path, body, who="alice"), 403, "M_FORBIDDEN")
            answer = self.app.call(method, f"/_synapse/admin{path}", body)
            self.assert_refused(answer, 401, "M_MISSING_TOKEN")
            answer = self.app.call(method, f"/_synapse/admin{path}", body, "not a token")
            self.assert_refused(answer, 401, "M_UNKNOWN_TOKEN")

    def test_the_server(self) -> None:
        self.assertRegex(self.does("GET", "/v1/server_version")["server_version"], r"^CHAOS \d")

    def test_from_where_somebody_comes(self) -> None:
        self.app.ok("GET", f"{V3}/account/whoami", token=self.tokens["alice"])
        self.app.advance(10)
        found = self.does("GET", f"/v1/whois/{user('alice')}")
        (device,) = found["devices"].values()
        self.assertEqual("192.0.2.1", device["sessions"][0]["connections"][0]["ip"])
        self.refuses(404, "M_NOT_FOUND", "GET", f"/v1/whois/{user('nobody')}")
