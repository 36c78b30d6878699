"""Who administers this server, what it is, and from where somebody uses it."""

from __future__ import annotations

from typing import Any

import msgspec

from federation.ids import UserId
from homeserver import __version__
from homeserver.accounts.standing import Moderation
from homeserver.accounts.users import Accounts
from homeserver.http.errors import forbidden, not_found
from homeserver.http.request import Request
from homeserver.http.route import Route
from synapse_compat.gate import admin_route, find_local

_ADMIN = "/v1/users/{user_id:member_id}/admin"


class AdminBody(msgspec.Struct):
    admin: bool


class AdministratorsApi:
    """See the module."""

    def __init__(self, accounts: Accounts, moderation: Moderation) -> None:
        self._accounts = accounts
        self._moderation = moderation

    def routes(self) -> list[Route]:
        return [
            admin_route("GET", "/v1/server_version", self.version, "the-server"),
            admin_route("GET", "/v1/whois/{user_id:member_id}", self.whois, "users"),
            admin_route("GET", _ADMIN, self.get_admin, "users"),
            admin_route("PUT", _ADMIN, self.put_admin, "users"),
        ]

    async def version(self, _: Request) -> dict[str, str]:
        """What runs here: this is no Synapse, and does not say that it were one."""
        return {"server_version": f"CHAOS {__version__}"}

    async def whois(self, request: Request, user_id: UserId) -> dict[str, Any]:
        """From where a user's devices were last used."""
        return await self._moderation.whois(request.requester, user_id)

    async def get_admin(self, _: Request, user_id: UserId) -> dict[str, bool]:
        """Whether a user is an administrator."""
        return {"admin": bool((await find_local(self._accounts, user_id)).admin)}

    async def put_admin(self, request: Request, user_id: UserId) -> dict[str, Any]:
        """Make somebody an administrator, or no longer; nobody puts themselves out."""
        admin = request.json(AdminBody).admin
        account = await find_local(self._accounts, user_id)
        if user_id == request.requester.user_id and not admin:
            raise forbidden("You cannot take this from yourself")
        if account.deactivated and admin:
            raise not_found("This account is deactivated")
        await self._accounts.set_admin(user_id, admin)
        return {}
