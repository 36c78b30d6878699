"""Letting apps in on a page: signing in, signing up, consent. spec: client-server-api#authorisation-code-flow"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from homeserver.config.schema import Passwords, RateLimit, RateLimits, Registration
from homeserver.store.users import set_standing
from tests.support.accounts import during_the_check
from tests.support.app import TestApp, test_config
from tests.support.appservices import registration
from tests.support.browser import WebBrowser
from tests.support.databases import DatabaseCase, on_each_database
from tests.support.oauth import BASE, V3, OAuthApp, told

ALICE = "@alice:test.example"
PASSWORD = "correct horse"
EVIL = "\"><script>alert(1)</script>&'"


class PagesCase(DatabaseCase):
    """A server with alice, an app, and a browser."""

    def make(self, **changes: Any) -> None:
        self.app = TestApp(
            self, self.new_database(), test_config(data_dir=Path(self.mktemp()), public_url=BASE, **changes)
        )

    def setUp(self) -> None:
        super().setUp()
        self.make()
        self.token = self.app.register("alice")
        self.oauth = OAuthApp(self.app)
        self.browser = WebBrowser(self.app)

    def authorize(self, status: int = 200, **changes: Any) -> Any:
        return self.browser.open("/oauth2/authorize", status, **self.oauth.query(**changes))

    def sign_in(self, username: str = "alice", password: str = PASSWORD, status: int = 200) -> Any:
        return self.browser.send("Sign in", status, username=username, password=password)

    def said(self) -> str:
        """What the page says is wrong."""
        alerts = [one for one in self.browser.page.all("p") if one.get("role") == "alert"]
        return self.browser.page.text if alerts else ""

    def whoami(self, token: str) -> Any:
        return self.app.ok("GET", f"{V3}/account/whoami", token=token)

    def lock(self, **standing: bool) -> None:
        account = self.app.wait(Deferred.fromCoroutine(self.app.app.services.accounts.find(ALICE)))
        assert account is not None
        flags = {"suspended": None, "locked": None, **standing}
        self.app.wait(self.app.app.core.committer.work(set_standing, account.user_nid, **flags))

    def renew_before(self, method: str) -> None:
        """Have alice's password changed once when it is known who uses the browser, before this method of ``Grants``."""
        services = self.app.app.services
        real = getattr(services.authorizing.grants, method)

        async def act(*args: Any, **wishes: Any) -> Any:
            patched.restore()
            await services.accounts.set_password(ALICE, "battery staple")
            return await real(*args, **wishes)

        patched = self.patch(services.authorizing.grants, method, act)


