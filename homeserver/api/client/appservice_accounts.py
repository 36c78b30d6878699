"""Accounts that application services make and log in, and names that are theirs alone.

# spec: application-service-api#server-admin-style-permissions
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from homeserver.accounts.login import named_user
from homeserver.accounts.sessions import DeviceWish
from homeserver.accounts.text import check_device_id, check_device_name
from homeserver.accounts.users import Accounts
from homeserver.appservices.registry import Appservice, Registry
from homeserver.http.errors import (
    MatrixError,
    bad_json,
    forbidden,
    missing_param,
    missing_token,
    unknown_token,
    user_deactivated,
)
from homeserver.http.request import Request, convert_json
from homeserver.runtime.clock import Clock
from homeserver.store.users import Account, NewAccount

APPSERVICE = "m.login.application_service"


class GhostBody(msgspec.Struct):
    """What an application service says of an account to be made."""

    username: str | None = None
    device_id: str | None = None
    initial_device_display_name: str | None = None
    inhibit_login: bool | None = None
    refresh_token: bool | None = None


class AppserviceAccounts:
    """For ``RegisterApi`` and ``LoginApi``; with no application service it allows everything and makes nothing."""

    def __init__(self, registry: Registry, accounts: Accounts, clock: Clock) -> None:
        self._registry = registry
        self._accounts = accounts
        self._clock = clock

    @property
    def login_flows(self) -> list[dict[str, str]]:
        """What GET /login lists of it."""
        return [{"type": APPSERVICE}] if self._registry.all else []

    def check_open(self, user_id: str, service: Appservice | None = None) -> str:
        """Refuse a name that belongs to somebody else's application service."""
        if self._registry.is_user_reserved(user_id, None if service is None else service.id):
            raise _exclusive(f"{user_id} belongs to an application service")
        return user_id

    async def register(self, request: Request, whole: dict[str, Any]) -> dict[str, Any]:
        """An account without a password; logged in unless the application service says no."""
        service = self._service_of(request)
        body = convert_json(whole, GhostBody)
        if body.username is None:
            raise missing_param("username is missing")
        user_id = self._accounts.check_ghost_name(body.username)
        if not service.owns_user(user_id):
            raise _exclusive(f"{user_id} is not in the application service's namespaces")
        self.check_open(user_id, service)
        await self._accounts.check_free(user_id)
        wish = None
        if not body.inhibit_login:
            wish = DeviceWish(
                check_device_id(body.device_id),
                check_device_name(body.initial_device_display_name),
                refreshable=bool(body.refresh_token),
            )
        grant = await self._accounts.register(user_id, self._ghost(service, user_id), wish)
        answer = {"user_id": user_id, "home_server": self._accounts.server_name}
        return answer if grant is None else {**answer, **grant.to_json()}

    async def make_sender(self, service: Appservice) -> None:
        """The account of its sender, where there is none yet."""
        try:
            await self._accounts.register(service.sender_id, self._ghost(service, service.sender_id), None)
        except MatrixError as error:
            if error.errcode != "M_USER_IN_USE":  # a request beside this one may have been faster
                raise

    def _ghost(self, service: Appservice, user_id: str) -> NewAccount:
        localpart = user_id[1:].partition(":")[0]
        return NewAccount(0, None, self._clock.now_ms(), display_name=localpart, appservice_id=service.id)

    async def account_for_login(self, request: Request, body: Mapping[str, Any]) -> Account:
        """Whom an application service logs in."""
        # spec: client-server-api#appservice-login, which has M_FORBIDDEN for a token that is none; here it is 401 as
        # application-service-api#server-admin-style-permissions says in so many words, and as everywhere else.
        service = self._service_of(request)
        named = named_user(body)
        if named is None:
            raise missing_param("identifier is missing")
        if named.medium is not None:
            raise forbidden("An application service names its users by their names")
        account = await self._accounts.find_for_login(named.name)
        user_id = account.user_id if account is not None else self._full(named.name)
        if not service.owns_user(user_id):
            raise _exclusive(f"{user_id[:300]} is not in the application service's namespaces")
        if account is None and user_id == service.sender_id:
            await self.make_sender(service)
            account = await self._accounts.find_for_login(user_id)
        if account is None:
            raise forbidden("There is no such account")
        if account.deactivated:
            raise user_deactivated()
        return account

    def _full(self, name: str) -> str:
        return name if name.startswith("@") else f"@{name}:{self._accounts.server_name}"

    def _service_of(self, request: Request) -> Appservice:
        token = request.access_token()
        if token is None:
            raise missing_token()
        service = self._registry.by_token(token)
        if service is None:
            raise unknown_token()
        return service


def _exclusive(error: str) -> MatrixError:
    return MatrixError(400, "M_EXCLUSIVE", error)


def is_appservice(whole: Mapping[str, Any]) -> bool:
    """Whether a body of /register or /login is an application service's."""
    kind = whole.get("type")
    if kind is not None and not isinstance(kind, str):
        raise bad_json("type must be a string")
    return kind == APPSERVICE
