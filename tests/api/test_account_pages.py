"""Looking after an account in a browser. spec: client-server-api#oauth-20-account-management"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from twisted.internet.defer import Deferred

from homeserver.config.schema import RateLimit, RateLimits
from homeserver.oauth.metadata import Places
from tests.api.test_oauth_pages import ALICE, EVIL, PASSWORD, PagesCase
from tests.support.accounts import during_the_check
from tests.support.app import TestApp, test_config
from tests.support.browser import WebBrowser
from tests.support.databases import on_each_database
from tests.support.oauth import BASE, V3, OAuthApp

NEW = "battery staple"


class AccountCase(PagesCase):
    """Alice is signed in with her browser."""

    def setUp(self) -> None:
        super().setUp()
        self.browser.open("/account/")
        self.sign_in()

    def devices(self) -> dict[str, Any]:
        found = self.app.ok("GET", f"{V3}/devices", token=self.token)["devices"]
        return {one["device_id"]: one for one in found}

    def can_log_in(self, password: str, user: str = "alice") -> bool:
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": user},
            "password": password,
        }
        return self.app.call("POST", f"{V3}/login", body)[0] == 200


@on_each_database
class Overview(AccountCase):
    def test_the_start(self) -> None:
        page = self.browser.open("/account/")
        self.assertIn(ALICE, page.text)
        for link in page.links.values():
            self.browser.open(link)
        self.browser.open("/account")
        self.assertEqual(BASE + "/account/", self.browser.url)

    def test_where_apps_lead(self) -> None:
        device = next(iter(self.devices()))
        for action, path in (
            ("org.matrix.profile", "/account/profile"),
            ("org.matrix.devices_list", "/account/devices"),
            ("org.matrix.sessions_list", "/account/devices"),
            ("org.matrix.cross_signing_reset", "/account/encryption"),
            ("org.matrix.account_deactivate", "/account/deactivate"),
            ("org.matrix.device_view", f"/account/device?device_id={device}"),
            ("org.matrix.session_view", f"/account/device?device_id={device}"),
            ("org.matrix.device_delete", f"/account/device/sign_out?device_id={device}"),
            ("org.matrix.session_end", f"/account/device/sign_out?device_id={device}"),
            ("org.matrix.unknown", f"/account/?action=org.matrix.unknown&device_id={device}"),
        ):
            self.browser.open("/account/", action=action, device_id=device)
            self.assertEqual(BASE + path, self.browser.url)
        self.browser.open("/account/?action=org.matrix.device_view")
        self.assertEqual(BASE + "/account/devices", self.browser.url)
        self.browser.open("/account/", 404, action="org.matrix.device_view", device_id=EVIL)

    def test_every_action_that_is_told(self) -> None:
        told = Places(BASE).metadata(may_sign_up=True, with_old_names=True)
        for action in told["account_management_actions_supported"]:
            self.browser.open("/account/", action=action, device_id=next(iter(self.devices())))
            self.assertNotIn("action=", self.browser.url, action)

    def test_signed_in_on_the_way(self) -> None:
        self.browser.cookies.clear()
        page = self.browser.open("/account/?action=org.matrix.devices_list")
        self.assertIn("Sign in", page.forms[0].buttons)
        self.assertIn("Devices", self.sign_in().text)
        self.assertEqual(BASE + "/account/devices", self.browser.url)

    def test_sign_out(self) -> None:
        before = dict(self.browser.cookies)
        self.browser.open("/account/")
        self.assertIn("Signed out", self.browser.send("Sign out of this browser").text)
        self.assertFalse(self.browser.cookies)
        self.browser.cookies = before
        self.assertIn("Sign in", self.browser.open("/account/").forms[0].buttons)
        self.assertEqual(200, self.app.call("GET", f"{V3}/account/whoami", token=self.token)[0])

    def test_names(self) -> None:
        self.browser.open("/account/profile")
        self.assertIn("Alice in Wonderland", self.browser.send("Save", name=" Alice in Wonderland ").text)
        profile = self.app.ok("GET", f"{V3}/profile/{ALICE}")
        self.assertEqual("Alice in Wonderland", profile["displayname"])
        self.browser.open("/account/profile")
        self.assertIn(EVIL, self.browser.send("Save", name=EVIL).text)
        self.browser.open("/account/profile")
        self.assertIn("longer than", self.browser.send("Save", 400, name="x" * 300).text)
        self.assertEqual("x" * 300, self.browser.page.forms[0].fields["name"])
        self.assertIn("alice", self.browser.send("Save", name="").text)
        self.assertNotIn("displayname", self.app.ok("GET", f"{V3}/profile/{ALICE}"))
        self.lock(suspended=True)
        self.browser.open("/account/profile", 403)

    def test_only_by_forms_of_ours(self) -> None:
        device = next(iter(self.devices()))
        pages = {
            "/account/": "Sign out of this browser",
            "/account/profile": "Save",
            f"/account/device?device_id={device}": "Save",
            f"/account/device/sign_out?device_id={device}": "Sign out",
            "/account/password": "Set the new password",
            "/account/encryption": "Let my app make new keys",
            "/account/deactivate": "End my account for good",
        }
        cookies = dict(self.browser.cookies)
        for path, press in pages.items():
            for headers, without in (
                ({"Origin": "https://evil.example"}, ()),
                ({"Origin": BASE}, ("form_token",)),
            ):
                page = self.browser.open(path)
                filled = {one["name"]: PASSWORD for one in page.all("input") if one.get("type") == "password"}
                self.browser.send(press, 403, headers=headers, without=without, **filled)
        self.assertEqual(cookies, self.browser.cookies)
        self.assertIn(ALICE, self.browser.open("/account/").text)
        self.assertIn(device, self.devices())
        self.assertTrue(self.can_log_in(PASSWORD))

    def test_who_is_locked(self) -> None:
        device = next(iter(self.devices()))
        self.browser.open("/account/device/sign_out", device_id=device)
        self.lock(locked=True)
        self.assertIn("Sign in", self.browser.send("Sign out").forms[0].buttons)
        self.sign_in(status=403)
        self.lock(locked=False)
        self.assertIn(device, self.devices())


@on_each_database
class Devices(AccountCase):
    def test_the_list(self) -> None:
        self.oauth = OAuthApp(self.app, client_name=EVIL)
        self.oauth.log_in(ALICE, "PHONE12345")
        self.app.advance(3 * 3600)
        self.devices()  # the first one is used
        page = self.browser.open("/account/devices")
        self.assertIn(f"{EVIL} (app.example)", page.text)
        self.assertIn("just now", page.text)
        self.assertIn("not used yet", page.text)
        self.assertEqual(1, page.text.count("(app.example)"))

    def test_one(self) -> None:
        self.oauth.log_in(ALICE, "A+B&C")
        page = self.browser.open("/account/device", device_id="A+B&C")
        for text in ("A+B&C", "Tester (app.example)", "not used yet"):
            self.assertIn(text, page.text)
        self.assertEqual("Tester", page.forms[0].fields["name"])
        self.assertIn("My phone", self.browser.send("Save", name=" My phone ").text)
        self.assertEqual("My phone", self.devices()["A+B&C"]["display_name"])
        self.browser.open("/account/device", device_id="A+B&C")
        self.assertIn("longer than", self.browser.send("Save", 400, name="x" * 300).text)
        self.browser.send("Save", name="")
        self.assertNotIn("display_name", self.devices()["A+B&C"])
        for device_id in ("", "GONE", EVIL, "x" * 3000):
            self.browser.open("/account/device", 404, device_id=device_id)
            self.browser.open("/account/device/sign_out", 404, device_id=device_id)

    def test_sign_out(self) -> None:
        tokens = self.oauth.log_in(ALICE, "PHONE12345")
        self.browser.open("/account/device", device_id="PHONE12345")
        page = self.browser.follow("Sign this device out")
        self.assertIn("Tester", page.text)
        self.assertIn("PHONE12345", self.devices())
        self.browser.send("Sign out")
        self.assertEqual(BASE + "/account/devices", self.browser.url)
        self.assertNotIn("PHONE12345", self.devices())
        self.assertEqual(401, self.app.call("GET", f"{V3}/account/whoami", token=tokens["access_token"])[0])
        self.assertEqual(400, self.oauth.refresh(tokens["refresh_token"]).status)

    def test_of_nobody_else(self) -> None:
        bob = self.app.register("bob", device_id="BOBSPHONE1")
        for path in ("/account/device", "/account/device/sign_out"):
            self.browser.open(path, 404, device_id="BOBSPHONE1")
        device = next(iter(self.devices()))
        self.browser.open("/account/device/sign_out", device_id=device)
        self.browser.url = self.browser.url.replace(device, "BOBSPHONE1")
        self.browser.send("Sign out", 404)
        self.assertEqual(200, self.app.call("GET", f"{V3}/account/whoami", token=bob)[0])

    def test_of_the_account_that_the_app_has(self) -> None:
        """A browser may know two accounts: an app leads here for its own."""
        self.app.register("bob", device_id="BOBSPHONE1")
        page = self.browser.open("/account/", 404, action="org.matrix.session_end", device_id="BOBSPHONE1")
        self.assertIn(ALICE, page.text)
        self.browser.follow("Use another account")
        self.assertIn("Sign this device out?", self.sign_in("bob").text)
        self.assertIn("BOBSPHONE1", self.browser.url)

    def test_none(self) -> None:
        self.app.ok("POST", f"{V3}/logout", {}, self.token)
        self.assertIn("signed in nowhere", self.browser.open("/account/devices").text)

    def test_one_that_only_takes_keys_in(self) -> None:
        body = {
            "device_id": "DEHYDRATED",
            "device_data": {"algorithm": "m.dehydration.v2"},
            "device_keys": {
                "user_id": ALICE,
                "device_id": "DEHYDRATED",
                "algorithms": [],
                "keys": {},
                "signatures": {},
            },
        }
        path = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"
        self.app.ok("PUT", path, body, self.token)
        self.assertIn("DEHYDRATED", self.devices())
        self.assertNotIn("DEHYDRATED", self.browser.open("/account/devices").text)

    def test_while_suspended(self) -> None:
        self.oauth.log_in(ALICE, "PHONE12345")
        self.lock(suspended=True)
        self.browser.open("/account/device/sign_out", device_id="PHONE12345")
        self.browser.send("Sign out")
        self.assertNotIn("PHONE12345", self.devices())


@on_each_database
class NewPasswords(AccountCase):
    def change(self, status: int = 200, **changes: Any) -> Any:
        self.browser.open("/account/password")
        fields: dict[str, Any] = {"current": PASSWORD, "password": NEW, "again": NEW, **changes}
        return self.browser.send("Set the new password", status, **fields)

    def test_changed(self) -> None:
        other = WebBrowser(self.app)
        other.open("/account/")
        other.send("Sign in", username="alice", password=PASSWORD)
        before = dict(self.browser.cookies)
        self.assertIn("stay signed in", self.change().text)
        self.assertFalse(self.can_log_in(PASSWORD))
        self.assertTrue(self.can_log_in(NEW))
        self.assertEqual(200, self.app.call("GET", f"{V3}/account/whoami", token=self.token)[0])
        self.assertIn(ALICE, self.browser.open("/account/").text)
        self.assertNotEqual(before, self.browser.cookies)
        # Other browsers are out.
        self.assertIn("Sign in", other.open("/account/").forms[0].buttons)

    def test_everywhere(self) -> None:
        self.assertIn("are signed out", self.change(log_out="yes").text)
        self.assertEqual(401, self.app.call("GET", f"{V3}/account/whoami", token=self.token)[0])
        self.assertIn(ALICE, self.browser.open("/account/").text)

    def test_refused(self) -> None:
        wrong: list[tuple[dict[str, Any], int, str]] = [
            ({"current": "wrong"}, 403, "not right"),
            ({"current": ""}, 403, "not right"),
            ({"password": ""}, 400, "shorter"),
            ({"again": "other"}, 400, "not the same"),
            ({"password": "x" * 600, "again": "x" * 600}, 400, "longer"),
        ]
        for changes, status, words in wrong:
            self.assertIn(words, self.change(status, **changes).text)
        self.assertTrue(self.can_log_in(PASSWORD))

    def test_by_one_that_is_over(self) -> None:
        accounts = self.app.app.services.accounts
        during_the_check(
            self, self.app.app.services.hasher, lambda: accounts.set_password(ALICE, "the owner's")
        )
        self.assertIn("just now", self.change(403).text)
        self.assertFalse(self.can_log_in(NEW))
        self.assertTrue(self.can_log_in("the owner's"))

    def test_two_at_once(self) -> None:
        """Who has set a password that is over already is not signed in by the one after it."""
        accounts = self.app.app.services.accounts
        real = accounts.set_password

        async def set_two(*args: Any, **wishes: Any) -> Any:
            account = await real(*args, **wishes)
            await real(ALICE, "the owner's")
            return account

        self.patch(accounts, "set_password", set_two)
        before = dict(self.browser.cookies)
        self.change(403)
        self.assertEqual(before, self.browser.cookies)
        self.assertIn("Sign in", self.browser.open("/account/").forms[0].buttons)


@on_each_database
class Ending(AccountCase):
    def test_for_good(self) -> None:
        page = self.browser.open("/account/deactivate")
        self.assertIn("cannot be taken back", page.text)
        self.assertIn("not right", self.browser.send("End my account for good", 403, current="wrong").text)
        self.assertTrue(self.can_log_in(PASSWORD))
        page = self.browser.send("End my account for good", current=PASSWORD)
        self.assertIn("has ended", page.text)
        self.assertFalse(self.browser.cookies)
        self.assertFalse(self.can_log_in(PASSWORD))
        self.assertEqual(401, self.app.call("GET", f"{V3}/account/whoami", token=self.token)[0])
        self.assertFalse(self.is_erased())

    def test_by_a_password_that_is_over(self) -> None:
        services = self.app.app.services
        during_the_check(self, services.hasher, lambda: services.accounts.set_password(ALICE, NEW))
        self.browser.open("/account/deactivate")
        page = self.browser.send("End my account for good", 403, current=PASSWORD)
        self.assertIn("just now", page.text)
        self.assertTrue(self.can_log_in(NEW))

    def test_and_forgotten(self) -> None:
        self.browser.open("/account/deactivate")
        self.browser.send("End my account for good", current=PASSWORD, erase="yes")
        self.assertTrue(self.is_erased())

    def is_erased(self) -> bool:
        account = self.app.wait(Deferred.fromCoroutine(self.app.app.services.accounts.find(ALICE)))
        assert account is not None
        self.assertTrue(account.deactivated)
        return bool(account.erased)

    def test_while_suspended(self) -> None:
        self.lock(suspended=True)
        self.browser.open("/account/deactivate")
        self.browser.send("End my account for good", current=PASSWORD)
        self.assertFalse(self.can_log_in(PASSWORD))


@on_each_database
class NewKeys(AccountCase):
    """spec: client-server-api#oauth-authentication"""

    def allowed(self, user_id: str = ALICE) -> bool:
        services = self.app.app.services
        account = self.app.wait(Deferred.fromCoroutine(services.accounts.find(user_id)))
        assert account is not None
        return services.authorizing.resets.take(account.user_nid)

    def test_right_after_signing_in(self) -> None:
        page = self.browser.open("/account/?action=org.matrix.cross_signing_reset")
        self.assertNotIn("current", page.forms[0].fields)
        self.assertFalse(self.allowed())
        self.assertIn("Your app may go on", self.browser.send("Let my app make new keys").text)
        self.assertTrue(self.allowed())

    def test_for_the_account_that_the_app_has(self) -> None:
        self.app.register("bob")
        page = self.browser.open("/account/?action=org.matrix.cross_signing_reset")
        self.assertIn(ALICE, page.text)
        self.browser.follow("Use another account")
        self.assertIn("@bob:test.example", self.sign_in("bob").text)
        self.browser.send("Let my app make new keys")
        self.assertEqual((False, True), (self.allowed(), self.allowed("@bob:test.example")))

    def test_some_time_after(self) -> None:
        self.browser.open("/account/encryption")
        self.app.advance(601)
        # Also with the page that came before.
        self.assertIn("once more", self.browser.send("Let my app make new keys", 403).text)
        self.assertIn("not right", self.browser.send("Let my app make new keys", 403, current="no").text)
        self.assertFalse(self.allowed())
        self.browser.send("Let my app make new keys", current=PASSWORD)
        self.assertTrue(self.allowed())

    def test_while_suspended(self) -> None:
        self.lock(suspended=True)
        self.browser.open("/account/encryption")
        self.browser.send("Let my app make new keys")
        self.assertTrue(self.allowed())


