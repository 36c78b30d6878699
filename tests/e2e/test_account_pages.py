"""Letting apps in and looking after an account, in a real browser and without scripts.

spec: client-server-api#oauth-20-api
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from tests.e2e.support import Browser, BrowserCase
from tests.support.oauth import VERIFIER, challenge, scope

CORAL = "@coral:page.example"
PASSWORD = "correct horse battery"
DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"


class AccountPages(BrowserCase):
    """Coral comes with an app that knows OAuth 2.0 only."""

    def setUp(self) -> None:
        super().setUp()
        self.web = Browser(self.browser, self.folder / "driven")
        self.addCleanup(self.web.close)
        self.base = f"http://127.0.0.1:{self.port}"
        # Another origin: the same server by its other name.
        self.app = f"http://localhost:{self.port}"
        self.redirect_uri = f"{self.app}/robots.txt"
        answer = self.ask(
            "/oauth2/register",
            {
                "client_name": "Lagoon",
                "client_uri": self.app,
                "redirect_uris": [self.redirect_uri],
                "grant_types": ["authorization_code", "refresh_token", DEVICE_CODE],
            },
        )
        self.client_id = answer["client_id"]

    def ask(self, path: str, said: Any, *, as_form: bool = False) -> Any:
        """What an app is told; refusals too."""
        kind = "application/x-www-form-urlencoded" if as_form else "application/json"
        body = urlencode(said) if as_form else json.dumps(said)
        request = urllib.request.Request(self.base + path, body.encode(), {"Content-Type": kind})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as refused:
            return json.load(refused)

    def whoami(self, token: str) -> Any:
        request = urllib.request.Request(
            f"{self.base}/_matrix/client/v3/account/whoami", headers={"Authorization": f"Bearer {token}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as refused:
            return json.load(refused)

    def text(self) -> str:
        return str(self.web.run("document.body.innerText"))

    def authorize(self, device_id: str, **more: str) -> None:
        query = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": self.redirect_uri,
            "scope": scope(device_id),
            "state": "lagoon",
            "code_challenge": challenge(),
            "code_challenge_method": "S256",
            **more,
        }
        self.web.open(f"{self.base}/oauth2/authorize?{urlencode(query)}")

    def exchange(self) -> str:
        """The access token for the code that the browser has brought back to the app."""
        url = str(self.web.run("location.href"))
        self.assertTrue(url.startswith(f"{self.redirect_uri}?"), url)
        told = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        self.assertEqual(("lagoon", f"{self.base}/"), (told["state"], told["iss"]))
        said = {
            "grant_type": "authorization_code",
            "client_id": self.client_id,
            "code": told["code"],
            "redirect_uri": self.redirect_uri,
            "code_verifier": VERIFIER,
        }
        token: str = self.ask("/oauth2/token", said, as_form=True)["access_token"]
        return token

    def sign_up(self, device_id: str) -> str:
        """From the app to the pages, and back to it; its access token."""
        self.authorize(device_id, prompt="create")
        self.web.fill("Create account", username="coral", password=PASSWORD, again=PASSWORD)
        for words in ("Let Lagoon in?", f"localhost:{self.port}", CORAL):
            self.assertIn(words, self.text())
        self.web.fill("Continue")
        return self.exchange()

    def test_sign_up_by_an_app(self) -> None:
        who = self.whoami(self.sign_up("LAGOON1234"))
        self.assertEqual((CORAL, "LAGOON1234"), (who["user_id"], who["device_id"]))
        # Again, in the same browser: one press.
        self.authorize("LAGOON5678")
        self.web.fill("Continue")
        self.assertEqual("LAGOON5678", self.whoami(self.exchange())["device_id"])
        self.authorize("LAGOON9999")
        self.web.fill("Cancel")
        self.assertIn("error=access_denied", str(self.web.run("location.href")))

    def test_a_device_without_a_browser(self) -> None:
        self.sign_up("LAGOON1234")
        begun = self.ask(
            "/oauth2/device", {"client_id": self.client_id, "scope": scope("TELEVISION")}, as_form=True
        )
        poll = {
            "grant_type": DEVICE_CODE,
            "client_id": self.client_id,
            "device_code": begun["device_code"],
        }
        self.assertEqual("authorization_pending", self.ask("/oauth2/token", poll, as_form=True)["error"])
        self.web.open(begun["verification_uri"])
        self.web.fill("Continue", user_code=begun["user_code"].lower())
        self.assertIn(begun["user_code"], self.text())
        self.web.fill("Yes, connect it")
        self.assertIn("Your device is connected", self.text())
        token = self.ask("/oauth2/token", poll, as_form=True)["access_token"]
        self.assertEqual(
            (CORAL, "TELEVISION"), (self.whoami(token)["user_id"], self.whoami(token)["device_id"])
        )

    def test_sign_a_device_out(self) -> None:
        token = self.sign_up("LAGOON1234")
        self.web.open(f"{self.base}/account/?action=org.matrix.devices_list")
        self.web.follow("Lagoon")
        self.assertIn("LAGOON1234", self.text())
        self.web.follow("Sign this device out")
        self.assertEqual(CORAL, self.whoami(token)["user_id"])
        self.web.fill("Sign out")
        self.assertIn("signed in nowhere", self.text())
        self.assertEqual("M_UNKNOWN_TOKEN", self.whoami(token)["errcode"])

    def test_half_of_a_double_click(self) -> None:
        """What a window lets through that goes away in its middle, is for none of our buttons."""
        self.sign_up("LAGOON1234")
        self.authorize("LAGOON5678")
        here = "document.querySelector('.deliberate')"
        self.assertEqual("0.5s", self.web.run(f"getComputedStyle({here}, '::after').transitionDelay"))
        # However slow this machine is: for ever, and then not at all.
        for rule in ("transition-delay: 1000s", "transition: none"):
            self.web.run(
                "document.styleSheets[0].insertRule("
                f"'.deliberate::after {{ {rule} !important; }}', document.styleSheets[0].cssRules.length)"
            )
            self.assertIn("Let Lagoon in?", self.text())
            if rule == "transition: none":
                self.web.until(f"getComputedStyle({here}, '::after').visibility === 'hidden'")
            self.web.move_and_click("button[value=allow]")
        self.web.until(f"location.href.startsWith({json.dumps(self.redirect_uri)})")
        self.assertEqual("LAGOON5678", self.whoami(self.exchange())["device_id"])

    def test_on_a_small_phone(self) -> None:
        """Nothing hangs over the edge, and what is pressed is large enough for a finger."""
        self.sign_up("LAGOON1234")
        self.web.resize(320, 640)
        pages = ("", "profile", "devices", "device?device_id=LAGOON1234", "password", "deactivate")
        for url in [f"{self.base}/account/{page}" for page in pages] + [f"{self.base}/oauth2/link"]:
            self.web.open(url)
            self.look_at()
        for prompt in ("", "login", "create"):
            self.authorize("LAGOON5678", prompt=prompt)
            self.look_at()

    def look_at(self) -> None:
        self.assertEqual(320, self.web.run("document.documentElement.scrollWidth"), self.text())
        sizes = (
            "[...document.querySelectorAll('button, input:not([type=hidden]):not([type=checkbox]), .rows a')]"
        )
        self.assertGreaterEqual(
            self.web.run(f"Math.min(...{sizes}.map(one => one.getBoundingClientRect().height))"), 44
        )
