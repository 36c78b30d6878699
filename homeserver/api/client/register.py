"""Making accounts. spec: client-server-api#legacy-account-registration"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from homeserver.accounts.registrar import Newcomer, Registrar
from homeserver.accounts.sessions import DeviceWish
from homeserver.accounts.text import check_device_id, check_device_name
from homeserver.accounts.uia import InteractiveAuth, Offer, Stage, StageRefusedError
from homeserver.accounts.users import Accounts
from homeserver.accounts.validations import STAGE, Validations
from homeserver.api.client.appservice_accounts import AppserviceAccounts, is_appservice
from homeserver.config.schema import Config
from homeserver.http.errors import MatrixError, bad_json, forbidden, invalid_param, missing_param, user_locked
from homeserver.http.ratelimit import RateLimiter
from homeserver.http.request import Request, convert_json
from homeserver.http.route import Auth, Route
from homeserver.http.router import address_key
from homeserver.runtime.clock import Clock
from homeserver.store.users import NewAccount
from homeserver.store.validations import Purpose

DUMMY = "m.login.dummy"
REGISTRATION_TOKEN = "m.login.registration_token"  # noqa: S105 (the name of a stage)


class RegisterBody(msgspec.Struct):
    """What a client sends; `auth` is read by the interactive authentication."""

    username: str | None = None
    password: str | None = None
    device_id: str | None = None
    initial_device_display_name: str | None = None
    inhibit_login: bool | None = None
    refresh_token: bool | None = None
    guest_access_token: str | None = None


class GuestBody(msgspec.Struct):
    """What is heeded of a guest's request."""

    initial_device_display_name: str | None = None


