"""Addresses of an account, and a new password by a letter, in a browser. spec: client-server-api#password-management"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from homeserver.accounts.passwords import PasswordHasher
from homeserver.config.schema import Email, RateLimit, RateLimits
from homeserver.http.errors import limit_exceeded
from tests.api.test_oauth_pages import EVIL, PASSWORD, PagesCase
from tests.support.app import TestApp, test_config
from tests.support.browser import check_page
from tests.support.databases import on_each_database
from tests.support.mail import FakeMailer
from tests.support.oauth import BASE, FORM, V3, told

ADDRESS = "alice@example.org"
NEW = "battery staple"


class MailCase(PagesCase):
    """The server of ``PagesCase``, which can send mail."""

    def make(self, **changes: Any) -> None:
        self.mailer = FakeMailer()
        config = test_config(
            data_dir=Path(self.mktemp()),
            public_url=BASE,
            email=Email("mail.example", "chat@test.example"),
            **changes,
        )
        self.app = TestApp(self, self.new_database(), config, mailer=self.mailer)

    def confirm(self) -> None:
        """Follow the link of the newest letter, in another browser."""
        found = re.search(r"https://\S+", self.mailer.sent[-1].text)
        assert found is not None
        parts = urlsplit(found[0])
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.assertEqual(200, self.app.answer("POST", parts.path, query=query).status)

    def addresses(self) -> list[str]:
        found = self.app.ok("GET", f"{V3}/account/3pid", token=self.token)["threepids"]
        return [one["address"] for one in found]

    def have(self, address: str = ADDRESS) -> None:
        """Add an address to alice's account."""
        self.browser.open("/account/addresses")
        if "Sign in" in self.browser.page.forms[0].buttons:
            self.sign_in()
        self.browser.send("Send a letter", email=address)
        self.confirm()
        self.browser.send("I have confirmed it")
        self.assertIn(address, self.browser.page.text)


@on_each_database
class Addresses(MailCase):
    def test_added_and_removed(self) -> None:
        self.browser.open("/account/")
        self.sign_in()
        self.browser.follow("E-mail addresses To sign in by, and when a password is lost")
        page = self.browser.send("Send a letter", email=f" {ADDRESS.upper()}")
        self.assertIn("Look into your mail", page.text)
        self.assertIn("No such address was verified", self.browser.send("I have confirmed it", 403).text)
        self.assertEqual([], self.addresses())
        self.confirm()
        self.assertIn(ADDRESS, self.browser.send("I have confirmed it").text)
        self.assertEqual([ADDRESS], self.addresses())
        self.browser.cookies.clear()
        self.browser.open("/account/addresses")
        self.sign_in(ADDRESS)
        self.browser.send("Remove")
        self.assertEqual([], self.addresses())

    def test_refused(self) -> None:
        self.have()
        for address in ("nonsense", "", EVIL):
            self.assertIn(
                "not an e-mail address", self.browser.send("Send a letter", 400, email=address).text
            )
        # The letter alone tells that it is taken.
        self.browser.send("Send a letter", email=ADDRESS)
        self.assertNotIn("https://", self.mailer.sent[-1].text)
        self.browser.open("/account/addresses")
        form = self.browser.page.forms[0]
        form.fields["address"] = "x" * 2000
        self.browser.send("Remove", 400)
        self.assertEqual([ADDRESS], self.addresses())
        self.lock(suspended=True)
        self.browser.open("/account/addresses")
        self.browser.send("Remove", 403)
        self.assertEqual([ADDRESS], self.addresses())

    def test_of_an_attempt_of_somebody_else(self) -> None:
        self.browser.open("/account/addresses")
        self.sign_in()
        self.browser.send("Send a letter", email=ADDRESS)
        self.confirm()
        self.browser.send("I have confirmed it", 403, client_secret="guess")
        self.browser.send("I have confirmed it", 403, sid=EVIL)
        self.assertEqual([], self.addresses())

    def test_the_password_after_some_time(self) -> None:
        self.browser.open("/account/addresses")
        self.sign_in()
        self.app.advance(601)
        page = self.browser.open("/account/addresses")
        self.assertIn("current", page.forms[0].fields)
        self.browser.send("Send a letter", 403, email=ADDRESS, current="wrong")
        self.assertEqual([], self.mailer.sent)
        self.browser.send("Send a letter", email=ADDRESS, current=PASSWORD)
        self.assertEqual(1, len(self.mailer.sent))

    def test_what_was_begun_elsewhere(self) -> None:
        # In a browser that somebody left signed in: an attempt that was begun without it adds no address.
        self.browser.open("/account/addresses")
        self.sign_in()
        self.browser.send("Send a letter", email=ADDRESS)
        body = {"client_secret": "s3cret", "email": "eve@example.org", "send_attempt": 1}
        sid = self.app.ok("POST", f"{V3}/account/3pid/email/requestToken", body)["sid"]
        self.confirm()
        self.app.advance(601)
        theirs = {"sid": sid, "client_secret": "s3cret"}
        page = self.browser.send("I have confirmed it", 403, **theirs)
        self.assertIn("type your password once more", page.text)
        self.browser.send("I have confirmed it", 403, current="wrong", **theirs)
        self.assertEqual([], self.addresses())
        self.browser.send("I have confirmed it", current=PASSWORD, **theirs)
        self.assertEqual(["eve@example.org"], self.addresses())


