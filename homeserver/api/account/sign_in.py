"""Signing in with a browser. What a page says is the same whether or not there is such an account."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any, Final
from urllib.parse import urlencode

from homeserver.accounts.login import Identity
from homeserver.api.account import places
from homeserver.api.account.entry import Entry
from homeserver.api.account.page import Pages, alert, button, field, form, password_field, see_other
from homeserver.api.account.visitors import Visitors
from homeserver.api.web.frame import words_of
from homeserver.http.errors import MatrixError
from homeserver.http.ratelimit import RateLimiter
from homeserver.http.request import Request
from homeserver.http.response import Response
from homeserver.http.router import address_key

_WRONG: Final = "The name or the password is not right."
_LOCKED: Final = "This account is locked. The people who run this server know why."
_NAME: Final = 'autocomplete="username" autocapitalize="none" autocorrect="off" spellcheck="false" required'
_NAME_LENGTH_MOST: Final = 320


class SignIn:
    """See the module. ``with_mail``: who has forgotten their password can have a letter."""

    def __init__(
        self, pages: Pages, visitors: Visitors, identity: Identity, limiter: RateLimiter, *, with_mail: bool
    ) -> None:
        self._pages = pages
        self._visitors = visitors
        self._identity = identity
        self._limiter = limiter
        self._with_mail = with_mail

    def page(self, entry: Entry, status: int = 200, error: str = "", name: str = "") -> Response:
        """The form; ``name``: what was typed before."""
        name = name or self._hinted(entry.hint)
        on_name, on_password = ("", "autofocus") if name else (" autofocus", "")
        new = f'New here? <a href="{escape(entry.sign_up)}">Create an account</a>' if entry.sign_up else ""
        lost = ""
        if self._with_mail:
            to = f"{places.FORGOTTEN}?{urlencode({'then': entry.onward})}"
            lost = f'<a href="{escape(to)}">Forgotten your password?</a>'
        text = (
            f"<p>{entry.lead_html or 'to look after your account'}</p>{alert(error)}"
            + form(
                "sign-in",
                field("username", "User name or e-mail address", _NAME + on_name, value=name)
                + password_field("password", "Password", more=on_password)
                + button("Sign in"),
                form_token=entry.form_token,
            )
            + (f'<p class="other">{lost}</p>' if lost else "")
            + (f'<p class="other">{new}</p>' if new else "")
        )
        return self._pages.page(status, "Sign in", text)

    async def take(self, request: Request, said: Mapping[str, str], entry: Entry) -> Response:
        """Sign in, and lead on."""
        name = said.get("username", "").strip()[:_NAME_LENGTH_MOST]
        if name.startswith("@") and ":" in name and name.partition(":")[2] != self._pages.server_name:
            return self.page(entry, 403, f"{name} belongs to another server.", name)
        try:
            self._limiter.check("login", address_key(request.client_ip))
            account = await self._identity.by_password(_login(name, said.get("password", "")))
            if account.locked:
                return self.page(entry, 403, _LOCKED, name)
            return see_other(entry.onward, await self._visitors.begin(request, account))
        except MatrixError as error:
            refused = self.page(entry, error.status, words_of(error, _WRONG), name)
            refused.headers.extend(error.headers)
            return refused

    def _hinted(self, hint: str) -> str:
        """Whom an app takes the visitor for. Not more than a proposal: it is shown in the field."""
        name = hint.removeprefix("mxid:")[:_NAME_LENGTH_MOST]
        localpart, _, server_name = name.removeprefix("@").partition(":")
        return localpart if name.startswith("@") and server_name == self._pages.server_name else name


def _login(name: str, password: str) -> dict[str, Any]:
    """As an app would have it."""
    if "@" in name[1:]:
        return {
            "identifier": {"type": "m.id.thirdparty", "medium": "email", "address": name},
            "password": password,
        }
    return {"identifier": {"type": "m.id.user", "user": name}, "password": password}
