"""Tokens by OAuth 2.0: codes, refreshing, revoking. spec: client-server-api#oauth-20-api"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

from joserfc import jwt
from joserfc.jwk import KeySet
from twisted.internet.defer import Deferred

from homeserver.config.schema import RateLimit, RateLimits, Registration
from homeserver.db.errors import DatabaseUnavailable
from homeserver.store import devices
from homeserver.store.users import set_admin
from tests.support.app import TestApp, test_config
from tests.support.databases import DatabaseCase, on_each_database
from tests.support.oauth import BASE, FORM, V3, OAuthApp, scope

ALICE = "@alice:test.example"
CLIENT = "/_matrix/client"
DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"


class OAuthCase(DatabaseCase):
    """A server with alice, and an app."""

    def setUp(self) -> None:
        super().setUp()
        self.app = TestApp(self, self.new_database(), test_config(public_url=BASE))
        self.legacy = self.app.register("alice")
        self.oauth = OAuthApp(self.app)

    def whoami(self, token: str) -> tuple[int, Any]:
        return self.app.call("GET", f"{V3}/account/whoami", token=token)

    def devices(self) -> dict[str, Any]:
        found = self.app.ok("GET", f"{V3}/devices", token=self.legacy)["devices"]
        return {one["device_id"]: one for one in found}

    def assert_refused(self, answer: Any, error: str, status: int = 400) -> None:
        self.assertEqual((status, error), (answer.status, answer.json.get("error")), answer.json)
        self.assertTrue(answer.json["error_description"])
        self.assertEqual("no-store", answer.headers["cache-control"])


@on_each_database
class Codes(OAuthCase):
    def test_a_code_becomes_a_login(self) -> None:
        answer = self.oauth.exchange(self.oauth.code(ALICE, "PHONE12345"))
        self.assertEqual(200, answer.status, answer.json)
        self.assertEqual("no-store", answer.headers["cache-control"])
        tokens = answer.json
        self.assertEqual(
            ("Bearer", 300, scope("PHONE12345")),
            tuple(tokens[one] for one in ("token_type", "expires_in", "scope")),
        )
        self.assertNotIn("id_token", tokens)
        self.assertEqual((200, ALICE, "PHONE12345"), self._who(tokens["access_token"]))
        self.assertEqual("Tester", self.devices()["PHONE12345"]["display_name"])
        self.app.advance(301)
        status, error = self.whoami(tokens["access_token"])
        self.assertEqual((401, "M_UNKNOWN_TOKEN", True), (status, error["errcode"], error["soft_logout"]))

    def _who(self, token: str) -> tuple[int, str, str]:
        status, who = self.whoami(token)
        return status, who["user_id"], who["device_id"]

    def test_whose_code_it_is(self) -> None:
        other = OAuthApp(self.app, client_name="Other")
        code = self.oauth.code(ALICE)
        self.assertNotEqual(self.oauth.client_id, other.client_id)
        self.assert_refused(other.exchange(code), "invalid_grant")
        self.assert_refused(self.oauth.exchange(code, client_id="NOBODY"), "invalid_client", 401)
        self.assert_refused(
            self.oauth.exchange(code, redirect_uri="https://app.example/other"), "invalid_grant"
        )
        self.assert_refused(self.oauth.exchange(code, code_verifier="w" * 43), "invalid_grant")
        self.assert_refused(self.oauth.exchange(code, code_verifier="short"), "invalid_grant")
        self.assert_refused(self.oauth.exchange(code, code_verifier="ü" * 43), "invalid_grant")
        self.assert_refused(self.oauth.exchange(code, code_verifier=None), "invalid_request")
        self.assert_refused(self.oauth.exchange(code, client_id=None), "invalid_request")
        self.assert_refused(self.oauth.exchange("x" + code), "invalid_grant")
        self.assertEqual(200, self.oauth.exchange(code).status)

    def test_a_code_is_soon_over(self) -> None:
        code = self.oauth.code(ALICE)
        self.app.advance(301)
        self.assert_refused(self.oauth.exchange(code), "invalid_grant")

    def test_who_brings_a_code_twice_ends_the_login(self) -> None:
        code = self.oauth.code(ALICE)
        token = self.oauth.exchange(code).json["access_token"]
        self.assertEqual(200, self.whoami(token)[0])
        self.assert_refused(self.oauth.exchange(code), "invalid_grant")
        self.assertEqual(401, self.whoami(token)[0])
        self.assertNotIn("APPDEVICE1", self.devices())
        self.assert_refused(self.oauth.exchange(code), "invalid_grant")

    def test_a_device_that_is_there_loses_its_tokens(self) -> None:
        first = self.oauth.log_in(ALICE)
        second = self.oauth.log_in(ALICE)
        self.assertEqual(
            (401, 200), (self.whoami(first["access_token"])[0], self.whoami(second["access_token"])[0])
        )
        self.assert_refused(self.oauth.refresh(first["refresh_token"]), "invalid_grant")
        self.assertEqual(200, self.whoami(second["access_token"])[0])
        login = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": "alice"},
            "password": "correct horse",
        }
        legacy = self.app.ok("POST", f"{V3}/login", {**login, "device_id": "APPDEVICE1"})["access_token"]
        self.assertEqual(401, self.whoami(second["access_token"])[0])
        self.assert_refused(self.oauth.refresh(second["refresh_token"]), "invalid_grant")
        self.assertEqual(200, self.whoami(legacy)[0])

    def test_who_may_not_log_in(self) -> None:
        code = self.oauth.code(ALICE)
        self.app.ok("PUT", f"{CLIENT}/v1/admin/lock/{ALICE}", {"locked": True}, self._admin())
        self.assert_refused(self.oauth.exchange(code), "invalid_grant")
        self.app.ok("PUT", f"{CLIENT}/v1/admin/lock/{ALICE}", {"locked": False}, self._admin())
        tokens = self.oauth.exchange(code).json
        # Who is logged in stays so, or the app would forget its keys; and can do nothing.
        self.app.ok("PUT", f"{CLIENT}/v1/admin/lock/{ALICE}", {"locked": True}, self._admin())
        tokens = self.oauth.refresh(tokens["refresh_token"]).json
        status, error = self.whoami(tokens["access_token"])
        self.assertEqual((401, "M_USER_LOCKED", True), (status, error["errcode"], error["soft_logout"]))
        self.app.ok("PUT", f"{CLIENT}/v1/admin/lock/{ALICE}", {"locked": False}, self._admin())
        self.assertEqual(200, self.whoami(tokens["access_token"])[0])
        code = self.oauth.code(ALICE)
        auth = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": "alice"},
            "password": "correct horse",
        }
        self.app.ok("POST", f"{V3}/account/deactivate", {"auth": auth}, self.legacy)
        self.assert_refused(self.oauth.exchange(code), "invalid_grant")

    def _admin(self) -> str:
        if not hasattr(self, "admin"):
            self.admin = self.app.register("root")
            find = self.app.app.services.accounts.find("@root:test.example")
            account = self.app.wait(Deferred.fromCoroutine(find))
            assert account is not None
            self.app.wait(self.app.app.core.committer.work(set_admin, account.user_nid, True))
        return self.admin

    def test_forms_that_are_none(self) -> None:
        path = "/oauth2/token"
        for body, headers in (
            (b"grant_type=refresh_token", {"Content-Type": "application/json"}),
            (b"grant_type=a&grant_type=b", None),
            (b"", None),
            (b"grant_type=", None),
            (b"grant_type=refresh_token", None),
            (b"grant_type=refresh_token&client_id=x&refresh_token=%00", None),
        ):
            kind = headers or {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
            self.assert_refused(self.app.answer("POST", path, body, headers=kind), "invalid_request")
        self.assert_refused(self.oauth.token(grant_type="password"), "unsupported_grant_type")
        self.assert_refused(self.oauth.token(grant_type="client_credentials"), "unsupported_grant_type")

    def test_too_many_devices(self) -> None:
        self.patch(devices, "MAX_DEVICES_PER_USER", 1)
        self.assert_refused(self.oauth.exchange(self.oauth.code(ALICE)), "access_denied")

    def test_the_end_of_all_logins_ends_what_was_allowed(self) -> None:
        code = self.oauth.code(ALICE)
        self.app.ok("POST", f"{V3}/logout/all", token=self.legacy)
        self.assert_refused(self.oauth.exchange(code), "invalid_grant")


@on_each_database
class Refreshing(OAuthCase):
    def test_tokens_anew(self) -> None:
        first = self.oauth.log_in(ALICE)
        self.app.advance(301)
        answer = self.oauth.refresh(first["refresh_token"])
        self.assertEqual(200, answer.status, answer.json)
        second = answer.json
        self.assertEqual(scope(), second["scope"])
        self.assertEqual(200, self.whoami(second["access_token"])[0])
        self.assertEqual(5, len({*first.values(), *second.values()} - {"Bearer", 300}))

    def test_an_answer_that_was_lost(self) -> None:
        """The old token is good until the new one is used."""
        first = self.oauth.log_in(ALICE)["refresh_token"]
        lost = self.oauth.refresh(first).json
        self.app.advance(10)
        again = self.oauth.refresh(first).json
        self.assertNotEqual(lost["access_token"], again["access_token"])
        self.assertEqual(200, self.whoami(again["access_token"])[0])

    def test_two_at_once(self) -> None:
        """Two processes of one app come with the same token, and then again: neither looks like a thief."""
        token = self.oauth.log_in(ALICE)["refresh_token"]
        for _ in range(2):
            form = {"grant_type": "refresh_token", "client_id": self.oauth.client_id, "refresh_token": token}
            both = [
                self.app.http.call("POST", "/oauth2/token", urlencode(form).encode(), headers=FORM)
                for _ in "ab"
            ]
            first, second = (self.app.wait(one).json for one in both)
            self.assertEqual(first, second)
            self.assertEqual(200, self.whoami(first["access_token"])[0])
            token = second["refresh_token"]
        self.assertIn("APPDEVICE1", self.devices())

    def test_one_after_the_other(self) -> None:
        """The second process was slower: the first uses already what it got."""
        first = self.oauth.log_in(ALICE)["refresh_token"]
        second = self.oauth.refresh(first).json
        self.assertEqual(200, self.whoami(second["access_token"])[0])
        self.app.advance(9.5)
        again = self.oauth.refresh(first).json
        self.assertEqual({**second, "expires_in": 291}, again)
        self.assertEqual(200, self.oauth.refresh(again["refresh_token"]).status)
        # What both have is the new pair; who comes with one of before that is a thief.
        self.assert_refused(self.oauth.refresh(first), "invalid_grant")
        self.assertNotIn("APPDEVICE1", self.devices())

    def test_the_old_api_does_not_repeat_it(self) -> None:
        first = self.oauth.log_in(ALICE)["refresh_token"]
        second = self.oauth.refresh(first).json
        old = self.app.answer("POST", f"{V3}/refresh", {"refresh_token": first})
        self.assertEqual((401, "M_UNKNOWN_TOKEN"), (old.status, old.errcode))
        self.assertEqual(200, self.whoami(second["access_token"])[0])

    def test_to_revoke_what_was_replaced_ends_nothing(self) -> None:
        first = self.oauth.log_in(ALICE)["refresh_token"]
        second = self.oauth.refresh(first).json
        self.assertEqual(200, self.whoami(second["access_token"])[0])
        self.assertEqual(200, self.oauth.revoke(first).status)
        self.assertEqual(200, self.whoami(second["access_token"])[0])

    def test_a_token_that_was_stolen_ends_the_login(self) -> None:
        first = self.oauth.log_in(ALICE)["refresh_token"]
        second = self.oauth.refresh(first).json
        self.assertEqual(200, self.whoami(second["access_token"])[0])
        self.app.advance(10)
        self.assert_refused(self.oauth.refresh(first), "invalid_grant")
        self.assertEqual(401, self.whoami(second["access_token"])[0])
        self.assert_refused(self.oauth.refresh(second["refresh_token"]), "invalid_grant")
        self.assertNotIn("APPDEVICE1", self.devices())

    def test_whose_token_it_is(self) -> None:
        token = self.oauth.log_in(ALICE)["refresh_token"]
        other = OAuthApp(self.app, client_name="Other")
        self.assert_refused(other.refresh(token), "invalid_grant")
        for wrong in ("x", "chaosr_", "chaosr_" + "x" * 22, "chaosr_" + "x" * 60, token[:-1], "y" + token):
            answer = self.oauth.refresh(wrong)
            self.assertEqual((400, "invalid_grant"), (answer.status, answer.json["error"]), wrong)
            if wrong == token[:-1]:
                break  # it begins like one of the login's: that is over now
        self.assertNotIn("APPDEVICE1", self.devices())

    def test_each_api_refreshes_its_own(self) -> None:
        """Else a token would leave what tells that one was stolen, and the app that it is bound to."""
        mine = self.oauth.log_in(ALICE)
        old = self.app.answer("POST", f"{V3}/refresh", {"refresh_token": mine["refresh_token"]})
        self.assertEqual((401, "M_UNKNOWN_TOKEN"), (old.status, old.errcode))
        self.assertEqual(200, self.oauth.refresh(mine["refresh_token"]).status)
        login = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": "alice"},
            "password": "correct horse",
            "refresh_token": True,
        }
        theirs = self.app.ok("POST", f"{V3}/login", login)["refresh_token"]
        self.assert_refused(self.oauth.refresh(theirs), "invalid_grant")
        self.app.ok("POST", f"{V3}/refresh", {"refresh_token": theirs})

    def test_refresh_tokens_that_are_over(self) -> None:
        config = self.app.config
        self.app.config = replace(config, sessions=replace(config.sessions, refresh_token_lifetime_s=3600))
        self.app.restart()
        token = self.oauth.log_in(ALICE)["refresh_token"]
        self.app.advance(3601)
        self.assert_refused(self.oauth.refresh(token), "invalid_grant")
        self.assertIn("APPDEVICE1", self.devices())

    def test_a_restart(self) -> None:
        code = self.oauth.code(ALICE)
        self.app.restart()
        tokens = self.oauth.exchange(code).json
        self.app.restart()
        self.assertEqual(200, self.oauth.refresh(tokens["refresh_token"]).status)


@on_each_database
class Passing(OAuthCase):
    """Apps forget their keys at a 4xx, and some at any `error` in JSON: what passes by itself must be neither."""

    def assert_passing(self, answer: Any, retry_after_s: int) -> None:
        told = (answer.status, answer.body, answer.headers["retry-after"])
        self.assertEqual((503, b"{}", str(retry_after_s)), told)
        self.assertEqual("no-store", answer.headers["cache-control"])
        self.assertNotIn("content-type", answer.headers)

    def test_while_the_database_is_away(self) -> None:
        token = self.oauth.log_in(ALICE)["refresh_token"]

        def refuse(_: str) -> None:
            raise DatabaseUnavailable("gone")

        self.app.engine.hook = refuse
        self.assert_passing(self.oauth.refresh(token), 5)
        self.assert_passing(self.oauth.revoke(token), 5)
        self.app.engine.hook = None
        self.app.log.entries.clear()
        self.assertEqual(200, self.oauth.refresh(token).status)

    def test_beyond_the_limit(self) -> None:
        token = self.oauth.log_in(ALICE)["refresh_token"]
        limits = RateLimits(write=RateLimit(0.5, 2), login=RateLimit(0.5, 1))
        self.app.app.reload(replace(self.app.config, rate_limits=limits))
        for _ in range(2):
            self.assert_refused(self.oauth.token(grant_type="password"), "unsupported_grant_type")
        self.assert_passing(self.oauth.refresh(token), 2)
        self.assert_passing(self.oauth.revoke(token), 2)
        self.assert_passing(self.app.answer("POST", "/oauth2/register", {}), 2)
        self.assert_passing(self.app.answer("GET", "/oauth2/keys.json"), 2)
        self.assertEqual(400, self.oauth.post("/oauth2/device").status)
        self.assert_passing(self.oauth.post("/oauth2/device"), 2)
        self.app.advance(2)
        self.assertEqual(200, self.oauth.refresh(token).status)

    def test_what_does_not_pass_is_told_as_apps_know_it(self) -> None:
        for path in ("/oauth2/token", "/oauth2/revoke", "/oauth2/device", "/oauth2/register"):
            answer = self.app.answer("POST", path, b"a=" + b"x" * 40_000, headers=FORM)
            self.assert_refused(answer, "invalid_request", 413)


@on_each_database
class Revoking(OAuthCase):
    def test_by_either_token(self) -> None:
        for name, hint in (
            ("access_token", "access_token"),
            ("refresh_token", None),
            ("access_token", "refresh_token"),
        ):
            tokens = self.oauth.log_in(ALICE)
            answer = self.oauth.revoke(tokens[name], token_type_hint=hint, client_id=self.oauth.client_id)
            self.assertEqual((200, {}), (answer.status, answer.json))
            self.assertEqual(401, self.whoami(tokens["access_token"])[0])
            self.assert_refused(self.oauth.refresh(tokens["refresh_token"]), "invalid_grant")
            self.assertNotIn("APPDEVICE1", self.devices())

    def test_what_is_no_token(self) -> None:
        self.assertEqual(200, self.oauth.revoke("unknown").status)
        self.assert_refused(self.oauth.post("/oauth2/revoke", client_id="x"), "invalid_request")

    def test_whoever_finds_one_may_end_it(self) -> None:
        """spec: client-server-api#token-revocation (without, or with another client_id: a leak is to be stopped)"""
        token = self.oauth.log_in(ALICE)["access_token"]
        self.assertEqual(200, self.oauth.revoke(token, client_id="somebody else").status)
        self.assertEqual(401, self.whoami(token)[0])

    def test_logins_of_the_other_api_end_too(self) -> None:
        """Element lets somebody back in by a password, and revokes here when they sign out."""
        for name in ("access_token", "refresh_token"):
            self.oauth.log_in(ALICE)
            body = {
                "type": "m.login.password",
                "identifier": {"type": "m.id.user", "user": "alice"},
                "password": "correct horse",
                "device_id": "APPDEVICE1",
                "refresh_token": True,
            }
            back = self.app.ok("POST", f"{V3}/login", body)
            self.assertEqual(200, self.oauth.revoke(back[name]).status)
            self.assertEqual(401, self.whoami(back["access_token"])[0])
            self.assertNotIn("APPDEVICE1", self.devices())

    def test_a_token_without_a_device(self) -> None:
        services = self.app.app.services
        account = self.app.wait(Deferred.fromCoroutine(services.accounts.find(ALICE)))
        assert account is not None
        lone = services.sessions.log_in_as(account.user_nid, None)
        token = self.app.wait(Deferred.fromCoroutine(lone))
        self.assertEqual(200, self.whoami(token)[0])
        self.assertEqual(200, self.oauth.revoke(token).status)
        self.assertEqual(401, self.whoami(token)[0])
        self.assertEqual(200, self.whoami(self.legacy)[0])