@on_each_database
class Forgotten(MailCase):
    def setUp(self) -> None:
        super().setUp()
        self.have()
        self.browser.cookies.clear()

    def test_from_an_app_and_back(self) -> None:
        self.authorize()
        self.browser.follow("Forgotten your password?")
        page = self.browser.send("Send the letter", email=f" {ADDRESS} ")
        self.assertIn("Look into your mail", page.text)
        page = self.renew(403)
        self.assertIn("not confirmed yet", page.text)
        self.confirm()
        self.assertIn("shorter", self.renew(400, password="", again="").text)
        self.assertIn("not the same", self.renew(400, again="other").text)
        page = self.renew()
        self.assertIn("Let Tester in?", page.text)
        self.browser.send("Continue")
        self.assertIn("code", told(self.browser.left))
        self.assertEqual(401, self.app.call("GET", f"{V3}/account/whoami", token=self.token)[0])
        self.browser.cookies.clear()
        self.authorize()
        self.sign_in(status=403)
        self.sign_in(password=NEW)

    def renew(self, status: int = 200, **changes: Any) -> Any:
        fields: dict[str, Any] = {"password": NEW, "again": NEW, **changes}
        return self.browser.send("Set the new password", status, **fields)

    def test_a_proof_is_good_once(self) -> None:
        self.browser.open("/account/forgotten")
        self.browser.send("Send the letter", email=ADDRESS)
        self.confirm()
        before, url = self.browser.page, self.browser.url
        self.renew()
        self.assertEqual(f"{BASE}/account/", self.browser.url)
        self.browser.page, self.browser.url = before, url
        self.browser.cookies.clear()
        self.renew(403, password="another", again="another")
        self.assertFalse(self.browser.cookies)

    def test_a_letter_is_good_until_it_has_served(self) -> None:
        async def refuse(*_: Any) -> str:
            raise limit_exceeded(1000)

        self.browser.open("/account/forgotten")
        self.browser.send("Send the letter", email=ADDRESS)
        self.confirm()
        busy = self.patch(PasswordHasher, "hash", refuse)
        self.renew(429)
        busy.restore()
        self.renew()
        self.assertEqual(f"{BASE}/account/", self.browser.url)

    def test_tells_nobody_who_is_here(self) -> None:
        self.browser.open("/account/forgotten")
        known = self.browser.send("Send the letter", email=ADDRESS)
        self.browser.open("/account/forgotten")
        unknown = self.browser.send("Send the letter", email="nobody@example.org")
        self.assertEqual(known.text, unknown.text)
        self.assertNotIn("https://", self.mailer.sent[-1].text)
        for status, address in ((400, "nonsense"), (400, EVIL)):
            self.browser.open("/account/forgotten")
            page = self.browser.send("Send the letter", status, email=address)
            self.assertEqual(address, page.forms[0].fields["email"])

    def test_who_is_locked(self) -> None:
        self.browser.open("/account/forgotten")
        self.browser.send("Send the letter", email=ADDRESS)
        self.confirm()
        self.lock(locked=True)
        self.renew(401)
        self.assertFalse(self.browser.cookies)

    def test_a_proof_for_something_else(self) -> None:
        """An address that was proven to be added says nothing of a password."""
        self.browser.open("/account/addresses")
        self.sign_in()
        self.browser.send("Send a letter", email="other@example.org")
        self.confirm()
        kept = dict(self.browser.page.forms[0].fields)
        self.browser.cookies.clear()
        self.browser.open("/account/forgotten")
        self.browser.send("Send the letter", email=ADDRESS)
        self.renew(403, sid=kept["sid"], client_secret=kept["client_secret"])

    def test_leads_nowhere_else(self) -> None:
        for then in (
            "https://evil.example/",
            "//evil.example/",
            "/\\evil.example",
            "/oauth2/authorize.evil",
            "/account/\r\nSet-Cookie: a=b",
            "",
        ):
            self.browser.cookies.clear()
            self.browser.left = ""
            self.browser.open("/account/forgotten", then=then)
            self.browser.send("Send the letter", email=ADDRESS)
            self.confirm()
            self.renew()
            self.assertEqual(f"{BASE}/account/", self.browser.url)
            self.assertEqual("", self.browser.left)

    def test_only_by_forms_of_ours(self) -> None:
        self.browser.open("/account/forgotten")
        self.mailer.sent.clear()
        self.browser.send("Send the letter", 403, headers={"Origin": "https://evil.example"}, email=ADDRESS)
        self.assertEqual([], self.mailer.sent)


