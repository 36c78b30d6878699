"""Apps that introduce themselves, what they are told, and what a browser may be sent here with.

spec: client-server-api#client-registration, client-server-api#redirect-uri-validation
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from homeserver.config.schema import Switch
from homeserver.oauth import clients
from homeserver.oauth.clients import Clients
from homeserver.oauth.scopes import parse_scope
from homeserver.oauth.types import AuthorizationRequest, OAuthError, RequestRefusedError, SentBackError
from homeserver.oauth.uris import check_client_uri, check_redirect, is_same
from tests.api.test_oauth_tokens import OAuthCase
from tests.support.app import TestApp, test_config
from tests.support.databases import DatabaseCase, on_each_database
from tests.support.oauth import BASE, METADATA, V3, OAuthApp, challenge, scope, told

CLIENT = "/_matrix/client"
DAY_S = 86_400


@on_each_database
class Discovery(DatabaseCase):
    def metadata(self, app: TestApp) -> Any:
        return app.ok("GET", f"{CLIENT}/v1/auth_metadata")

    def test_where_everything_is(self) -> None:
        app = TestApp(self, self.new_database(), test_config(public_url=f"{BASE}/"))
        found = self.metadata(app)
        self.assertEqual(f"{BASE}/", found["issuer"])
        for name, value in found.items():
            if name.endswith(("_endpoint", "_uri")):
                self.assertTrue(value.startswith(f"{BASE}/"), name)
        self.assertEqual(["create"], found["prompt_values_supported"])
        for path in (
            f"{CLIENT}/unstable/org.matrix.msc2965/auth_metadata",
            "/.well-known/openid-configuration",
            "/.well-known/oauth-authorization-server",
        ):
            other = app.ok("GET", path)
            actions = "account_management_actions_supported"
            self.assertLess(set(found[actions]), set(other[actions]))
            self.assertEqual({**found, actions: 0}, {**other, actions: 0})

    def test_not_where_nobody_knows_the_address(self) -> None:
        off: dict[str, Any] = {"public_url": BASE, "oauth": Switch(enabled=False)}
        below: dict[str, Any] = {"public_url": f"{BASE}/chat"}
        for changes in (dict[str, Any](), off, below):
            app = TestApp(self, self.new_database(), test_config(**changes))
            status, error = app.call("GET", f"{CLIENT}/v1/auth_metadata")
            self.assertEqual((404, "M_UNRECOGNIZED"), (status, error["errcode"]))
            self.assertEqual(404, app.call("POST", "/oauth2/register", METADATA)[0])
            self.assertEqual(200, app.call("GET", f"{V3}/login")[0])


@on_each_database
class Registering(OAuthCase):
    def register(self, **changes: Any) -> Any:
        said = {name: value for name, value in {**METADATA, **changes}.items() if value is not ...}
        return self.app.answer("POST", "/oauth2/register", said)

    def test_what_is_kept(self) -> None:
        answer = self.register(
            **{"client_name#fr": "Essai", "contacts": ["x"], "id_token_signed_response_alg": "RS256"},
            grant_types=["implicit", "refresh_token", "authorization_code"],
            token_endpoint_auth_method="client_secret_basic",
            logo_uri="https://app.example/logo.png",
            tos_uri="https://www.app.example/terms?x=1",
            policy_uri="https://app.example:8443/privacy",
        )
        self.assertEqual(201, answer.status)
        kept = dict(answer.json)
        self.assertRegex(kept.pop("client_id"), r"^[A-Z2-7]{26}$")
        self.assertEqual(
            {
                "client_name": "Tester",
                "client_uri": "https://app.example/",
                "redirect_uris": ["https://app.example/callback"],
                "grant_types": ["authorization_code", "refresh_token"],
                "response_types": ["code"],
                "token_endpoint_auth_method": "none",
                "application_type": "web",
                "logo_uri": "https://app.example/logo.png",
                "tos_uri": "https://www.app.example/terms?x=1",
                "policy_uri": "https://app.example:8443/privacy",
            },
            kept,
        )

    def test_the_same_app_is_the_same(self) -> None:
        self.assertEqual(self.oauth.client_id, self.register().json["client_id"])
        self.assertEqual(self.oauth.client_id, self.register(contacts=["new"]).json["client_id"])
        self.assertNotEqual(self.oauth.client_id, self.register(client_name="Another").json["client_id"])

    def test_what_is_wrong(self) -> None:
        cases: list[dict[str, Any]] = [
            {"client_uri": ...},
            {"client_uri": 5},
            {"client_uri": "app.example"},
            {"client_uri": "http://app.example/"},
            {"client_uri": "http://localhost/"},
            {"client_uri": "https:///path"},
            {"client_uri": "https://me@app.example/"},
            {"client_uri": "https://app.example:port/"},
            {"client_uri": "https://app.example/" + "x" * 2048},
            {"client_uri": "https://bücher.example/"},
            {"client_uri": "https://example/"},
            {"client_uri": "https://com./"},
            {"redirect_uris": [f"https://app.example/{number}{'x' * 1000}" for number in range(10)]},
            {"application_type": "desktop"},
            {"application_type": ["web"]},
            {"client_name": ""},
            {"client_name": "x" * 201},
            {"client_name": "a\nb"},
            {"client_name": {}},
            {"grant_types": "authorization_code"},
            {"grant_types": []},
            {"grant_types": ["implicit"]},
            {"grant_types": [5]},
            {"response_types": ["token"]},
            {"logo_uri": "https://other.example/logo.png"},
            {"tos_uri": "http://app.example/"},
            {"policy_uri": "javascript:alert(1)"},
            {"policy_uri": "https://notapp.example/"},
        ]
        for changes in cases:
            self.assert_refused(self.register(**changes), "invalid_client_metadata")
        for uris in ("x", [5], [], ["https://app.example/#x"], ["https://other.example/"], ["http://app.example/"],
                     ["http://localhost/"], ["https://me:pw@app.example/"], ["javascript:alert(1)"], ["/callback"],
                     ["https://app.example/a b"], ["https://app.example/"] * 21, ["x" * 3000]):  # fmt: skip
            self.assert_refused(self.register(redirect_uris=uris), "invalid_redirect_uri")
        self.assert_refused(self.register(redirect_uris=...), "invalid_redirect_uri")
        for body in (b"", b"[]", b"{", b'{"client_uri": NaN}', b"\xff"):
            self.assert_refused(self.app.answer("POST", "/oauth2/register", body), "invalid_client_metadata")

    def test_without_a_browser_nothing_comes_back(self) -> None:
        grants = ["refresh_token", "urn:ietf:params:oauth:grant-type:device_code"]
        for types, kept in ((..., ["code"]), (["code", "x"], ["code"]), ([], []), (["none"], [])):
            answer = self.register(redirect_uris=..., grant_types=grants, response_types=types)
            self.assertEqual((201, kept), (answer.status, answer.json["response_types"]))

    def test_who_is_not_used_is_forgotten(self) -> None:
        """And who is, is not. spec: client-server-api#dynamic-client-registration-flow"""
        unused = OAuthApp(self.app, client_name="Unused")
        tokens = self.oauth.log_in("@alice:test.example")
        self.app.advance(DAY_S + 1)
        self.register(client_name="New")
        self.assertIsNone(self.find(unused.client_id))
        self.assertEqual("Tester", self.find(self.oauth.client_id))
        self.assertEqual(200, self.oauth.refresh(tokens["refresh_token"]).status)

    def test_there_are_never_too_many(self) -> None:
        self.patch(clients, "UNUSED_MOST", 5)
        tokens = self.oauth.log_in("@alice:test.example")
        names = [f"App {number}" for number in range(100)]
        ids = []
        for name in names:
            self.app.advance(1)
            ids.append(self.register(client_name=name).json["client_id"])
        kept = [self.find(one) for one in ids]
        self.assertEqual([None] * 94, kept[:94])
        self.assertEqual(names[95:], kept[95:])
        self.assertEqual(200, self.oauth.refresh(tokens["refresh_token"]).status)

    def find(self, client_id: str) -> str | None:
        known: Clients = self.app.app.services.authorizing.clients
        found = self.app.wait(Deferred.fromCoroutine(known.find(client_id)))
        return None if found is None else found.name