@on_each_database
class Consent(PagesCase):
    def test_from_the_app_and_back(self) -> None:
        page = self.authorize()
        self.assertIn("Tester", page.text)
        self.assertIn("app.example", page.text)
        page = self.sign_in()
        self.assertIn("Let Tester in?", page.text)
        for text in (ALICE, "app.example"):
            self.assertIn(text, page.text)
        self.assertEqual({"Continue", "Cancel"}, set(page.forms[0].buttons))
        self.browser.send("Continue")
        self.assertTrue(self.browser.left.startswith("https://app.example/callback?"))
        answer = told(self.browser.left)
        self.assertEqual(
            {"state": "the state", "iss": f"{BASE}/"}, {one: answer[one] for one in ("state", "iss")}
        )
        tokens = self.oauth.exchange(answer["code"]).json
        self.assertEqual(ALICE, self.whoami(tokens["access_token"])["user_id"])

    def test_by_what_an_app_is_known(self) -> None:
        """By who gets the answer: below one host there may be apps of many."""
        self.oauth = OAuthApp(self.app, redirect_uris=["https://evil.app.example:8443/back"])
        self.assertIn("(evil.app.example:8443)", self.authorize().text)
        self.assertIn("evil.app.example:8443", self.sign_in().text)
        self.oauth = OAuthApp(self.app, application_type="native", redirect_uris=["example.app:/back"])
        page = self.authorize()
        self.assertIn("app.example", page.text)
        self.assertNotIn("evil", page.text)

    def test_by_a_browser_that_was_just_signed_out(self) -> None:
        self.authorize()
        self.sign_in()
        self.renew_before("allow")
        self.assertIn("just now", self.browser.send("Continue", 403).text)
        self.assertEqual("", self.browser.left)

    def test_cancelled(self) -> None:
        self.authorize()
        self.sign_in()
        self.browser.send("Cancel")
        self.assertEqual("access_denied", told(self.browser.left)["error"])
        self.assertEqual("the state", told(self.browser.left)["state"])

    def test_asked_each_time(self) -> None:
        for _ in range(2):
            page = self.authorize()
            if "Sign in" in page.forms[0].buttons:
                page = self.sign_in()
            self.browser.send("Continue")
            self.assertIn("code", told(self.browser.left))
            self.browser.left = ""

    def test_the_policy_lets_forms_lead_to_the_app_alone(self) -> None:
        native = {
            "application_type": "native",
            "client_uri": "https://app.example",
            "redirect_uris": ["example.app:/callback", "http://127.0.0.1/back", "http://[::1]/back"],
        }
        expected = {
            "example.app:/callback": "example.app:",
            "http://127.0.0.1:1234/back": "http://127.0.0.1:1234",
            "http://[::1]:1234/back": "http:",
        }
        self.authorize()
        self.sign_in()
        for app, uri, target in (
            (self.oauth, self.oauth.redirect_uri, "https://app.example"),
            *((OAuthApp(self.app, **native), uri, target) for uri, target in expected.items()),
        ):
            self.browser.open("/oauth2/authorize", **app.query(redirect_uri=uri))
            assert self.browser.answer is not None
            policy = self.browser.answer.headers["content-security-policy"]
            self.assertIn(f"form-action 'self' {target};", f"{policy};")
            self.browser.send("Continue")
            self.assertTrue(self.browser.left.startswith(f"{uri}?code="), self.browser.left)

    def test_in_the_fragment(self) -> None:
        self.authorize(response_mode="fragment")
        self.sign_in()
        self.browser.send("Continue")
        self.assertTrue(self.browser.left.startswith("https://app.example/callback#code="))

    def test_what_an_app_says_of_itself_is_only_text(self) -> None:
        self.oauth = OAuthApp(
            self.app,
            client_name=EVIL,
            tos_uri="https://app.example/tos?a='b'&c",
            policy_uri="https://app.example/privacy",
        )
        page = self.authorize()
        self.assertIn(EVIL, page.text)
        page = self.sign_in()
        self.assertIn(EVIL, page.text)
        self.assertEqual("https://app.example/tos?a='b'&c", page.links["Terms"])
        self.assertEqual("https://app.example/privacy", page.links["Privacy"])

    def test_somebody_else(self) -> None:
        self.app.register("bob")
        self.authorize(login_hint="alice")
        self.sign_in()
        before = dict(self.browser.cookies)
        page = self.browser.follow("Use another account")
        self.assertEqual("", page.forms[0].fields["username"])
        self.assertIn("@bob:test.example", self.sign_in("bob").text)
        self.assertNotEqual(before, self.browser.cookies)
        self.browser.send("Continue")
        tokens = self.oauth.exchange(told(self.browser.left)["code"]).json
        self.assertEqual("@bob:test.example", self.whoami(tokens["access_token"])["user_id"])
        # The session from before is over.
        self.browser.cookies = before
        self.assertIn("Sign in", self.authorize().forms[0].buttons)

    def test_nobody_is_to_be_asked(self) -> None:
        self.authorize(prompt="none")
        self.assertEqual("login_required", told(self.browser.left)["error"])
        self.authorize()
        self.sign_in()
        self.authorize(prompt="none")
        self.assertEqual("consent_required", told(self.browser.left)["error"])

    def test_once_more(self) -> None:
        self.authorize()
        self.sign_in()
        page = self.authorize(prompt="login")
        self.assertIn("Sign in", page.forms[0].buttons)
        self.assertIn("Let Tester in?", self.sign_in().text)
        self.assertIn("Let Tester in?", self.browser.open(self.browser.url).text)