class Limited(MailCase):
    def make(self, **changes: Any) -> None:
        limits = RateLimits(register=RateLimit(0.1, 3))
        super().make(rate_limits=limits, **changes)

    def test_letters(self) -> None:
        self.app.advance(100)
        for number in range(3):
            self.browser.open("/account/forgotten")
            self.browser.send("Send the letter", email=f"nobody{number}@example.org")
        self.browser.open("/account/forgotten")
        page = self.browser.send("Send the letter", 429, email=ADDRESS)
        self.assertIn("too often", page.text)
        assert self.browser.answer is not None
        self.assertIn("retry-after", self.browser.answer.headers)


class Anything(MailCase):
    """Whatever is sent to a page, a page is the answer."""

    def test_what_no_browser_sends(self) -> None:
        paths = sorted(
            route.template
            for route in self.app.app.router.routes
            if route.method == "POST" and route.template.startswith(("/account/", "/oauth2/link"))
        )
        self.assertEqual(11, len(paths))
        for path in paths:
            bodies: tuple[tuple[bytes, dict[str, str]], ...] = (
                (b"", {}),
                (b"{}", {"Content-Type": "application/json"}),
                (b"a=%ff", FORM),
            )
            for body, headers in bodies:
                answer = self.app.answer("POST", path, body, headers=headers)
                self.assertEqual(400, answer.status, path)
                check_page(answer)
            answer = self.app.answer("GET", f"{path}?device_id=%ff&prompt=%00")
            self.assertIn(answer.status, (200, 400), path)
            check_page(answer)
        self.assertEqual(303, self.app.answer("POST", "/account").status)


class WithoutMail(PagesCase):
    def test_nothing_of_it_is_there(self) -> None:
        self.assertNotIn("Forgotten your password?", self.authorize().links)
        for path in ("/account/forgotten", "/account/addresses"):
            self.assertEqual(404, self.app.answer("GET", path).status)
