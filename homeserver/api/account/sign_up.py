"""Making an account with a browser: what POST /register asks for, on a page. spec: client-server-api#user-registration"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from typing import Final

from homeserver.accounts.registrar import Newcomer, Registrar
from homeserver.accounts.users import MAX_REGISTRATION_TOKEN_LENGTH, Accounts
from homeserver.api.account.entry import Entry
from homeserver.api.account.page import Pages, alert, button, field, form, password_field, see_other
from homeserver.api.account.sign_in import wait_words
from homeserver.api.account.visitors import Visitors
from homeserver.config.schema import Passwords
from homeserver.http.errors import MatrixError, forbidden, invalid_param
from homeserver.http.ratelimit import RateLimiter
from homeserver.http.request import Request
from homeserver.http.response import Response

_PLAIN: Final = 'autocapitalize="none" autocorrect="off" spellcheck="false" required'
_NAME_LENGTH_MOST: Final = 255


class SignUp:
    """See the module. ``policy``: what the configuration asks of passwords."""

    def __init__(
        self,
        pages: Pages,
        visitors: Visitors,
        registrar: Registrar,
        accounts: Accounts,
        limiter: RateLimiter,
        policy: Callable[[], Passwords],
    ) -> None:
        self._pages = pages
        self._visitors = visitors
        self._registrar = registrar
        self._accounts = accounts
        self._limiter = limiter
        self._policy = policy

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
            hint="By this others find you, and you cannot change it later. Letters, digits and . _ = - / +",
        )
        fields += password_field("password", "Password", is_new=True, hint=password_hint(self._policy()))
        fields += password_field("again", "Password, once more", is_new=True)
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
            user_id = await self._register(request, said, name, token)
        except MatrixError as error:
            words = wait_words(error) if error.status == 429 else f"{error.error}."
            refused = self.page(
                entry,
                error.status,
                words,
                name[:_NAME_LENGTH_MOST],
                token[:MAX_REGISTRATION_TOKEN_LENGTH],
            )
            refused.headers.extend(error.headers)
            return refused
        account = await self._accounts.find(user_id)
        assert account is not None
        return see_other(entry.onward, await self._visitors.begin(request, account))

    async def _register(self, request: Request, said: Mapping[str, str], name: str, token: str) -> str:
        self._registrar.check_open()
        self._limiter.check("register", request.client_ip)
        user_id = await self._registrar.check_name(name)
        password = said.get("password", "")
        self._registrar.check_password(password)
        if said.get("again") != password:
            raise invalid_param("The two passwords are not the same")
        used = None
        if self._registrar.mode == "token":
            if not await self._registrar.is_token_valid(token):
                raise forbidden("The registration token is not valid")
            used = token
        await self._registrar.register(Newcomer(user_id, name, password, used), None)
        return user_id


def password_hint(policy: Passwords) -> str:
    """What a new password must be like; empty where anything will do."""
    wanted = [
        (policy.require_digit, "a digit"),
        (policy.require_symbol, "a character that is no letter or digit"),
        (policy.require_uppercase, "a capital letter"),
        (policy.require_lowercase, "a small letter"),
    ]
    least = [f"{policy.minimum_length} characters"] if policy.minimum_length > 1 else []
    parts = [*least, *(words for needed, words in wanted if needed)]
    return f"At least {', '.join(parts)}." if parts else ""