@on_each_database
class Refusals(PagesCase):
    def test_whose_request_it_is_must_be_sure(self) -> None:
        changes: dict[str, Any]
        for changes in (
            {"client_id": "NOBODY"},
            {"client_id": None},
            {"redirect_uri": "https://evil.example/callback"},
            {"redirect_uri": EVIL},
            {"client_id": EVIL},
        ):
            page = self.authorize(400, **changes)
            self.assertFalse(page.forms)
            self.assertEqual("", self.browser.left)
            self.assertNotIn("evil.example", page.text)

    def test_what_else_is_wrong_is_told_to_the_app(self) -> None:
        wrong: list[tuple[dict[str, Any], str]] = [
            ({"scope": "openid"}, "invalid_scope"),
            ({"response_type": "token"}, "unsupported_response_type"),
            ({"code_challenge_method": "plain"}, "invalid_request"),
        ]
        for changes, error in wrong:
            self.authorize(**changes)
            self.assertEqual(error, told(self.browser.left)["error"])
            self.browser.left = ""

    def test_an_answer_is_checked_again(self) -> None:
        self.authorize()
        self.sign_in()
        self.browser.url = self.browser.url.replace("app.example%2Fcallback", "app.example%2Fother")
        self.browser.send("Continue", 400)
        self.assertEqual("", self.browser.left)

    def test_forms_of_other_pages(self) -> None:
        self.authorize()
        for headers in (
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Sec-Fetch-Site": "cross-site", "Origin": BASE},
            {"Sec-Fetch-Site": "same-site"},
        ):
            page = self.browser.send("Sign in", 403, headers=headers, username="alice", password=PASSWORD)
            self.assertFalse(self.browser.cookies)
            self.browser.open(page.links["Show the page again"])
        # Browsers that say nothing of where they come from.
        self.browser.send("Sign in", headers={"X-Nothing": ""}, username="alice", password=PASSWORD)
        for headers, without in (
            ({"Origin": "https://evil.example"}, ()),
            ({"Sec-Fetch-Site": "same-origin"}, ("form_token",)),
            ({"X-Nothing": ""}, ("form_token",)),
        ):
            page = self.browser.send("Continue", 403, headers=headers, without=without)
            self.assertEqual("", self.browser.left)
            self.browser.open(page.links["Show the page again"])
        self.browser.send("Continue", 403, form_token="x" * 24)
        self.browser.open(self.browser.url)
        # Who is signed in already is not made somebody else unseen.
        self.authorize(prompt="login")
        before = dict(self.browser.cookies)
        page = self.browser.send("Sign in", without=("form_token",), username="bob", password=PASSWORD)
        self.assertIn(ALICE, page.text)
        self.assertEqual(before, self.browser.cookies)
        self.authorize(prompt="login")
        self.browser.send(
            "Sign in", headers={"Sec-Fetch-Site": "same-origin"}, username="alice", password=PASSWORD
        )
        self.browser.send("Continue", headers={"Sec-Fetch-Site": "same-origin"})
        self.assertIn("code", told(self.browser.left))

    def test_hostile_forms(self) -> None:
        path = self.authorize() and self.browser.url.removeprefix(BASE)
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        for body, headers in (
            (b"step=sign-in&username=%ff", form),
            (b"step=sign-in&username=%00", form),
            (b"&".join([b"a=b"] * 500), form),
            (b"{}", {"Content-Type": "application/json"}),
            (b"step=sign-in", {}),
        ):
            answer = self.app.answer("POST", path, body, headers=headers)
            self.assertEqual(
                (400, "text/html; charset=utf-8"), (answer.status, answer.headers["content-type"])
            )
        self.assertEqual(413, self.app.answer("POST", path, b"a=" + b"x" * 20_000, headers=form).status)
        answer = self.app.answer("POST", path, b"step=nonsense", headers=form)
        self.assertEqual(303, answer.status)
        answer = self.app.answer("GET", "/oauth2/authorize?client_id=%ff")
        self.assertEqual((400, "text/html; charset=utf-8"), (answer.status, answer.headers["content-type"]))

    def test_off_without_an_address_or_by_choice(self) -> None:
        self.app = TestApp(self, config=test_config(data_dir=Path(self.mktemp())))
        for path in ("/oauth2/authorize", "/oauth2/link", "/account/"):
            self.assertEqual(404, self.app.answer("GET", path).status)