@on_each_database
class Requests(OAuthCase):
    """What a browser comes with. spec: client-server-api#authorisation-code-flow"""

    def parse(self, **changes: Any) -> AuthorizationRequest:
        asked = {name: [value] for name, value in self.oauth.query(**changes).items()}
        return self.parse_all(asked)

    def parse_all(self, args: dict[str, list[str]]) -> AuthorizationRequest:
        requests = self.app.app.services.authorizing.requests
        return self.app.wait(Deferred.fromCoroutine(requests.parse(args)))

    def refused(self, **changes: Any) -> dict[str, str]:
        with self.assertRaises(SentBackError) as caught:
            self.parse(**changes)
        self.assertTrue(caught.exception.url.startswith(self.oauth.redirect_uri))
        return told(caught.exception.url)

    def test_a_good_one(self) -> None:
        request = self.parse(login_hint="mxid:@alice:test.example", nonce="n", prompt="create")
        self.assertEqual(
            ("APPDEVICE1", "the state", "n"), (request.scope.device_id, request.state, request.nonce)
        )
        self.assertFalse(request.wants_nobody)
        self.assertTrue(self.parse(prompt="login none").wants_nobody)
        answer = self.app.app.services.authorizing.requests.answer
        self.assertEqual(
            "https://app.example/callback?code=x&state=the+state&iss=https%3A%2F%2Fchat.test.example%2F",
            answer(request, code="x"),
        )
        request = self.parse(response_mode="fragment", state=None)
        self.assertEqual(
            f"{self.oauth.redirect_uri}#code=x&iss=https%3A%2F%2Fchat.test.example%2F",
            answer(request, code="x"),
        )
        self.assertEqual("query", self.parse(response_mode=None).mode)
        self.assertEqual(self.oauth.redirect_uri, self.parse(redirect_uri=None).redirect_uri)

    def test_nothing_is_sent_to_who_is_not_known(self) -> None:
        for changes in (
            {"client_id": None},
            {"client_id": "NOBODY"},
            {"client_id": "x" * 5000},
            {"client_id": "\0"},
            {"redirect_uri": "https://app.example/callback/"},
            {"redirect_uri": "https://app.example/callback?x"},
            {"redirect_uri": "https://evil.example/"},
            {"redirect_uri": "https://app.example:443/callback"},
            {"redirect_uri": "http://[/"},
        ):
            with self.assertRaises(RequestRefusedError):
                self.parse(**changes)
        twice = {name: [value] for name, value in self.oauth.query().items()}
        for name in ("client_id", "redirect_uri"):
            with self.assertRaises(RequestRefusedError):
                self.parse_all({**twice, name: twice[name] * 2})
        several = OAuthApp(self.app, redirect_uris=["https://app.example/a", "https://app.example/b"])
        with self.assertRaises(RequestRefusedError):
            self.parse(client_id=several.client_id, redirect_uri=None)

    def test_what_the_app_is_told(self) -> None:
        for error, changes in (
            ("invalid_request", {"response_type": None}),
            ("unsupported_response_type", {"response_type": "token"}),
            ("unsupported_response_type", {"response_type": "code id_token"}),
            ("invalid_scope", {"scope": None}),
            ("invalid_scope", {"scope": "openid"}),
            ("invalid_request", {"code_challenge": None}),
            ("invalid_request", {"code_challenge": "short"}),
            ("invalid_request", {"code_challenge_method": "plain"}),
            ("invalid_request", {"code_challenge_method": None}),
            ("invalid_request", {"response_mode": "form_post"}),
            ("invalid_request", {"nonce": "x" * 3000}),
            ("request_not_supported", {"request": "x"}),
        ):
            found = self.refused(**changes)
            self.assertEqual((error, "the state"), (found["error"], found["state"]), changes)
        found = self.refused(state="x" * 3000)
        self.assertEqual(("invalid_request", None), (found["error"], found.get("state")))
        args = {name: [value] for name, value in self.oauth.query().items()}
        with self.assertRaises(SentBackError):
            self.parse_all({**args, "scope": [scope(), scope("OTHER")]})
        device = OAuthApp(self.app, grant_types=["refresh_token"])
        self.assertEqual("unauthorized_client", self.refused(client_id=device.client_id)["error"])

    def test_the_port_of_ones_own_machine(self) -> None:
        self.oauth = OAuthApp(self.app, application_type="native", redirect_uris=["http://127.0.0.1/done"])
        self.assertEqual(
            "http://127.0.0.1:54321/done", self.parse(redirect_uri="http://127.0.0.1:54321/done").redirect_uri
        )
        for wrong in (
            "http://127.0.0.1:1/",
            "http://127.0.0.2:1/done",
            "https://127.0.0.1:1/done",
            "http://a@127.0.0.1:1/done",
        ):
            with self.assertRaises(RequestRefusedError):
                self.parse(redirect_uri=wrong)

    def test_a_port_that_was_registered(self) -> None:
        registered = "http://localhost:3001/login"
        self.oauth = OAuthApp(self.app, application_type="native", redirect_uris=[registered])
        self.assertEqual(registered, self.parse(redirect_uri=registered).redirect_uri)
        for wrong in (
            "http://localhost:3002/login",
            "http://localhost/login",
            "http://localhost:3001:1/login",
        ):
            with self.assertRaises(RequestRefusedError):
                self.parse(redirect_uri=wrong)


