"""An app that logs people in by OAuth 2.0, as the specification has it: over the HTTP harness."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from twisted.internet.defer import Deferred

from tests.support.app import TestApp
from tests.support.http import Answer

BASE = "https://chat.test.example"
V3 = "/_matrix/client/v3"
METADATA: dict[str, Any] = {
    "client_name": "Tester",
    "client_uri": "https://app.example/",
    "redirect_uris": ["https://app.example/callback"],
    "grant_types": ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"],
    "response_types": ["code"],
    "token_endpoint_auth_method": "none",
    "application_type": "web",
}
VERIFIER = "v" * 43
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def challenge(verifier: str = VERIFIER) -> str:
    """S256 of RFC 7636."""
    return urlsafe_b64encode(sha256(verifier.encode()).digest()).decode().rstrip("=")


def scope(device_id: str = "APPDEVICE1", *more: str) -> str:
    """What apps ask for."""
    return " ".join([*more, "urn:matrix:client:api:*", f"urn:matrix:client:device:{device_id}"])


class OAuthApp:
    """One app, registered with one server."""

    def __init__(self, app: TestApp, **metadata: Any) -> None:
        self.app = app
        self.metadata = {**METADATA, **metadata}
        answer = app.answer("POST", "/oauth2/register", self.metadata)
        if answer.status != 201:
            raise AssertionError(f"{answer.status} {answer.json}")
        self.client_id: str = answer.json["client_id"]
        self.redirect_uri: str = next(iter(self.metadata["redirect_uris"]), "")

    def query(self, device_id: str = "APPDEVICE1", **changes: Any) -> dict[str, Any]:
        """An authorization request."""
        asked = {
            "response_type": "code",
            "response_mode": "query",
            "client_id": self.client_id,
            "redirect_uri": self.redirect_uri,
            "scope": scope(device_id),
            "state": "the state",
            "code_challenge": challenge(),
            "code_challenge_method": "S256",
            **changes,
        }
        return {name: value for name, value in asked.items() if value is not None}

    def code(self, user_id: str, device_id: str = "APPDEVICE1", **changes: Any) -> str:
        """The code that the app has when somebody has let it in (the pages have tests of their own)."""
        authorizing = self.app.app.services.authorizing
        args = {name: [value] for name, value in self.query(device_id, **changes).items()}

        async def allow() -> str:
            request = await authorizing.requests.parse(args)
            account = await self.app.app.services.accounts.find(user_id)
            assert account is not None
            return await authorizing.grants.allow(request, account)

        return self.app.wait(Deferred.fromCoroutine(allow()))

    def post(self, path: str, **said: Any) -> Answer:
        """A form of the app."""
        body = urlencode([(name, value) for name, value in said.items() if value is not None])
        return self.app.answer("POST", path, body.encode(), headers=FORM)

    def token(self, **said: Any) -> Answer:
        return self.post("/oauth2/token", **{"client_id": self.client_id, **said})

    def exchange(self, code: str, **changes: Any) -> Answer:
        """Tokens for a code."""
        said = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.redirect_uri,
            "code_verifier": VERIFIER,
            **changes,
        }
        return self.token(**said)

    def log_in(self, user_id: str, device_id: str = "APPDEVICE1", **changes: Any) -> dict[str, Any]:
        """The whole way; the answer with the tokens."""
        answer = self.exchange(self.code(user_id, device_id, **changes))
        if answer.status != 200:
            raise AssertionError(f"{answer.status} {answer.json}")
        tokens: dict[str, Any] = answer.json
        return tokens

    def refresh(self, refresh_token: str, **changes: Any) -> Answer:
        return self.token(**{"grant_type": "refresh_token", "refresh_token": refresh_token, **changes})

    def revoke(self, token: str, **said: Any) -> Answer:
        return self.post("/oauth2/revoke", token=token, **said)


def told(location: str) -> dict[str, str]:
    """What an address of an app that the browser is sent to says."""
    parts = urlsplit(location)
    return {name: values[0] for name, values in parse_qs(parts.fragment or parts.query).items()}