@on_each_database
class SigningIn(PagesCase):
    def test_wrong_and_right(self) -> None:
        self.authorize()
        for name, password in (
            ("alice", "wrong"),
            ("nobody", PASSWORD),
            ("alice", ""),
            ("", ""),
            ("a@b.example", "x"),
        ):
            page = self.sign_in(name, password, 403)
            self.assertIn("The name or the password is not right.", self.said())
            self.assertEqual(name, page.forms[0].fields["username"])
            self.assertEqual("", page.forms[0].fields["password"])
            self.assertFalse(self.browser.cookies)
        self.assertIn("belongs to another server", self.sign_in("@alice:other.example", status=403).text)
        self.assertIn("Let Tester in?", self.sign_in(" @Alice:test.example ").text)

    def test_what_was_typed_is_only_text(self) -> None:
        self.authorize()
        page = self.sign_in(EVIL, "wrong", 403)
        self.assertEqual(EVIL, page.forms[0].fields["username"])

    def test_hints(self) -> None:
        for hint, name in (
            ("alice", "alice"),
            ("mxid:@alice:test.example", "alice"),
            ("@alice:test.example", "alice"),
            ("mxid:@alice:other.example", "@alice:other.example"),
            (EVIL, EVIL),
            ("x" * 2000, "x" * 320),
        ):
            self.assertEqual(name, self.authorize(login_hint=hint).forms[0].fields["username"])

    def test_who_may_not(self) -> None:
        self.lock(locked=True)
        self.authorize()
        self.assertIn("locked", self.sign_in(status=403).text)
        self.assertFalse(self.browser.cookies)
        self.lock(locked=False)
        self.sign_in()
        self.lock(locked=True)
        self.assertIn("Sign in", self.browser.open(self.browser.url).forms[0].buttons)
        self.lock(locked=False, suspended=True)
        self.assertIn("Let Tester in?", self.authorize().text)

    def test_an_account_that_ended(self) -> None:
        self.authorize()
        self.sign_in()
        accounts = self.app.app.services.accounts
        self.app.wait(Deferred.fromCoroutine(accounts.deactivate(ALICE, erase=False)))
        page = self.browser.send("Continue")
        self.assertEqual("", self.browser.left)
        self.assertIn("Sign in", page.forms[0].buttons)
        self.sign_in(status=403)
        self.assertIn("not right", self.said())

    def test_what_happens_while_the_password_is_checked(self) -> None:
        services = self.app.app.services
        endings: tuple[Callable[[], Awaitable[Any]], ...] = (
            lambda: services.accounts.set_password(ALICE, "battery staple"),
            lambda: services.accounts.deactivate(ALICE, erase=False),
        )
        for password, end in zip((PASSWORD, "battery staple"), endings, strict=True):
            during_the_check(self, services.hasher, end)
            self.authorize()
            self.sign_in(password=password, status=403)
            self.assertIn("The name or the password is not right.", self.said())
            self.assertFalse(self.browser.cookies)

    def test_two_weeks(self) -> None:
        self.authorize()
        self.sign_in()
        self.app.advance(14 * 86_400 - 1)
        self.assertIn("Let Tester in?", self.authorize().text)
        self.app.advance(1)
        self.assertIn("Sign in", self.authorize().forms[0].buttons)


class Guesses(PagesCase):
    def setUp(self) -> None:
        limits = RateLimits(login=RateLimit(0.1, 3), register=RateLimit(0.1, 3))
        self.app = TestApp(
            self, config=test_config(data_dir=Path(self.mktemp()), public_url=BASE, rate_limits=limits)
        )
        self.app.register("alice")
        self.oauth = OAuthApp(self.app)
        self.browser = WebBrowser(self.app)

    def test_passwords(self) -> None:
        self.authorize()
        for _ in range(3):
            self.sign_in(password="wrong", status=403)
        self.sign_in(status=429)
        self.assertIn("try again in 10 seconds", self.said())
        assert self.browser.answer is not None
        self.assertEqual("10", self.browser.answer.headers["retry-after"])
        # The same buckets as those of the API.
        login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}}
        self.assertEqual(429, self.app.call("POST", f"{V3}/login", {**login, "password": PASSWORD})[0])
        self.app.advance(10)
        self.sign_in()

    def test_names_that_are_taken(self) -> None:
        self.app.advance(60)
        self.authorize(prompt="create")
        for _ in range(3):
            self.browser.send("Create account", 400, username="alice", password=PASSWORD, again=PASSWORD)
        page = self.browser.send("Create account", 429, username="carol", password=PASSWORD, again=PASSWORD)
        self.assertIn("too often", page.text)


