"""The pages for clients that do not know a stage of interactive authentication, or no way to log in.

spec: client-server-api#fallback, client-server-api#login-fallback
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from twisted.internet.defer import Deferred

from homeserver.config.schema import Media, RateLimit, RateLimits, Registration
from homeserver.store import account_data, devices
from tests.api.test_threepids import MailCase
from tests.support.app import TestApp, test_config
from tests.support.databases import DatabaseCase, on_each_database
from tests.support.http import Answer

V3 = "/_matrix/client/v3"
PASSWORD = "correct horse"
EVIL = "\"><script>alert(1)</script>&'%00"
# spec: client-server-api#fallback (to the letter)
AUTH_DONE = """if (window.onAuthDone) {
    window.onAuthDone();
} else if (window.opener && window.opener.postMessage) {
    window.opener.postMessage("authDone", "*");
}"""


class Parsed(HTMLParser):
    """A page: what it says, its elements, its scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inline: dict[str, str] = {}
        self.text = ""
        self._within = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._within = tag

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within in ("script", "style"):
            self.inline[self._within] = self.inline.get(self._within, "") + data
        else:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]


class PagesCase(DatabaseCase):
    """Looks at pages as a browser would."""

    app: TestApp

    def check(self, answer: Answer, status: int = 200) -> Parsed:
        """The page is whole, harmless, and can be used without a mouse or eyes."""
        self.assertEqual(status, answer.status, answer.body)
        self.assertEqual("text/html; charset=utf-8", answer.headers["content-type"])
        self.assertEqual("no-store", answer.headers["cache-control"])
        page = Parsed(answer.body.decode())
        rules = dict(
            one.strip().split(" ", 1) for one in answer.headers["content-security-policy"].split(";")
        )
        self.assertEqual("'none'", rules["default-src"])
        self.assertEqual("'none'", rules["frame-ancestors"])
        self.assertEqual(digest(page.inline["style"]), rules["style-src"])
        if "script" in page.inline:
            self.assertEqual(digest(page.inline["script"]), rules["script-src"])
        self.assertEqual("script" in page.inline, "script-src" in rules)
        self.assertEqual([{"lang": "en"}], page.all("html"))
        self.assertEqual((1, 1), (len(page.all("h1")), len(page.all("main"))))
        labelled = {one["for"] for one in page.all("label")}
        fields = [one for one in page.all("input") if one.get("type") != "hidden"]
        self.assertEqual({one["id"] for one in fields}, labelled)
        for _, attrs in page.elements:
            self.assertFalse([name for name in attrs if name.startswith("on") or name == "style"])
            self.assertNotIn("src", attrs, "nothing is loaded")
        return page

    def path(self, kind: str, session: str) -> str:
        return f"{V3}/auth/{kind}/fallback/web?session={quote(session, safe='')}"

    def look(self, kind: str, session: str, status: int = 200) -> Parsed:
        return self.check(self.app.answer("GET", self.path(kind, session)), status)

    def fill(self, kind: str, session: str, expected: int = 200, **fields: Any) -> Parsed:
        body = urlencode(fields).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return self.check(self.app.answer("POST", self.path(kind, session), body, headers=headers), expected)

    def begin(self, method: str, path: str, body: Any, token: str | None = None) -> str:
        status, json = self.app.call(method, path, body, token)
        self.assertEqual(401, status, json)
        session: str = json["session"]
        return session

    def is_done(self, page: Parsed) -> bool:
        return page.inline.get("script", "").strip() == AUTH_DONE


