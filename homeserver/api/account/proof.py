"""Proving once more who it is, before what cannot be taken back: by the password, unless one has just signed in."""

from __future__ import annotations

from homeserver.accounts.login import PASSWORD, Identity
from homeserver.accounts.uia import StageRefusedError
from homeserver.api.account.page import password_field
from homeserver.api.account.visitors import Visitor
from homeserver.http.errors import forbidden
from homeserver.http.ratelimit import RateLimiter
from homeserver.http.request import Request
from homeserver.http.router import address_key
from homeserver.store.users import Account

FIELD = "current"


class Proofs:
    """See the module."""

    def __init__(self, identity: Identity, limiter: RateLimiter) -> None:
        self._identity = identity
        self._limiter = limiter

    async def check(self, request: Request, visitor: Visitor, password: str) -> Account:
        """Refuse what is not the visitor's password; the account as it was then. Guesses are counted as where an app makes them."""
        stage = self._identity.password_offer(visitor.requester).stages[PASSWORD]
        try:
            self._limiter.check("login", address_key(request.client_ip))
            proven: Account = await stage({"password": password})
        except StageRefusedError:
            raise forbidden("The password is not right") from None
        return proven

    async def check_unless_recent(self, request: Request, visitor: Visitor, password: str) -> Account:
        """The same, where it is some time since somebody signed in."""
        if visitor.is_recent:
            return visitor.account
        if not password:
            # A form that was made when they had just signed in had no field for it.
            raise forbidden("It is some time since you signed in: type your password once more")
        return await self.check(request, visitor, password)


def proof_field(visitor: Visitor) -> str:
    """The field that ``check_unless_recent`` asks for."""
    return "" if visitor.is_recent else password_field(FIELD, "Your password")
