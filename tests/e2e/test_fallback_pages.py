"""The fallback pages in a real browser, from the form to what the app is told.

spec: client-server-api#fallback, client-server-api#login-fallback
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from tests.e2e.support import Browser, BrowserCase

V3 = "/_matrix/client/v3"
JUNIPER = "@juniper:page.example"


class FallbackPages(BrowserCase):
    """Juniper of the sample community logs in and confirms."""

    def setUp(self) -> None:
        super().setUp()
        self.web = Browser(self.browser, self.folder / "driven")
        self.addCleanup(self.web.close)
        self.password = self.sample_password()

    def sample_password(self) -> str:
        self.open("/")
        return str(self.web.run("document.querySelector('code.word').textContent"))

    def open(self, path: str) -> None:
        self.web.open(f"http://127.0.0.1:{self.port}{path}")

    def ask(self, path: str, body: Any, token: str | None = None) -> tuple[int, Any]:
        headers = {"Content-Type": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{V3}{path}", json.dumps(body).encode(), headers, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as refused:
            return refused.code, json.load(refused)

    def fill(self, **fields: str) -> None:
        """Fill the form in and send it, as somebody who clicks its button."""
        for name, value in fields.items():
            self.web.run(f"document.getElementById({json.dumps(name)}).value = {json.dumps(value)}")
        self.web.run("document.querySelector('form button').click()")

    def test_log_in(self) -> None:
        self.open("/_matrix/static/client/login/?device_id=PHONE&initial_device_display_name=My+%22phone%22")
        # As apps do it, after the page has loaded.
        self.web.run("window.matrixLogin.onLogin = function (answer) { window.told = answer; }")
        self.fill(user="juniper", password="wrong")
        said = "document.getElementById('alert').textContent"
        self.assertIn("Wrong", self.web.until(said))
        self.assertIsNone(self.web.run("window.told || null"))
        self.fill(password=self.password)
        told = self.web.until("window.told")
        self.assertEqual((JUNIPER, "PHONE"), (told["user_id"], told["device_id"]))
        self.assertEqual("", self.web.run("document.getElementById('password').value"))
        self.assertIn(JUNIPER, self.web.run("document.querySelector('#done').innerText"))

    def begin(self) -> tuple[str, Callable[[], int]]:
        """Ask for something that is to be confirmed: the page for that, and how to ask again (for the status)."""
        credentials = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "juniper"}}
        token = self.ask("/login", {**credentials, "password": self.password})[1]["access_token"]
        body: dict[str, Any] = {"devices": ["GONE"]}
        status, asked = self.ask("/delete_devices", body, token)
        self.assertEqual(401, status)
        again = {**body, "auth": {"session": asked["session"]}}
        path = f"{V3}/auth/m.login.password/fallback/web?session={asked['session']}"
        return path, lambda: self.ask("/delete_devices", again, token)[0]

    def test_confirm(self) -> None:
        path, ask_again = self.begin()
        self.web.before_pages("window.onAuthDone = function () { window.told = true; };")
        self.open(path)
        self.fill(password="wrong")
        self.assertIn("Wrong", self.web.until("document.querySelector('.alert')?.textContent"))
        self.fill(password=self.password)
        self.assertTrue(self.web.until("window.told"))
        self.assertEqual(200, ask_again())

    def test_a_page_that_opened_it_is_told(self) -> None:
        """By a message between windows, as a web client of another origin gets it."""
        path, ask_again = self.begin()
        # A page of another origin: the same server by its other name.
        self.web.open(f"http://localhost:{self.port}/robots.txt")
        url = json.dumps(f"http://127.0.0.1:{self.port}{path}")
        self.web.run(
            "window.addEventListener('message', function (event) { window.told = [event.data, event.origin]; });"
            f"window.popup = window.open({url}); true"
        )
        with self.web.popup(path):
            self.web.until("document.readyState === 'complete' && !!document.querySelector('form')")
            self.fill(password=self.password)
        self.assertEqual(["authDone", f"http://127.0.0.1:{self.port}"], self.web.until("window.told"))
        self.assertEqual(200, ask_again())
