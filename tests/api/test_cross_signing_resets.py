"""New cross-signing keys for apps that logged in by OAuth 2.0. spec: client-server-api#oauth-authentication"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

from twisted.internet.defer import Deferred

from homeserver.config.schema import Switch
from homeserver.oauth.resets import LIFETIME_S
from tests.api.rooms import ALICE, BOB
from tests.api.test_cross_signing import PASSWORD, UPLOAD, CrossCase
from tests.support.app import TestApp, test_config
from tests.support.databases import on_each_database
from tests.support.keys import CrossKeys
from tests.support.oauth import BASE, FORM, OAuthApp

PAGE = f"{BASE}/account/?action=org.matrix.cross_signing_reset"
STAGES = ("m.oauth", "org.matrix.cross_signing_reset")


@on_each_database
class Resets(CrossCase):
    def make_app(self) -> TestApp:
        return TestApp(self, self.address(), test_config(public_url=BASE))

    def setUp(self) -> None:
        super().setUp()
        self.oauth = OAuthApp(self.app)
        self.token = self.oauth.log_in(ALICE, "PHONE12345")["access_token"]
        self.ok(self.token, UPLOAD, self.cross.body())
        self.other = CrossKeys(ALICE, "second").body()

    def allow(self) -> None:
        """What the page does."""
        services = self.app.app.services
        account = self.app.wait(Deferred.fromCoroutine(services.accounts.find(ALICE)))
        assert account is not None
        services.authorizing.resets.allow(account.user_nid)

    def master(self) -> Any:
        return self.keys_of(self.token, ALICE)["master_keys"]

    def assert_told(self, answer: tuple[int, Any]) -> str:
        """The way to the page; the session."""
        status, told = answer
        session: str = told.pop("session")
        self.assertEqual(
            (
                401,
                {
                    "flows": [{"stages": [stage]} for stage in STAGES],
                    "params": {stage: {"url": PAGE} for stage in STAGES},
                },
            ),
            (status, told),
        )
        return session

    def test_allowed_on_the_page(self) -> None:
        session = self.assert_told(self.post(self.token, UPLOAD, self.other))
        asked = {**self.other, "auth": {"session": session}}
        # Before it is allowed, asking again is no failure.
        for auth in ({"session": session}, *({"session": session, "type": stage} for stage in STAGES)):
            self.assertEqual(
                session, self.assert_told(self.post(self.token, UPLOAD, {**self.other, "auth": auth}))
            )
        self.allow()
        self.assertEqual((200, {}), self.post(self.token, UPLOAD, asked))
        self.assertEqual(self.other["master_key"], self.master())
        # The answer may have been lost.
        self.assertEqual((200, {}), self.post(self.token, UPLOAD, asked))
        # Once was allowed, and no more.
        self.assert_told(self.post(self.token, UPLOAD, CrossKeys(ALICE, "third").body()))

    def test_without_the_session(self) -> None:
        """COMPAT(matrix-rust-sdk): it asks twice a second with the keys alone."""
        self.assert_told(self.post(self.token, UPLOAD, self.other))
        self.allow()
        self.assertEqual((200, {}), self.post(self.token, UPLOAD, self.other))

    def test_too_late(self) -> None:
        self.allow()
        self.app.advance(LIFETIME_S)
        self.token = self.oauth.log_in(ALICE, "PHONE12345")["access_token"]
        self.assert_told(self.post(self.token, UPLOAD, self.other))
        self.allow()
        self.app.advance(LIFETIME_S - 10)
        self.token = self.oauth.log_in(ALICE, "PHONE12345")["access_token"]
        self.app.advance(9)
        self.assertEqual((200, {}), self.post(self.token, UPLOAD, self.other))

    def test_for_nobody_else(self) -> None:
        self.allow()
        bob = self.oauth.log_in(BOB, "BOBSPHONE1")["access_token"]
        self.ok(bob, UPLOAD, CrossKeys(BOB).body())
        self.assert_told(self.post(bob, UPLOAD, CrossKeys(BOB, "second").body()))

    def test_what_is_refused_uses_nothing_up(self) -> None:
        self.allow()
        broken = {**self.other, "self_signing_key": {**self.other["self_signing_key"], "signatures": {}}}
        self.assert_refused(self.post(self.token, UPLOAD, broken), 400, "M_INVALID_SIGNATURE")
        self.assertEqual((200, {}), self.post(self.token, UPLOAD, self.other))

    def test_a_password_is_not_asked_for(self) -> None:
        session = self.assert_told(self.post(self.token, UPLOAD, self.other))
        answer = self.post(self.token, UPLOAD, {**self.other, "auth": {**PASSWORD, "session": session}})
        self.assert_refused(answer, 401, "M_UNRECOGNIZED")
        self.assertEqual(self.cross.key("master"), self.master())

    def test_legacy_logins_show_their_password(self) -> None:
        self.allow()
        status, told = self.post(self.alice, UPLOAD, self.other)
        self.assertEqual((401, [{"stages": ["m.login.password"]}]), (status, told["flows"]))
        self.assertEqual((200, {}), self.confirmed(self.other))
        # And use up nothing of what is for the others.
        self.assertEqual((200, {}), self.post(self.token, UPLOAD, CrossKeys(ALICE, "third").body()))

    def test_other_endpoints_take_the_password(self) -> None:
        status, told = self.post(self.token, "/delete_devices", {"devices": ["PHONE12345"]})
        self.assertEqual((401, [{"stages": ["m.login.password"]}]), (status, told["flows"]))
        body = {"devices": ["PHONE12345"], "auth": {**PASSWORD, "session": told["session"]}}
        self.assertEqual((200, {}), self.post(self.token, "/delete_devices", body))

    def test_on_the_fallback_page(self) -> None:
        for number, stage in enumerate(STAGES):
            other = CrossKeys(ALICE, f"number {number}").body()
            session = self.assert_told(self.post(self.token, UPLOAD, other))
            path = f"/_matrix/client/v3/auth/{stage}/fallback/web?session={session}"
            page = self.app.answer("GET", path)
            self.assertEqual(200, page.status)
            self.assertIn(f'href="{PAGE}"', page.body.decode())
            self.assertEqual(401, self.app.answer("POST", path, b"", headers=FORM).status)
            self.allow()
            done = self.app.answer("POST", path, b"", headers=FORM)
            self.assertEqual(200, done.status)
            self.assertIn("Confirmed", done.body.decode())
            answer = self.post(self.token, UPLOAD, {**other, "auth": {"session": session}})
            self.assertEqual((200, {}), answer)

    def test_the_page_is_where_the_metadata_say(self) -> None:
        metadata = self.app.ok("GET", "/_matrix/client/v1/auth_metadata")
        parts = urlsplit(PAGE)
        self.assertEqual(metadata["account_management_uri"], PAGE.removesuffix(f"?{parts.query}"))
        self.assertIn(parse_qs(parts.query)["action"][0], metadata["account_management_actions_supported"])

    def test_where_oauth_was_switched_off_since(self) -> None:
        """There is no page any more."""
        self.app.config = test_config(public_url=BASE, oauth=Switch(enabled=False))
        self.app.restart()
        status, told = self.post(self.token, UPLOAD, self.other)
        self.assertEqual((401, [{"stages": ["m.login.password"]}]), (status, told["flows"]))