@on_each_database
class SigningUp(PagesCase):
    def sign_up(self, status: int = 200, **changes: Any) -> Any:
        fields = {"username": "carol", "password": PASSWORD, "again": PASSWORD, **changes}
        return self.browser.send("Create account", status, **fields)

    def test_from_the_app_and_back(self) -> None:
        self.authorize(prompt="create")
        self.assertIn("Let Tester in?", self.sign_up().text)
        self.browser.send("Continue")
        tokens = self.oauth.exchange(told(self.browser.left)["code"]).json
        self.assertEqual("@carol:test.example", self.whoami(tokens["access_token"])["user_id"])
        profile = self.app.ok("GET", f"{V3}/profile/@carol:test.example")
        self.assertEqual("carol", profile["displayname"])

    def test_to_and_fro(self) -> None:
        self.authorize()
        self.browser.follow("Create an account")
        self.browser.follow("Sign in")
        self.browser.follow("Create an account")
        self.assertIn("@carol:test.example", self.sign_up(username="@carol:test.example").text)
        # Signed in already, and still another account is made if one wants to.
        self.authorize(prompt="create")
        self.assertIn("@dave:test.example", self.sign_up(username="Dave").text)
        self.authorize(prompt="create")
        self.browser.follow("Sign in")
        self.assertIn(ALICE, self.sign_in().text)

    def test_what_is_refused(self) -> None:
        self.app.advance(60)
        self.authorize(prompt="create")
        for changes, words in (
            ({"username": "alice"}, "taken"),
            ({"username": "Alice"}, "taken"),
            ({"username": "ca rol"}, "A user name is made of"),
            ({"username": ""}, "A user name is made of"),
            ({"username": "c" * 250}, "A user name is made of"),
            ({"username": EVIL}, "A user name is made of"),
            ({"password": ""}, "shorter"),
            ({"again": "other"}, "not the same"),
        ):
            page = self.sign_up(400, **changes)
            self.assertIn(words, self.said())
            self.assertEqual(changes.get("username", "carol"), page.forms[0].fields["username"])
            self.assertEqual("", page.forms[0].fields["password"])
            self.assertFalse(self.browser.cookies)
        self.sign_up()

    def test_pressed_twice(self) -> None:
        self.app.advance(60)
        self.authorize(prompt="create")
        page, url = self.browser.page, self.browser.url
        self.sign_up()
        # The browser has not heard the first answer, or it has.
        for is_known in (False, True):
            self.browser.page, self.browser.url = page, url
            if not is_known:
                self.browser.cookies.clear()
            self.assertIn("@carol:test.example", self.sign_up().text)
        # Whoever else wants that name does not get it.
        for changes in ({"password": "guess", "again": "guess"}, {"username": "alice"}):
            self.browser.cookies.clear()
            self.browser.page, self.browser.url = page, url
            self.assertIn("taken", self.sign_up(400, **changes).text)
        self.app.advance(60)
        self.sign_up(400)
        self.assertFalse(self.browser.cookies)

    def test_closed(self) -> None:
        self.authorize(prompt="create")
        self.make(registration=Registration(mode="closed"))
        self.oauth = OAuthApp(self.app)
        self.browser.app = self.app
        self.browser.url = f"{BASE}/oauth2/link?prompt=create"
        self.assertIn("closed", self.sign_up(403).text)
        page = self.authorize(prompt="create")
        self.assertEqual({"Sign in"}, set(page.forms[0].buttons))
        self.assertFalse(page.links)

    def test_by_token(self) -> None:
        self.make(
            registration=Registration(mode="token"),
            passwords=Passwords(minimum_length=10, require_digit=True),
        )
        self.oauth = OAuthApp(self.app)
        self.browser = WebBrowser(self.app)
        accounts = self.app.app.services.accounts
        self.app.wait(Deferred.fromCoroutine(accounts.create_registration_token("let-me-in", 1)))
        page = self.authorize(prompt="create")
        self.assertIn("At least 10 characters, a digit.", page.text)
        page = self.sign_up(403, token="guess", password="long enough 1", again="long enough 1")
        self.assertIn("token is not valid", self.said())
        self.assertEqual("guess", page.forms[0].fields["token"])
        self.sign_up(400, token="let-me-in")
        self.sign_up(token=" let-me-in ", password="long enough 1", again="long enough 1")
        self.browser.cookies.clear()
        self.authorize(prompt="create")
        self.sign_up(403, username="dave", token="let-me-in", password="long enough 1", again="long enough 1")

    def test_names_of_application_services(self) -> None:
        self.app = TestApp(
            self,
            config=test_config(data_dir=Path(self.mktemp()), public_url=BASE),
            registrations=[registration()],
        )
        self.oauth = OAuthApp(self.app)
        self.browser = WebBrowser(self.app)
        self.authorize(prompt="create")
        self.sign_up(400, username="_bridge_carol")
        self.assertIn("belongs to an application service", self.said())
