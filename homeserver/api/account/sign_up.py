"""Making an account with a browser: what POST /register asks for, on a page. spec: client-server-api#user-registration"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Final

from homeserver.accounts.login import Identity
from homeserver.accounts.registrar import Newcomer, Registrar
from homeserver.accounts.users import MAX_REGISTRATION_TOKEN_LENGTH, Accounts
from homeserver.api.account.entry import Entry
from homeserver.api.account.new_password import NewPassword
from homeserver.api.account.page import Pages, alert, button, field, form, see_other
from homeserver.api.account.visitors import Visitors
from homeserver.api.web.frame import words_of
from homeserver.http.errors import MatrixError, forbidden
from homeserver.http.ratelimit import RateLimiter
from homeserver.http.request import Request
from homeserver.http.response import Response
from homeserver.http.router import address_key
from homeserver.runtime.clock import Clock
from homeserver.store.users import Account

_PLAIN: Final = 'autocapitalize="none" autocorrect="off" spellcheck="false" required'
_NAME_LENGTH_MOST: Final = 255
_MADE_JUST_NOW_MS: Final = 60_000


class SignUp:
    """See the module."""

    def __init__(
        self,
        pages: Pages,
        visitors: Visitors,
        registrar: Registrar,
        accounts: Accounts,
        identity: Identity,
        limiter: RateLimiter,
        new_password: NewPassword,
        clock: Clock,
    ) -> None:
        self._pages = pages
        self._visitors = visitors
        self._registrar = registrar
        self._accounts = accounts
        self._identity = identity
        self._limiter = limiter
        self._clock = clock
        self._new_password = new_password

    @property
    def is_open(self) -> bool:
        """Whether somebody may make an account."""
        return self._registrar.mode != "closed"

    def page(
        self, entry: Entry, status: int = 200, error: str = "", name: str = "", token: str = ""
    ) -> Response:
        """The form; ``name`` and ``token``: what was typed before."""
        fields = field(
            "username",
            "User name",
            f'autocomplete="username" maxlength="{_NAME_LENGTH_MOST}" autofocus {_PLAIN}',
            value=name,
            affix=f":{self._pages.server_name}",
            hint="Others find you by it, and it stays. Letters, digits, . _ - = / +",
        )
        fields += self._new_password.fields("Password")
        if self._registrar.mode == "token":
            fields += field(
                "token",
                "Registration token",
                f'autocomplete="off" maxlength="{MAX_REGISTRATION_TOKEN_LENGTH}" {_PLAIN}',
                value=token,
                hint="The people who run this server gave you one.",
            )
        text = (
            f"<p>{entry.lead_html or 'to be at home here'}</p>{alert(error)}"
            + form("sign-up", fields + button("Create account"), form_token=entry.form_token)
            + f'<p class="other">Been here before? <a href="{escape(entry.sign_in)}">Sign in</a></p>'
        )
        return self._pages.page(status, "Create an account", text)

    async def take(self, request: Request, said: Mapping[str, str], entry: Entry) -> Response:
        """Make the account, sign in, and lead on."""
        name, token = said.get("username", "").strip().removeprefix("@"), said.get("token", "").strip()
        name = name.removesuffix(f":{self._pages.server_name}")
        try:
            account = await self._register(request, said, name, token)
        except MatrixError as error:
            refused = self.page(
                entry,
                error.status,
                words_of(error),
                name[:_NAME_LENGTH_MOST],
                token[:MAX_REGISTRATION_TOKEN_LENGTH],
            )
            refused.headers.extend(error.headers)
            return refused
        return see_other(entry.onward, await self._visitors.begin(request, account))

    async def _register(self, request: Request, said: Mapping[str, str], name: str, token: str) -> Account:
        self._registrar.check_open()
        self._limiter.check("register", address_key(request.client_ip))
        password = self._new_password.read(said)
        try:
            user_id = await self._registrar.check_name(name)
        except MatrixError as error:
            return await self._pressed_twice(error, name, password)
        used = None
        if self._registrar.mode == "token":
            if not await self._registrar.is_token_valid(token):
                raise forbidden("The registration token is not valid")
            used = token
        await self._registrar.register(Newcomer(user_id, name, password, used), None)
        account = await self._accounts.find(user_id)
        assert account is not None
        return account

    async def _pressed_twice(self, error: MatrixError, name: str, password: str) -> Account:
        """The account, where the same form has just made it: then the browser has thrown that answer away."""
        found = await self._accounts.find_for_login(name)
        age_ms = _MADE_JUST_NOW_MS if found is None else self._clock.now_ms() - found.created_ts_ms
        if error.errcode != "M_USER_IN_USE" or age_ms >= _MADE_JUST_NOW_MS:
            raise error
        try:
            account = await self._identity.by_password({"user": name, "password": password})
        except MatrixError:
            raise error from None
        if account.locked:
            raise error
        return account
