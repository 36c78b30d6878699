"""Versions, capabilities and the well-known documents. spec: client-server-api#server-discovery"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from twisted.trial import unittest

from homeserver.api.client.wellknown import WellKnownApi
from homeserver.config.schema import Contact, Federation, Listener, Support, TlsFiles
from homeserver.http.errors import MatrixError
from homeserver.http.request import Headers, Request
from homeserver.http.route import Match
from scripts.spec_coverage import declined
from tests.support.accounts import WorldCase, default_config, now
from tests.support.app import TestApp, test_config
from tests.support.databases import on_each_database


@on_each_database
class Discovery(WorldCase):
    def setUp(self) -> None:
        self.world = self.make()

    def test_versions(self) -> None:
        answer = self.world.call("GET", "/versions")
        self.assertEqual(200, answer.status)
        # Old ones too: some clients know no newer.
        self.assertEqual([f"v1.{minor}" for minor in range(1, 20)], answer.json["versions"])
        self.assertIs(True, answer.json["unstable_features"]["uk.tcpip.msc4133"])

    def test_cross_signing_is_named_for_who_looks_for_it(self) -> None:
        """Element Web makes no keys for a new account where it is not."""
        features = self.world.call("GET", "/versions").json["unstable_features"]
        self.assertIs(True, features["org.matrix.e2e_cross_signing"])

    def test_versions_with_a_token(self) -> None:
        token = self.world.token_of("alice")
        self.assertEqual(200, self.world.call("GET", "/versions", token=token).status)
        refused = self.world.call("GET", "/versions", token="nonsense")
        self.assertEqual((401, "M_UNKNOWN_TOKEN"), (refused.status, refused.errcode))

    def test_capabilities(self) -> None:
        found = self.world.call("GET", "/v3/capabilities", token=self.world.token_of("alice")).json[
            "capabilities"
        ]
        self.assertEqual("12", found["m.room_versions"]["default"])
        self.assertEqual({"stable"}, set(found["m.room_versions"]["available"].values()))
        self.assertEqual({"enabled": True}, found["m.get_login_token"])
        self.assertEqual({"enabled": False}, found["m.3pid_changes"])
        self.assertEqual("M_MISSING_TOKEN", self.world.call("GET", "/v3/capabilities").errcode)


class SupportPage(unittest.TestCase):
    def test_over_the_router(self) -> None:
        contact = Contact(role="m.role.admin", matrix_id="@admin:test.example")
        told = TestApp(self, config=test_config(support=Support(contacts=(contact,))))
        expected = {"contacts": [{"role": "m.role.admin", "matrix_id": "@admin:test.example"}]}
        self.assertEqual(expected, told.ok("GET", "/.well-known/matrix/support"))
        status, json = TestApp(self).call("GET", "/.well-known/matrix/support")
        self.assertEqual((404, "M_NOT_FOUND"), (status, json["errcode"]))


class Declined(unittest.TestCase):
    def test_what_is_for_other_servers_is_unknown_here(self) -> None:
        app = TestApp(self)
        found = sorted(declined())
        self.assertIn(("GET", "/_matrix/client/v3/login/sso/redirect"), found)
        for method, path in found:
            status, json = app.call(method, path.replace("{}", "x"))
            # spec: client-server-api#common-error-codes
            self.assertEqual((404, "M_UNRECOGNIZED"), (status, json["errcode"]), path)
        kinds = {flow["type"] for flow in app.ok("GET", "/_matrix/client/v3/login")["flows"]}
        self.assertNotIn("m.login.sso", kinds)


class WellKnown(unittest.TestCase):
    def get(self, name: str, **changes: Any) -> tuple[int, Any]:
        api = WellKnownApi(default_config(**changes), {"im.chaos.x": 1})
        route = next(route for route in api.routes() if route.template.endswith(f"/{name}"))
        request = Request(
            "GET", b"/", Headers(), match=Match(route), serve=frozenset(), client_ip="192.0.2.1"
        )
        try:
            body = now(route.handler(request))
        except MatrixError as error:
            return error.status, error.errcode
        return 200, body.decode()

    def test_client(self) -> None:
        expected = '{"m.homeserver":{"base_url":"https://home.example"},"im.chaos.x":1}'
        self.assertEqual((200, expected), self.get("client"))
        self.assertIn("https://chat.example", self.get("client", public_url="https://chat.example/")[1])

    def test_what_the_administrator_adds(self) -> None:
        added = {"im.chaos.x": 2, "io.element.e2ee": {"default": False}}
        self.assertEqual({**added, "m.homeserver": {"base_url": "https://home.example"}}, self.client(added))
        self.assertNotIn("im.chaos.x", self.client({"im.chaos.x": None}))

    def client(self, added: dict[str, Any]) -> Any:
        return msgspec.json.decode(self.get("client", client_well_known=added)[1])

    def test_dehydrated_devices_are_offered(self) -> None:
        """Without this key Element makes none."""
        self.assertIs(True, TestApp(self).ok("GET", "/.well-known/matrix/client")["org.matrix.msc3814"])

    def test_server(self) -> None:
        self.assertEqual((404, "M_NOT_FOUND"), self.get("server"))
        for public_url, expected in (
            ("https://chat.example", (200, '{"m.server":"chat.example:443"}')),
            ("https://chat.example:8443/x", (200, '{"m.server":"chat.example:8443"}')),
            ("https://[2001:db8::1]", (200, '{"m.server":"[2001:db8::1]:443"}')),
            ("http://chat.example", (404, "M_NOT_FOUND")),
        ):
            self.assertEqual(expected, self.get("server", public_url=public_url))
        self.assertEqual(404, self.get("server", public_url="https://home.example:8448")[0])
        closed = Federation(enabled=False)
        self.assertEqual(404, self.get("server", public_url="https://chat.example", federation=closed)[0])

    def test_server_by_its_listeners(self) -> None:
        files = TlsFiles(Path("a"), Path("b"))
        proxied, clients = Listener(8008), Listener(8008, serve=("client",))

        def direct(port: int) -> Listener:
            return Listener(port, tls=files, serve=("federation",))

        public = "https://chat.example"
        for listeners, public_url, expected in (
            # Directly reached, at the port of HTTPS or at that of federation.
            ((direct(443),), None, "home.example:443"),
            ((direct(8448),), None, None),
            ((direct(443), direct(8448)), None, None),
            ((clients, direct(8448)), None, None),
            # The public address serves clients alone: federation is at its own port there.
            ((clients, direct(8448)), public, "chat.example:8448"),
            ((clients, direct(9000)), public, "chat.example:9000"),
            ((clients, direct(8448)), "https://home.example", None),
            ((clients, direct(443)), public, "chat.example:443"),
            # A proxy passes both on.
            ((proxied, direct(8448)), public, "chat.example:443"),
            # Nobody serves it.
            ((clients,), public, None),
        ):
            status, body = self.get("server", listeners=listeners, public_url=public_url)
            self.assertEqual(404 if expected is None else 200, status, (listeners, public_url, body))
            if expected is not None:
                self.assertEqual(f'{{"m.server":"{expected}"}}', body)

    def test_support(self) -> None:
        self.assertEqual((404, "M_NOT_FOUND"), self.get("support"))
        contacts = (
            Contact(matrix_id="@admin:other.example"),
            Contact("m.role.security", "@sec:home.example", "security@home.example"),
        )
        expected = (
            '{"contacts":[{"role":"m.role.admin","matrix_id":"@admin:other.example"},'
            '{"role":"m.role.security","matrix_id":"@sec:home.example","email_address":"security@home.example"}]'
        )
        self.assertEqual((200, expected + "}"), self.get("support", support=Support(contacts)))
        self.assertEqual(
            (200, expected + ',"support_page":"https://x"}'),
            self.get("support", support=Support(contacts, "https://x")),
        )
        self.assertEqual(
            (200, '{"support_page":"https://x"}'), self.get("support", support=Support((), "https://x"))
        )