class RegisterApi:
    """`config` is asked each time, as registration may be opened or closed while the server runs."""

    def __init__(
        self,
        config: Callable[[], Config],
        accounts: Accounts,
        registrar: Registrar,
        interactive: InteractiveAuth,
        ratelimit: RateLimiter,
        clock: Clock,
        appservices: AppserviceAccounts,
        validations: Validations,
    ) -> None:
        self._config = config
        self._accounts = accounts
        self._registrar = registrar
        self._interactive = interactive
        self._ratelimit = ratelimit
        self._clock = clock
        self._appservices = appservices
        self._validations = validations

    def routes(self) -> list[Route]:
        return [
            Route(
                method="POST",
                template="/_matrix/client/v3/register",
                handler=self.register,
                auth=Auth.NONE,
                # Asking for the flows is cheap and comes before every attempt, so it does not count as one.
                limit="write",
                max_body=65_536,
                spec="client-server-api#post_matrixclientv3register",
            ),
            Route(
                method="GET",
                template="/_matrix/client/v3/register/available",
                handler=self.available,
                auth=Auth.NONE,
                # Clients ask while the name is being typed.
                limit="search",
                spec="client-server-api#get_matrixclientv3registeravailable",
            ),
            Route(
                method="GET",
                template="/_matrix/client/v1/register/m.login.registration_token/validity",
                handler=self.token_validity,
                auth=Auth.NONE,
                limit="register",
                spec="client-server-api#get_matrixclientv1registermloginregistration_tokenvalidity",
            ),
        ]

    async def register(self, request: Request) -> dict[str, Any]:
        """Make an account, and log its first device in unless the client says no."""
        if self._is_for_guest(request):
            return await self._register_guest(request)
        whole = request.json(allow_empty=True)
        if is_appservice(whole):
            return await self._appservices.register(request, whole)
        self._registrar.check_open()
        body = request.json(RegisterBody, allow_empty=True)
        recalled = self._interactive.recall(whole)
        if recalled is not whole:
            whole, body = recalled, convert_json(recalled, RegisterBody)
        count = partial(self._ratelimit.check, "register", address_key(request.client_ip))
        if _is_attempt(whole.get("auth")):
            count()
        # Before the interactive authentication, as the specification asks: nobody should confirm in vain.
        user_id = await self._check_name(body)
        if body.password is not None:
            self._registrar.check_password(body.password)
        wish = DeviceWish(
            check_device_id(body.device_id),
            check_device_name(body.initial_device_display_name),
            refreshable=bool(body.refresh_token),
        )
        results = await self._interactive.confirm(request, whole, self._offer(count))
        if body.password is None:
            raise missing_param("password is missing")
        username = body.username or ""
        if user_id is None or not username:
            user_id, username = self._registrar.draw_name()
        newcomer = Newcomer(
            user_id, username, body.password, results.get(REGISTRATION_TOKEN), results.get(STAGE)
        )
        wanted = None if body.inhibit_login else wish
        was_guest = body.guest_access_token is not None
        grant = await self._registrar.register(newcomer, wanted, was_guest=was_guest)
        answer = {"user_id": user_id, "home_server": self._accounts.server_name}
        return answer if grant is None else {**answer, **grant.to_json()}

    async def _check_name(self, body: RegisterBody) -> str | None:
        """The user id that is asked for; a guest keeps theirs."""
        if body.guest_access_token is not None:
            user_id = None if body.username is None else self._accounts.check_username(body.username)
            await self._check_guest(user_id, body.guest_access_token)
            return user_id
        return None if body.username is None else await self._registrar.check_name(body.username)

    def _is_for_guest(self, request: Request) -> bool:
        kind = request.arg("kind", "user")
        if kind not in ("guest", "user"):
            raise invalid_param("kind must be user or guest")
        return kind == "guest"

    async def _register_guest(self, request: Request) -> dict[str, Any]:
        """An account without a password, for who looks around. Of the body only the device's name is heeded."""
        # spec: client-server-api#guest-access
        if not self._config().registration.guests:
            raise MatrixError(403, "M_GUEST_ACCESS_FORBIDDEN", "Guests are not admitted here")
        self._ratelimit.check("register", address_key(request.client_ip))
        body = request.json(GuestBody, allow_empty=True)
        wish = DeviceWish(display_name=check_device_name(body.initial_device_display_name))
        user_id, _ = self._registrar.draw_name()
        account = NewAccount(0, None, self._clock.now_ms(), guest=True)
        grant = await self._accounts.register(user_id, account, wish)
        answer = {"user_id": user_id, "home_server": self._accounts.server_name}
        return answer if grant is None else {**answer, **grant.to_json()}

    async def _check_guest(self, user_id: str | None, token: str) -> None:
        """A guest keeps the name: refuse what is not that guest's token."""
        guest = await self._accounts.find_guest(token)
        if guest is None:
            raise forbidden("guest_access_token is not the access token of a guest")
        if guest.locked:
            raise user_locked()
        if guest.user_id != user_id:
            raise MatrixError(400, "M_INVALID_USERNAME", "username must be that of the guest")

    def _offer(self, count: Callable[[], None]) -> Offer:
        """What is asked for; where mail can be sent, an address may be proven with it."""
        check: Stage
        if self._registrar.mode == "token":
            last, check = REGISTRATION_TOKEN, self._check_token
        else:
            last, check = DUMMY, _accept
        stages: dict[str, Stage] = {last: check}
        flows = [[last]]
        if self._validations.possible:
            flows.append([STAGE] if last == DUMMY else [STAGE, last])
            # Each account counts: where a letter alone makes it, nothing was tried that did. In the stage, for who has
            # to wait then keeps their session.
            stages[STAGE] = self._validations.stage(Purpose.REGISTER, count if last == DUMMY else None)
        return Offer(flows, stages)

    async def _check_token(self, auth: dict[str, Any]) -> str:
        token = auth.get("token")
        if token is None:
            raise missing_param("token is missing")
        if not isinstance(token, str):
            raise bad_json("token must be a string")
        if not await self._registrar.is_token_valid(token):
            raise StageRefusedError("M_FORBIDDEN", "The registration token is not valid")
        return token

    async def available(self, request: Request) -> dict[str, bool]:
        """Whether a name is free."""
        self._registrar.check_open()
        await self._registrar.check_name(request.required_arg("username"))
        return {"available": True}

    async def token_validity(self, request: Request) -> dict[str, bool]:
        """Whether somebody could register with a token."""
        # spec: client-server-api#token-authenticated-registration
        token = request.required_arg("token")
        self._registrar.check_open()
        return {"valid": await self._registrar.is_token_valid(token)}


def _is_attempt(auth: Any) -> bool:
    """Whether something is tried, so that it counts.

    Clients ask every other second whether a page was filled in (with the session alone) or a letter was answered. That
    only looks. What there is to find counted when it was done: on the page, and with the letter.
    """
    return isinstance(auth, dict) and auth.get("type") not in (None, STAGE)


async def _accept(auth: dict[str, Any]) -> None:
    """spec: client-server-api#dummy-auth"""
