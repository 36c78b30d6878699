"""Accounts made by tools that know a shared secret: `GET` and `POST /_synapse/admin/v1/register`.

A tool asks for a nonce, and sends with the account an HMAC-SHA1 over nonce, name, password and role, keyed by the
secret. Every test harness and many bots make their accounts in this way.
"""

from __future__ import annotations

import hmac
from hashlib import sha1
from typing import Any

import msgspec

from homeserver.accounts.passwords import PasswordHasher
from homeserver.accounts.sessions import DeviceWish
from homeserver.accounts.text import MAX_DISPLAY_NAME_LENGTH, MAX_PASSWORD_LENGTH, check_text
from homeserver.accounts.users import Accounts
from homeserver.http.errors import MatrixError, forbidden, missing_param
from homeserver.http.request import Request
from homeserver.http.route import Auth, Route
from homeserver.runtime.clock import Clock
from homeserver.runtime.entropy import Entropy
from homeserver.store.users import NewAccount

NONCE_LIFETIME_S = 60.0
MAX_NONCES = 1_000
USER_TYPES = frozenset({"bot", "support"})
PATH = "/_synapse/admin/v1/register"
SPEC = "synapse-compat#shared-secret-registration"


class SecretBody(msgspec.Struct):
    """The request. `admin` is also part of what is signed."""

    nonce: str | None = None
    username: str | None = None
    password: str | None = None
    mac: str | None = None
    admin: bool | None = None
    user_type: str | None = None
    displayname: str | None = None
    inhibit_login: bool | None = None


class SharedSecretRegistrationApi:
    """Without a configured secret the endpoint refuses everything."""

    def __init__(
        self, secret: str | None, accounts: Accounts, hasher: PasswordHasher, clock: Clock, entropy: Entropy
    ) -> None:
        self._secret = secret
        self._accounts = accounts
        self._hasher = hasher
        self._clock = clock
        self._entropy = entropy
        # Nonce -> when it ends; oldest first.
        self._nonces: dict[str, float] = {}

    def routes(self) -> list[Route]:
        return [
            Route(
                method="GET", template=PATH, handler=self.get_nonce, auth=Auth.NONE, limit="read", spec=SPEC
            ),
            Route(
                method="POST",
                template=PATH,
                handler=self.register,
                auth=Auth.NONE,
                limit="write",
                max_body=65_536,
                spec=SPEC,
            ),
        ]

    async def get_nonce(self, _: Request) -> dict[str, str]:
        """A nonce, good for one account within a minute."""
        self._check_enabled()
        self._sweep()
        nonce = self._entropy.bytes(32).hex()
        self._nonces[nonce] = self._clock.monotonic() + NONCE_LIFETIME_S
        return {"nonce": nonce}

    async def register(self, request: Request) -> dict[str, Any]:
        """Make the account and log it in."""
        secret = self._check_enabled()
        body = request.json(SecretBody)
        nonce, username, password = _required(body)
        if self._nonces.pop(nonce, 0.0) <= self._clock.monotonic():
            raise MatrixError(400, "M_UNKNOWN", "unrecognised nonce")
        if body.user_type is not None and body.user_type not in USER_TYPES:
            raise MatrixError(400, "M_UNKNOWN", "Invalid user type")
        self._check_mac(secret, nonce, username, password, body)
        user_id = self._accounts.check_username(username)
        await self._accounts.check_free(user_id)
        display_name = username if body.displayname is None else body.displayname
        account = NewAccount(
            0,  # the number comes with the binding of the name
            await self._hasher.hash(password),
            self._clock.now_ms(),
            admin=bool(body.admin),
            user_type=body.user_type,
            display_name=check_text(display_name, "display name", MAX_DISPLAY_NAME_LENGTH),
        )
        wish = None if body.inhibit_login else DeviceWish()
        grant = await self._accounts.register(user_id, account, wish)
        answer = {"user_id": user_id, "home_server": self._accounts.server_name}
        return answer if grant is None else {**answer, **grant.to_json()}

    def _check_enabled(self) -> str:
        if self._secret is None:
            raise MatrixError(400, "M_UNKNOWN", "Shared secret registration is not enabled")
        return self._secret

    def _check_mac(self, secret: str, nonce: str, username: str, password: str, body: SecretBody) -> None:
        parts = [nonce, username, password, "admin" if body.admin else "notadmin"]
        if body.user_type:
            parts.append(body.user_type)
        text = "\0".join(parts).encode()
        wanted = hmac.new(secret.encode(), text, sha1).hexdigest()
        if not hmac.compare_digest(wanted.encode(), (body.mac or "").encode()):
            raise forbidden("HMAC incorrect")

    def _sweep(self) -> None:
        now_s = self._clock.monotonic()
        for nonce, ends_s in list(self._nonces.items()):
            if ends_s > now_s and len(self._nonces) < MAX_NONCES:
                break
            del self._nonces[nonce]


def _required(body: SecretBody) -> tuple[str, str, str]:
    if body.nonce is None:
        raise missing_param("nonce must be specified")
    if body.username is None:
        raise missing_param("username must be specified")
    if body.password is None:
        raise missing_param("password must be specified")
    if body.mac is None:
        raise missing_param("mac must be specified")
    # The parts are joined by NULs: one inside would let two different requests have the same code.
    check_text(body.username, "user name", 255)
    check_text(body.password, "password", MAX_PASSWORD_LENGTH)
    return body.nonce, body.username, body.password