class Addresses(SynchronousTestCase):
    """The examples of the specification, and what comes near them."""

    def check(self, uri: str, base: str = "https://example.com/", *, native: bool = False) -> bool:
        client = check_client_uri(base, with_loopback=False)
        try:
            return check_redirect(uri, client, is_native=native) == uri
        except OAuthError as error:
            self.assertEqual("invalid_redirect_uri", error.error)
            return False

    def test_of_the_web(self) -> None:
        for uri in (
            "https://example.com/callback",
            "https://app.example.com/callback",
            "https://example.com:5173/?query=value",
        ):
            self.assertTrue(self.check(uri), uri)
        for uri in ("https://example.com/callback#fragment", "http://example.com/callback", "http://localhost/",
                    "http://localhost:1234/callback", "https://app.com/callback", "https://notexample.com/", "https://u:p@example.com/", "com.example:/"):  # fmt: skip
            self.assertFalse(self.check(uri), uri)

    def test_of_ones_own_machine(self) -> None:
        for uri in ("com.example.app:/callback", "com.example:/", "com.example:callback", "http://localhost/callback",
                    "http://127.0.0.1/callback", "http://[::1]/callback", "https://example.com/claimed",
                    "http://localhost:1234/callback", "http://[::1]:1234/callback"):  # fmt: skip
            self.assertTrue(self.check(uri, native=True), uri)
        for uri in ("example:/callback", "com.example.app://callback", "https://localhost/callback", "com.examples:/",
                    "http://a@localhost:1234/callback", "https://localhost:1234/callback", "http://192.0.2.1:1234/",
                    "javascript:/x", "http://192.0.2.1/", "org.example:/"):  # fmt: skip
            self.assertFalse(self.check(uri, native=True), uri)

    def test_development(self) -> None:
        client = check_client_uri("http://localhost:8080/", with_loopback=True)
        self.assertEqual(
            "http://localhost:8080/x", check_redirect("http://localhost:8080/x", client, is_native=False)
        )
        for uri in ("http://example.com/", "ftp://localhost/"):
            self.assertRaises(OAuthError, check_client_uri, uri, with_loopback=True)

    @given(
        st.text(max_size=40),
        st.sampled_from(["https://example.com/", "http://localhost/cb", "http://[::1]:1/", "com.example:/"]),
    )
    def test_nothing_else_is_the_same(self, text: str, registered: str) -> None:
        if is_same(text, registered):
            self.assertTrue(text == registered or text.startswith("http://localhost:"))

    @given(st.text(max_size=80))
    def test_any_scope_is_judged(self, text: str) -> None:
        for asked in (text, f"urn:matrix:client:api:* {text}", scope(text), scope("DEVICE", text)):
            found = parse_scope(asked)
            if not isinstance(found, str):
                self.assertEqual(found, replace(found, text=parse_again(found.text)))

    def test_a_challenge(self) -> None:
        """The example of RFC 7636, appendix B."""
        verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
        self.assertEqual("E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM", challenge(verifier))


def parse_again(text: str) -> str:
    """A scope that was granted is granted again as it is."""
    found = parse_scope(text)
    return found if isinstance(found, str) else found.text
