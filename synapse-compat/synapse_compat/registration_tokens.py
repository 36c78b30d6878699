"""Tokens with which people may register, as those in charge make and change them."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from homeserver.accounts.users import MAX_REGISTRATION_TOKEN_LENGTH, Accounts
from homeserver.http.errors import invalid_param
from homeserver.http.request import Request
from homeserver.http.route import Route
from homeserver.runtime.clock import Clock
from homeserver.store.tokens import RegistrationToken
from synapse_compat.gate import admin_route, optional_flag

_ALL: Final = "/v1/registration_tokens"
_ONE: Final = _ALL + "/{token}"
_MOST: Final = 2**53 - 1


class NewTokenBody(msgspec.Struct):
    token: str | None = None
    uses_allowed: int | None = None
    expiry_time: int | None = None
    length: int = 16


class TokenBody(msgspec.Struct):
    """What is not there stays as it is; null is without end."""

    uses_allowed: int | UnsetType | None = UNSET
    expiry_time: int | UnsetType | None = UNSET


class RegistrationTokensApi:
    """See the module."""

    def __init__(self, accounts: Accounts, clock: Clock) -> None:
        self._accounts = accounts
        self._clock = clock

    def routes(self) -> list[Route]:
        return [
            admin_route("GET", _ALL, self.list_all, "registration-tokens"),
            admin_route("POST", _ALL + "/new", self.make, "registration-tokens"),
            admin_route("GET", _ONE, self.get, "registration-tokens"),
            admin_route("PUT", _ONE, self.change, "registration-tokens"),
            admin_route("DELETE", _ONE, self.delete, "registration-tokens"),
        ]

    async def list_all(self, request: Request) -> dict[str, Any]:
        """Every token; those that can be used now, or those that cannot, where the query asks for them."""
        valid = optional_flag(request, "valid")
        found = await self._accounts.list_registration_tokens()
        if valid is not None:
            found = [one for one in found if self._accounts.is_usable(one) is valid]
        return {"registration_tokens": [_shown(one) for one in found]}

    async def get(self, _: Request, token: str) -> dict[str, Any]:
        """One token."""
        return _shown(await self._accounts.find_registration_token(token))

    async def make(self, request: Request) -> dict[str, Any]:
        """A new token."""
        body = request.json(NewTokenBody)
        if not 0 < body.length <= MAX_REGISTRATION_TOKEN_LENGTH:
            raise invalid_param(f"length is between 1 and {MAX_REGISTRATION_TOKEN_LENGTH}")
        uses, expiry = self._checked(body.uses_allowed, body.expiry_time)
        token = await self._accounts.create_registration_token(body.token, uses, expiry, body.length)
        return _shown(await self._accounts.find_registration_token(token))

    async def change(self, request: Request, token: str) -> dict[str, Any]:
        """Another number of uses, or another end."""
        body = request.json(TokenBody)
        before = await self._accounts.find_registration_token(token)
        uses = before.uses_allowed if isinstance(body.uses_allowed, UnsetType) else body.uses_allowed
        expiry = None if isinstance(body.expiry_time, UnsetType) else body.expiry_time
        uses, expiry = self._checked(uses, expiry)
        if isinstance(body.expiry_time, UnsetType):
            expiry = before.expires_ts_ms
        await self._accounts.change_registration_token(token, uses, expiry)
        return _shown(await self._accounts.find_registration_token(token))

    async def delete(self, _: Request, token: str) -> dict[str, Any]:
        """Nobody registers with it any more."""
        await self._accounts.drop_registration_token(token)
        return {}

    def _checked(self, uses: int | None, expiry: int | None) -> tuple[int | None, int | None]:
        if uses is not None and not 0 <= uses <= _MOST:
            raise invalid_param("uses_allowed is a number, and no less than 0")
        if expiry is not None and not self._clock.now_ms() < expiry <= _MOST:
            raise invalid_param("expiry_time must not be over")
        return uses, expiry


def _shown(token: RegistrationToken) -> dict[str, Any]:
    return {
        "token": token.token,
        "uses_allowed": token.uses_allowed,
        "pending": 0,
        "completed": token.completed,
        "expiry_time": token.expires_ts_ms,
    }
