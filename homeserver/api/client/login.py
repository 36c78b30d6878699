"""Logging in, and tokens with which others log in. spec: client-server-api#legacy-login"""

from __future__ import annotations

from typing import Any

import msgspec

from homeserver.accounts.login import PASSWORD, TOKEN, Identity
from homeserver.accounts.sessions import LOGIN_TOKEN_LIFETIME_MS, DeviceWish, Sessions
from homeserver.accounts.text import check_device_id, check_device_name
from homeserver.accounts.types import Requester
from homeserver.accounts.uia import InteractiveAuth
from homeserver.api.client.appservice_accounts import APPSERVICE, AppserviceAccounts
from homeserver.config.schema import Config
from homeserver.http.errors import MatrixError, missing_param, user_locked
from homeserver.http.request import Request
from homeserver.http.route import Auth, Route

# The login flows do not offer `m.login.sso`, so no client comes here:
# spec-declined: GET /_matrix/client/v3/login/sso/redirect: no single sign-on, and no flow that leads to it
# spec-declined: GET /_matrix/client/v3/login/sso/redirect/{idpId}: no identity provider is known


class LoginBody(msgspec.Struct):
    """What concerns the device; who it is, the identity reads."""

    type: str | None = None
    device_id: str | None = None
    initial_device_display_name: str | None = None
    refresh_token: bool | None = None


class LoginApi:
    def __init__(
        self,
        config: Config,
        identity: Identity,
        sessions: Sessions,
        interactive: InteractiveAuth,
        appservices: AppserviceAccounts,
    ) -> None:
        self._server_name = config.server_name
        # Clients go where this says: better nothing than an address that was only guessed.
        self._well_known = (
            {}
            if config.public_url is None
            else {"well_known": {"m.homeserver": {"base_url": config.base_url}}}
        )
        self._identity = identity
        self._sessions = sessions
        self._interactive = interactive
        self._appservices = appservices

    def routes(self) -> list[Route]:
        return [
            Route(
                method="GET",
                template="/_matrix/client/v3/login",
                handler=self.flows,
                auth=Auth.NONE,
                spec="client-server-api#get_matrixclientv3login",
            ),
            Route(
                method="POST",
                template="/_matrix/client/v3/login",
                handler=self.login,
                auth=Auth.NONE,
                limit="login",
                max_body=65_536,
                spec="client-server-api#post_matrixclientv3login",
            ),
            Route(
                method="POST",
                template="/_matrix/client/v1/login/get_token",
                handler=self.get_token,
                auth=Auth.USER,
                limit="login",
                max_body=65_536,
                spec="client-server-api#post_matrixclientv1loginget_token",
                suspended_may=True,
            ),
        ]

    async def flows(self, _: Request) -> dict[str, Any]:
        flows = [{"type": PASSWORD}, {"type": TOKEN, "get_login_token": True}, *self._appservices.login_flows]
        return {"flows": flows}

    async def login(self, request: Request) -> dict[str, Any]:
        """Prove who one is, and get a device with its tokens."""
        whole = request.json()
        body = request.json(LoginBody)
        wish = DeviceWish(
            check_device_id(body.device_id),
            check_device_name(body.initial_device_display_name),
            refreshable=bool(body.refresh_token),
        )
        if body.type == PASSWORD:
            account = await self._identity.by_password(whole)
        elif body.type == TOKEN:
            account = await self._identity.by_login_token(whole.get("token"))
        elif body.type == APPSERVICE:
            account = await self._appservices.account_for_login(request, whole)
        elif body.type is None:
            raise missing_param("type is missing")
        else:
            raise MatrixError(400, "M_UNKNOWN", "Unknown type of login")
        if account.locked:
            raise user_locked()
        grant = await self._sessions.log_in(account, wish)
        answer = {"user_id": account.user_id, "home_server": self._server_name, **grant.to_json()}
        return {**answer, **self._well_known}

    async def get_token(self, request: Request) -> dict[str, Any]:
        """A login token for another client of the same user, who must confirm it each time."""
        requester: Requester = request.requester
        offer = self._identity.password_offer(requester)
        whole = request.json(allow_empty=True)
        proven = await self._interactive.confirm(request, whole, offer, user_nid=requester.user_nid)
        token = await self._sessions.make_login_token(proven[PASSWORD])
        return {"login_token": token, "expires_in_ms": LOGIN_TOKEN_LIFETIME_MS}
