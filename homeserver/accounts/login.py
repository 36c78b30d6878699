"""Who somebody is: passwords and login tokens. spec: client-server-api#legacy-login"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from homeserver.accounts.passwords import PasswordHasher
from homeserver.accounts.sessions import Sessions
from homeserver.accounts.types import Requester
from homeserver.accounts.uia import Offer, StageRefusedError
from homeserver.accounts.users import MAX_ADDRESS, Accounts
from homeserver.http.errors import MatrixError, bad_json, forbidden, missing_param
from homeserver.http.ratelimit import RateLimiter
from homeserver.store.users import Account

PASSWORD = "m.login.password"  # noqa: S105 (the name of a stage)
TOKEN = "m.login.token"  # noqa: S105 (likewise)


class Identity:
    """Proves identities, slowly enough for those who guess."""

    def __init__(
        self, accounts: Accounts, hasher: PasswordHasher, sessions: Sessions, ratelimit: RateLimiter
    ) -> None:
        self._accounts = accounts
        self._hasher = hasher
        self._sessions = sessions
        self._ratelimit = ratelimit

    async def by_password(self, body: Mapping[str, Any]) -> Account:
        """The account of a login body with identifier and password."""
        name = named_user(body)
        password = body.get("password")
        if password is None:
            raise missing_param("password is missing")
        if name is None:
            raise missing_param("identifier is missing")
        if not isinstance(password, str):
            raise bad_json("password must be a string")
        # Guesses are counted by what is asked for, before anybody looks whether that exists: else the counting would tell
        # who has an account, and whose an address is.
        self._ratelimit.check("login", self._counted_as(name))
        account = await self._find(name)
        stored = None if account is None or account.deactivated else account.password_hash
        right = await self._hasher.check(password, stored)
        if not right or account is None:
            raise forbidden("Wrong user name or password")
        return account

    async def by_login_token(self, token: Any) -> Account:
        """The account of a login token, which is used up."""
        if token is None:
            raise missing_param("token is missing")
        if not isinstance(token, str):
            raise bad_json("token must be a string")
        account = await self._sessions.take_login_token(token)
        if account is None or account.deactivated:
            raise forbidden("The login token is not valid (any more)")
        return account

    def _counted_as(self, named: Named) -> str:
        """One key for all spellings of a name or an address."""
        if named.medium is not None:
            return f"address {named.name[:MAX_ADDRESS].strip().lower()}"
        localpart, _, domain = named.name[:255].removeprefix("@").lower().partition(":")
        return f"account @{localpart}:{domain or self._accounts.server_name}"

    async def _find(self, named: Named) -> Account | None:
        if named.medium is not None:
            return await self._accounts.find_by_address(named.medium, named.name)
        return await self._accounts.find_for_login(named.name)

    def password_offer(self, requester: Requester) -> Offer:
        """What endpoints ask for that only the owner of the account may use; the result is the account as it was then."""

        async def check(auth: dict[str, Any]) -> Account:
            return await self._check_owner(requester, auth)

        return Offer([[PASSWORD]], {PASSWORD: check}, user_id=requester.user_id)

    async def _check_owner(self, requester: Requester, auth: dict[str, Any]) -> Account:
        # spec: client-server-api#password-based
        password = auth.get("password")
        if password is None:
            raise missing_param("password is missing")
        if not isinstance(password, str):
            raise bad_json("password must be a string")
        named = named_user(auth) or Named(requester.user_id)
        account = await self._find(named)
        self._ratelimit.check("login", self._counted_as(Named(requester.user_id)))
        if account is None or account.user_nid != requester.user_nid:
            if named.medium is not None:
                # An address that is not known; one of somebody else's is refused alike, so that it tells nothing.
                raise forbidden("This is not an address of the account that makes the request")
            raise StageRefusedError("M_FORBIDDEN", "This is not the account that makes the request")
        if not await self._hasher.check(password, account.password_hash):
            raise StageRefusedError("M_FORBIDDEN", "Wrong password")
        return account


@dataclass(frozen=True, slots=True)
class Named:
    """Whom an identifier names: by a user id or localpart, or (with a medium) by an address."""

    name: str
    medium: str | None = None


def named_user(body: Mapping[str, Any]) -> Named | None:
    """Whom an identifier names, None where there is none; also in the form of old clients."""
    # spec: client-server-api#identifier-types
    identifier = body.get("identifier")
    if identifier is None:
        if body.get("medium") is not None:
            return _address(body)
        user = _string(body.get("user"))
        return None if user is None else Named(user)
    if not isinstance(identifier, dict):
        raise bad_json("identifier must be an object")
    kind = identifier.get("type")
    if (kind is None and "medium" in identifier) or kind == "m.id.thirdparty":
        return _address(identifier)
    if kind is None:
        raise missing_param("identifier.type is missing")
    if kind == "m.id.phone":
        # No account here has a number.
        return Named(_string(identifier.get("phone")) or "", "msisdn")
    if kind != "m.id.user":
        raise MatrixError(400, "M_UNKNOWN", "Unknown type of identifier")
    if identifier.get("user") is None:
        raise missing_param("identifier.user is missing")
    return Named(_string(identifier.get("user")) or "")


def _address(identifier: Mapping[str, Any]) -> Named:
    medium, address = identifier.get("medium"), identifier.get("address")
    if medium is None or address is None:
        raise missing_param("medium and address are needed")
    return Named(_string(address) or "", _string(medium))


def _string(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise bad_json("user must be a string")
    return value