class Guesses(PagesCase):
    def test_passwords(self) -> None:
        limits = RateLimits(login=RateLimit(0.1, 4))
        self.app = TestApp(
            self, config=test_config(data_dir=Path(self.mktemp()), public_url=BASE, rate_limits=limits)
        )
        self.app.register("alice")
        self.browser = WebBrowser(self.app)
        self.browser.open("/account/deactivate")
        self.sign_in()
        for _ in range(3):
            self.browser.send("End my account for good", 403, current="wrong")
        page = self.browser.send("End my account for good", 429, current=PASSWORD)
        self.assertIn("too often", page.text)


@on_each_database
class DeviceCodes(PagesCase):
    """A device without a browser. spec: client-server-api#device-authorisation-flow"""

    def begin(self) -> dict[str, Any]:
        scope = "urn:matrix:client:api:* urn:matrix:client:device:TELEVISION"
        answer = self.oauth.post("/oauth2/device", client_id=self.oauth.client_id, scope=scope)
        self.assertEqual(200, answer.status, answer.json)
        begun: dict[str, Any] = answer.json
        return begun

    def poll(self, begun: dict[str, Any]) -> Any:
        self.app.advance(5)
        return self.oauth.token(
            grant_type="urn:ietf:params:oauth:grant-type:device_code", device_code=begun["device_code"]
        )

    def test_by_hand(self) -> None:
        begun = self.begin()
        self.browser.open(urlsplit(begun["verification_uri"]).path)
        self.sign_in()
        self.assertIn("Connect a device", self.browser.page.text)
        typed = begun["user_code"].lower().replace("-", " ")
        page = self.browser.send("Continue", user_code=typed)
        for text in ("Tester", "app.example", begun["user_code"], ALICE, "did you begin this yourself?"):
            self.assertIn(text, page.text)
        self.assertEqual("authorization_pending", self.poll(begun).json["error"])
        self.assertIn("Your device is connected", self.browser.send("Yes, connect it").text)
        self.assertEqual(ALICE, self.whoami(self.poll(begun).json["access_token"])["user_id"])

    def test_by_a_link(self) -> None:
        begun = self.begin()
        parts = urlsplit(begun["verification_uri_complete"])
        self.assertIn("user_code", parse_qs(parts.query))
        self.browser.open(f"{parts.path}?{parts.query}")
        self.assertIn("Connect this device?", self.sign_in().text)
        self.assertIn("Not connected", self.browser.send("Cancel").text)
        self.assertEqual("access_denied", self.poll(begun).json["error"])

    def test_what_is_not_good(self) -> None:
        begun = self.begin()
        self.browser.open("/oauth2/link")
        self.sign_in()
        for code in ("BBBB-BBBB", "short", EVIL, "\u00df\u0130"):
            page = self.browser.open("/oauth2/link", 404, user_code=code)
            self.assertIn("not, or no longer, good", page.text)
            self.assertEqual(code[:20], page.forms[0].fields["user_code"])
        self.browser.open("/oauth2/link", user_code=begun["user_code"])
        self.browser.send("Cancel")
        self.browser.open("/oauth2/link", 404, user_code=begun["user_code"])
        begun = self.begin()
        self.browser.open("/oauth2/link", user_code=begun["user_code"])
        self.app.advance(1201)
        self.browser.send("Yes, connect it", 404)
        self.assertEqual("expired_token", self.poll(begun).json["error"])

    def test_only_by_forms_of_ours(self) -> None:
        begun = self.begin()
        self.browser.open("/oauth2/link", user_code=begun["user_code"])
        self.sign_in()
        for headers, without in (
            ({"Origin": "https://evil.example"}, ()),
            ({"Origin": BASE}, ("form_token",)),
        ):
            page = self.browser.send("Yes, connect it", 403, headers=headers, without=without)
            self.browser.open(page.links["Show the page again"])
        self.assertEqual("authorization_pending", self.poll(begun).json["error"])

    def test_by_a_browser_that_was_just_signed_out(self) -> None:
        begun = self.begin()
        self.browser.open("/oauth2/link", user_code=begun["user_code"])
        self.sign_in()
        self.renew_before("decide_device")
        self.browser.send("Yes, connect it", 403)
        self.assertEqual("authorization_pending", self.poll(begun).json["error"])

    def test_another_account(self) -> None:
        begun = self.begin()
        self.app.register("bob")
        self.browser.open("/oauth2/link", user_code=begun["user_code"])
        self.sign_in()
        self.browser.follow("Use another account")
        self.assertIn("@bob:test.example", self.sign_in("bob").text)
        self.browser.send("Yes, connect it")
        self.assertEqual("@bob:test.example", self.whoami(self.poll(begun).json["access_token"])["user_id"])


class CodeGuesses(PagesCase):
    def test_counted(self) -> None:
        limits = RateLimits(login=RateLimit(0.1, 4))
        self.app = TestApp(
            self, config=test_config(data_dir=Path(self.mktemp()), public_url=BASE, rate_limits=limits)
        )
        self.app.register("alice")
        self.browser = WebBrowser(self.app)
        self.browser.open("/oauth2/link?" + urlencode({"user_code": "BBBBBBBB"}))
        self.sign_in(status=404)
        for _ in range(3):
            self.browser.open("/oauth2/link", 404, user_code="BBBBBBBB")
        page = self.browser.open("/oauth2/link", 429, user_code="BBBBBBBB")
        self.assertIn("too often", page.text)
        assert self.browser.answer is not None
        self.assertIn("retry-after", self.browser.answer.headers)