@on_each_database
class Identity(OAuthCase):
    def test_id_tokens(self) -> None:
        """For apps that ask for `openid`, under the scope's names of before too."""
        old = "openid urn:matrix:org.matrix.msc2967.client:api:* urn:matrix:org.matrix.msc2967.client:device:OLDNAME123"
        tokens = self.oauth.log_in(ALICE, scope=old, nonce="once")
        self.assertEqual(
            (old, "OLDNAME123"), (tokens["scope"], self.whoami(tokens["access_token"])[1]["device_id"])
        )
        keys = KeySet.import_key_set(self.app.ok("GET", "/oauth2/keys.json"))
        claims = jwt.decode(tokens["id_token"], keys, algorithms=["RS256"]).claims
        now_s = int(self.app.time.seconds())
        wanted = {"iss": f"{BASE}/", "sub": ALICE, "aud": self.oauth.client_id, "nonce": "once", "iat": now_s}
        self.assertEqual({**wanted, "exp": now_s + 3600}, claims)
        self.assertEqual(
            {"kty", "n", "e", "kid", "use", "alg"}, set(self.app.ok("GET", "/oauth2/keys.json")["keys"][0])
        )

    def test_the_key_outlives_a_restart(self) -> None:
        before = self.app.ok("GET", "/oauth2/keys.json")
        self.app.restart()
        self.assertEqual(before, self.app.ok("GET", "/oauth2/keys.json"))

    def test_without_a_nonce(self) -> None:
        token = self.oauth.log_in(ALICE, scope=scope("APPDEVICE1", "openid"))["id_token"]
        payload = token.split(".")[1]
        claims = json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        self.assertNotIn("nonce", claims)


