"""An identity server for tests, as an HttpClient that leads to it."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Mapping
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
from twisted.internet.defer import Deferred, fail, succeed

from federation.hashes import decode_base64, unpadded
from federation.signing import sign_json
from homeserver.http.client import HttpResponse
from homeserver.http.transport import Unreachable
from tests.support.app import test_key


class FakeIdentityServer:
    """``owners``: who has which (medium, address). Asked under ``name`` alone."""

    def __init__(self, name: str = "id.example") -> None:
        self.name = name
        self.owners: dict[tuple[str, str], str] = {}
        self.validated: dict[tuple[str, str], tuple[str, str]] = {
            ("sid1", "secret"): ("email", "a@b.example")
        }
        self.asked: list[tuple[str, str, dict[str, Any] | None, str]] = []
        self.invites: list[dict[str, Any]] = []
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.key = test_key(name, seed=9)
        self.down = False
        self.key_is_valid = True

    def request(
        self, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] = {}, **_: Any
    ) -> Deferred[HttpResponse]:
        parts = urlsplit(url)
        if self.down or parts.scheme != "https" or parts.netloc != self.name:
            return fail(Unreachable(f"{url} is not there"))
        path = parts.path.removeprefix("/_matrix/identity/v2")
        if path == "/pubkey/isvalid":
            self.asked.append((method, path, None, ""))
            asked = parse_qs(parts.query).get("public_key", [""])[0]
            good = self.key_is_valid and decode_base64(asked, urlsafe=True) == self.key.public_key
            return succeed(HttpResponse(url, 200, msgspec.json.encode({"valid": good})))
        content = None if body is None else msgspec.json.decode(body)
        self.asked.append((method, path, content, headers.get("Authorization", "")))
        scripted = self.answers.get(path)
        status, answer = scripted if scripted is not None else self._answer(path, content or {}, headers)
        return succeed(HttpResponse(url, status, answer))

    def _answer(self, path: str, content: dict[str, Any], headers: Mapping[str, str]) -> tuple[int, bytes]:
        authorization = headers.get("Authorization", "")
        if path != "/3pid/unbind" and authorization != "Bearer idtoken":
            return _json(401, {"errcode": "M_UNAUTHORIZED", "error": "Unauthorized"})
        if path == "/3pid/bind":
            found = self.validated.get((content["sid"], content["client_secret"]))
            if found is None:
                return _json(404, {"errcode": "M_NO_VALID_SESSION", "error": "No valid session was found"})
            self.owners[found] = content["mxid"]
            return _json(200, {"medium": found[0], "address": found[1], "mxid": content["mxid"]})
        if path == "/3pid/unbind":
            threepid = content["threepid"]
            self.owners.pop((threepid["medium"], threepid["address"]), None)
            return _json(200, {})
        if path == "/hash_details":
            return _json(200, {"lookup_pepper": "matrixrocks", "algorithms": ["none", "sha256"]})
        if path == "/lookup":
            known = {hashed(address, medium): owner for (medium, address), owner in self.owners.items()}
            mappings = {one: known[one] for one in content["addresses"] if one in known}
            return _json(200, {"mappings": mappings})
        if path == "/store-invite":
            self.invites.append(content)
            key = {
                "public_key": unpadded(self.key.public_key),
                "key_validity_url": f"https://{self.name}/_matrix/identity/v2/pubkey/isvalid",
            }
            return _json(200, {"token": "sometoken", "public_keys": [key], "display_name": "a...@b..."})
        return _json(404, {"errcode": "M_NOT_FOUND", "error": "?"})

    def sign(self, user_id: str, **others: str) -> dict[str, Any]:
        """What it signs when an invited address turns out to be a user's."""
        return sign_json({"mxid": user_id, "token": "sometoken", **others}, self.key)


def hashed(address: str, medium: str) -> str:
    digest = sha256(f"{address} {medium} matrixrocks".encode()).digest()
    return urlsafe_b64encode(digest).rstrip(b"=").decode()


def _json(status: int, content: Any) -> tuple[int, bytes]:
    return status, msgspec.json.encode(content)