def digest(text: str) -> str:
    """As a Content-Security-Policy has it."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


@on_each_database
class Stages(PagesCase):
    """Each stage that is offered, from the page to the request that is made again."""

    def setUp(self) -> None:
        self.app = TestApp(self, self.new_database())
        self.alice = self.app.register("alice")
        self.bob = self.app.register("bob")

    def test_a_password(self) -> None:
        body = {"devices": ["GONE"]}
        session = self.begin("POST", f"{V3}/delete_devices", body, self.alice)
        page = self.look("m.login.password", session)
        self.assertIn("log out some of your devices", page.text)
        self.assertIn("@alice:test.example", [one.get("value") for one in page.all("input")])
        self.assertFalse(self.is_done(page))
        wrong = self.fill("m.login.password", session, 401, password="wrong")
        self.assertIn("Wrong password", wrong.text)
        self.fill("m.login.password", session, 401)
        # Somebody else's name is not asked for.
        self.fill("m.login.password", session, 401, user="bob", password="wrong")
        self.assertTrue(self.is_done(self.fill("m.login.password", session, password=PASSWORD)))
        # Again, by a reload, it is still done.
        self.assertTrue(self.is_done(self.fill("m.login.password", session, password="")))
        self.assertTrue(self.is_done(self.look("m.login.password", session)))
        again = {**body, "auth": {"session": session}}
        self.app.ok("POST", f"{V3}/delete_devices", again, self.alice)
        self.look("m.login.password", session, 404)

    def test_a_proof_is_good_for_one_request_of_one_user(self) -> None:
        session = self.begin("POST", f"{V3}/delete_devices", {"devices": []}, self.alice)
        self.fill("m.login.password", session, password=PASSWORD)
        auth = {"session": session}
        for path, token in (("account/deactivate", self.alice), ("delete_devices", self.bob)):
            status, json = self.app.call("POST", f"{V3}/{path}", {"devices": [], "auth": auth}, token)
            self.assertEqual((403, "M_FORBIDDEN"), (status, json["errcode"]))
        self.app.ok("POST", f"{V3}/delete_devices", {"devices": [], "auth": auth}, self.alice)

    def test_nothing_to_prove(self) -> None:
        body = {"username": "carol", "password": PASSWORD}
        session = self.begin("POST", f"{V3}/register", body)
        page = self.look("m.login.dummy", session)
        self.assertIn("create an account here", page.text)
        status, _ = self.app.call("POST", f"{V3}/register", {**body, "auth": {"session": session}})
        self.assertEqual(401, status, "looking at the page proves nothing")
        self.assertTrue(self.is_done(self.fill("m.login.dummy", session)))
        made = self.app.ok("POST", f"{V3}/register", {**body, "auth": {"session": session}})
        self.assertEqual("@carol:test.example", made["user_id"])

    def test_what_is_not_asked_for(self) -> None:
        session = self.begin("POST", f"{V3}/register", {"username": "carol", "password": PASSWORD})
        for kind in (
            "m.login.password",
            "m.login.recaptcha",
            "m.login.terms",
            quote(EVIL, safe=""),
        ):
            self.look(kind, session, 404)
            self.fill(kind, session, 404, password=PASSWORD)

    def test_hostile_sessions(self) -> None:
        for session in ("", "unknown", EVIL, "x" * 5000):
            for page in (
                self.look("m.login.dummy", session, 404),
                self.fill("m.login.dummy", session, 404),
            ):
                self.assertNotIn("alert(1)", page.text)
        self.check(self.app.answer("GET", f"{V3}/auth/m.login.dummy/fallback/web"), 404)

    def test_hostile_forms(self) -> None:
        session = self.begin("POST", f"{V3}/delete_devices", {"devices": []}, self.alice)
        path = self.path("m.login.password", session)
        for body in (b"password=%ff", b"password=%00", b"&".join([b"a=b"] * 500)):
            self.check(self.app.answer("POST", path, body), 400)
        self.assertEqual(413, self.app.answer("POST", path, b"password=" + b"x" * 10_000).status)
        self.check(self.app.answer("POST", path, b"\x00\xff{}"), 400)

    def test_a_session_that_ended(self) -> None:
        session = self.begin("POST", f"{V3}/register", {"username": "carol", "password": PASSWORD})
        self.app.advance(24 * 3600)
        self.assertIn("Begin again", self.look("m.login.dummy", session, 404).text)


class Guesses(PagesCase):
    """Tokens, and that they cannot be guessed here either."""

    def setUp(self) -> None:
        limits = RateLimits(register=RateLimit(per_second=0.01, burst=3))
        config = test_config(
            data_dir=Path(self.mktemp()), registration=Registration(mode="token"), rate_limits=limits
        )
        self.app = TestApp(self, config=config)

    def test_registration_tokens(self) -> None:
        accounts = self.app.app.services.accounts
        self.app.wait(Deferred.fromCoroutine(accounts.create_registration_token("let-me-in")))
        body = {"username": "carol", "password": PASSWORD}
        session = self.begin("POST", f"{V3}/register", body)
        kind = "m.login.registration_token"
        self.assertIn("registration token", self.look(kind, session).text.lower())
        self.assertIn("not valid", self.fill(kind, session, 401, token="guess").text)
        self.assertTrue(self.is_done(self.fill(kind, session, token=" let-me-in ")))
        self.app.ok("POST", f"{V3}/register", {**body, "auth": {"session": session}})
        session = self.begin("POST", f"{V3}/register", {"username": "dave", "password": PASSWORD})
        # Each token that was filled in counts, and not the request that is made again then.
        self.fill(kind, session, 401, token="guess")
        self.assertIn("Too", self.fill(kind, session, 429, token="let-me-in").text)


class Addresses(PagesCase, MailCase):
    """A letter with a link, and back."""

    def test_from_the_page_to_the_account(self) -> None:
        body = {"username": "carol", "password": PASSWORD}
        session = self.begin("POST", f"{V3}/register", body)
        kind = "m.login.email.identity"
        self.assertIn("email", [one["name"] for one in self.look(kind, session).all("input")])
        self.assertIn("not an e-mail", self.fill(kind, session, 400, email="nonsense").text)
        sent = self.fill(kind, session, email="carol@example.org")
        hidden: dict[str, Any] = {str(one["name"]): str(one["value"]) for one in sent.all("input")}
        self.assertEqual({"sid", "client_secret"}, set(hidden))
        self.assertIn("not confirmed", self.fill(kind, session, 401, **hidden).text)
        path, query = self.link()
        self.check(self.app.answer("GET", path, query=query))
        self.check(self.app.answer("POST", path, query=query))
        self.fill(kind, session, 401, sid=hidden["sid"], client_secret=EVIL)
        self.assertTrue(self.is_done(self.fill(kind, session, **hidden)))
        answer = self.app.ok("POST", f"{V3}/register", {**body, "auth": {"session": session}})
        self.assertEqual(["carol@example.org"], self.threepids(answer["access_token"]))

    def test_an_address_in_the_old_way(self) -> None:
        body = {"three_pid_creds": {"sid": "x", "client_secret": "y"}}
        status, asked = self.app.call("POST", f"{V3}/account/3pid", body, self.alice)
        self.assertEqual(401, status)
        page = self.look("m.login.password", asked["session"])
        self.assertIn("add an address to your account", page.text)

    def test_a_new_password(self) -> None:
        self.have()
        body = {"new_password": "battery staple"}
        session = self.begin("POST", f"{V3}/account/password", body)
        self.assertIn("set a new password", self.look("m.login.email.identity", session).text)
        sent = self.fill("m.login.email.identity", session, email="alice@example.org")
        self.confirm()
        hidden: dict[str, Any] = {str(one["name"]): str(one["value"]) for one in sent.all("input")}
        self.assertTrue(self.is_done(self.fill("m.login.email.identity", session, **hidden)))
        self.app.ok("POST", f"{V3}/account/password", {**body, "auth": {"session": session}})


class TooOften(PagesCase, MailCase):
    limits = RateLimits(register=RateLimit(0.01, 3))

    def test_who_has_answered_the_letter_only_waits(self) -> None:
        body = {"username": "carol", "password": PASSWORD}
        session = self.begin("POST", f"{V3}/register", body)
        kind = "m.login.email.identity"
        page = self.fill(kind, session, email="carol@example.org")
        self.confirm()
        for status in (429, 200):
            hidden: dict[str, Any] = {str(one["name"]): str(one["value"]) for one in page.all("input")}
            self.assertEqual({"sid", "client_secret"}, set(hidden))
            page = self.fill(kind, session, status, **hidden)
            self.app.advance(200)
        self.assertTrue(self.is_done(page))
        self.app.ok("POST", f"{V3}/register", {**body, "auth": {"session": session}})


class LoginPage(PagesCase):
    """The page that logs in by its script (tests/e2e runs it)."""

    def test_the_page(self) -> None:
        self.app = TestApp(self)
        answer = self.app.answer("GET", "/_matrix/static/client/login/?device_id=GHTYAJCE")
        page = self.check(answer)
        self.assertEqual({"user", "password"}, {one["name"] for one in page.all("input")})
        self.assertIn("window.matrixLogin.onLogin(answer)", page.inline["script"])
        self.assertNotIn(b"GHTYAJCE", answer.body)
        policy = answer.headers["content-security-policy"]
        self.assertRegex(policy, re.compile(r"connect-src 'self'"))
        self.assertIn("form-action 'none'", policy)


class Limits(PagesCase):
    """What a client shows who has reached a limit of the account."""

    def test_too_many_devices(self) -> None:
        self.app = TestApp(self)
        self.app.register("alice")
        self.patch(devices, "MAX_DEVICES_PER_USER", 1)
        body = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}}
        status, json = self.app.call("POST", f"{V3}/login", {**body, "password": PASSWORD})
        self.assertEqual((403, "M_USER_LIMIT_EXCEEDED"), (status, json["errcode"]))
        self.assertEqual("https://test.example/_chaos/limits", json["info_uri"])

    def test_the_page(self) -> None:
        media = Media(user_quota_bytes=1_000_000)
        self.app = TestApp(self, config=test_config(data_dir=Path(self.mktemp()), media=media))
        page = self.check(self.app.answer("GET", "/_chaos/limits"))
        for text in ("Devices", "no limit", "1,000,000 bytes"):
            self.assertIn(text, page.text)

    def test_a_page_of_theirs(self) -> None:
        support = replace(test_config().support, support_page="https://help.example/")
        self.app = TestApp(self, config=test_config(data_dir=Path(self.mktemp()), support=support))
        alice = self.app.register("alice")
        self.patch(account_data, "MAX_ROWS_PER_USER", 0)
        path = f"{V3}/user/@alice:test.example/account_data/x"
        status, json = self.app.call("PUT", path, {}, alice)
        self.assertEqual((403, "https://help.example/"), (status, json["info_uri"]))