@on_each_database
class Devices(OAuthCase):
    """Devices without a browser. spec: client-server-api#device-authorisation-flow, RFC 8628"""

    def begin(self, **changes: Any) -> Any:
        return self.oauth.post(
            "/oauth2/device", **{"client_id": self.oauth.client_id, "scope": scope("TELEVISION"), **changes}
        )

    def poll(self, code: str, **changes: Any) -> Any:
        return self.oauth.token(**{"grant_type": DEVICE_CODE, "device_code": code, **changes})

    def decide(self, user_code: str, *, allowed: bool) -> bool:
        services = self.app.app.services

        async def act() -> bool:
            asked = await services.authorizing.grants.find_device_request(user_code)
            account = await services.accounts.find(ALICE)
            if asked is None or account is None:
                return False
            return await services.authorizing.grants.decide_device(asked.user_code, account, allowed=allowed)

        return self.app.wait(Deferred.fromCoroutine(act()))

    def test_the_whole_way(self) -> None:
        answer = self.begin()
        self.assertEqual(200, answer.status, answer.json)
        told = answer.json
        self.assertRegex(told["user_code"], r"^[BCDFGHJKLMNPQRSTVWXZ]{4}-[BCDFGHJKLMNPQRSTVWXZ]{4}$")
        self.assertEqual(f"{BASE}/oauth2/link", told["verification_uri"])
        self.assertEqual(
            f"{BASE}/oauth2/link?user_code={told['user_code']}", told["verification_uri_complete"]
        )
        self.assertEqual((1200, 5), (told["expires_in"], told["interval"]))
        self.assert_refused(self.poll(told["device_code"]), "authorization_pending")
        self.assert_refused(self.poll(told["device_code"]), "slow_down")
        self.app.advance(5)
        self.assert_refused(self.poll(told["device_code"]), "authorization_pending")
        self.assertTrue(self.decide(told["user_code"].lower().replace("-", " "), allowed=True))
        self.assertFalse(self.decide(told["user_code"], allowed=False))
        tokens = self.poll(told["device_code"]).json
        self.assertEqual(scope("TELEVISION"), tokens["scope"])
        self.assertEqual("TELEVISION", self.whoami(tokens["access_token"])[1]["device_id"])
        self.assertEqual(200, self.oauth.refresh(tokens["refresh_token"]).status)
        self.assert_refused(self.poll(told["device_code"]), "invalid_grant")

    def test_refused_and_over(self) -> None:
        told = self.begin().json
        self.assertTrue(self.decide(told["user_code"], allowed=False))
        self.assert_refused(self.poll(told["device_code"]), "access_denied")
        self.assert_refused(self.poll(told["device_code"]), "invalid_grant")
        told = self.begin().json
        self.app.advance(1201)
        self.assert_refused(self.poll(told["device_code"]), "expired_token")
        self.assertFalse(self.decide(told["user_code"], allowed=True))

    def test_what_is_wrong(self) -> None:
        self.assert_refused(self.begin(client_id=None), "invalid_request")
        self.assert_refused(self.begin(client_id="NOBODY"), "invalid_client", 401)
        for wrong in ("", "openid", "urn:matrix:client:api:*", "urn:matrix:client:device:X", scope("A") + " urn:matrix:client:device:B",
                      scope(""), scope("x" * 256), "a  b", scope('"')):  # fmt: skip
            self.assert_refused(self.begin(scope=wrong), "invalid_scope")
        web = OAuthApp(self.app, grant_types=["authorization_code", "refresh_token"])
        self.assert_refused(self.begin(client_id=web.client_id), "unauthorized_client")
        told = self.begin().json
        self.assert_refused(self.poll(told["device_code"], client_id=web.client_id), "invalid_grant")
        for typed in ("", "ABCD", "BBBB-BBBB", "A" * 1000, "\0"):
            self.assertFalse(self.decide(typed, allowed=True), typed)

    def test_a_restart(self) -> None:
        told = self.begin().json
        self.app.restart()
        self.assertTrue(self.decide(told["user_code"], allowed=True))
        self.app.restart()
        self.assertEqual(200, self.poll(told["device_code"]).status)


class Closed(DatabaseCase):
    def test_no_account_can_be_made(self) -> None:
        config = test_config(public_url=BASE, registration=Registration(mode="closed"))
        app = TestApp(self, config=config)
        self.assertEqual([], app.ok("GET", f"{CLIENT}/v1/auth_metadata")["prompt_values_supported"])
