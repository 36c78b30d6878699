"""A new password for who has forgotten theirs, and has an address. What is said tells nobody whether there is an account.

spec: client-server-api#password-management
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from homeserver.accounts.lost_passwords import find_by_proof
from homeserver.accounts.users import Accounts
from homeserver.accounts.validations import Validations
from homeserver.api.account import places
from homeserver.api.account.new_password import NewPassword
from homeserver.api.account.page import (
    STEP,
    Pages,
    alert,
    attempt_fields,
    button,
    field,
    form,
    see_other,
)
from homeserver.api.account.shown import shown_routes
from homeserver.api.account.visitors import Visitors, read_form
from homeserver.api.web.frame import words_of
from homeserver.http.errors import MatrixError, forbidden
from homeserver.http.ratelimit import RateLimiter
from homeserver.http.request import Request
from homeserver.http.response import Response
from homeserver.http.route import Route
from homeserver.http.router import address_key
from homeserver.oauth.metadata import AUTHORIZE, LINK
from homeserver.store.users import Account
from homeserver.store.validations import Purpose

_THEN: Final = (places.START, f"{AUTHORIZE}?", f"{LINK}?")
_THEN_LENGTH_MOST: Final = 8192


class ForgottenApi:
    """See the module."""

    def __init__(
        self,
        pages: Pages,
        visitors: Visitors,
        accounts: Accounts,
        validations: Validations,
        new_password: NewPassword,
        limiter: RateLimiter,
    ) -> None:
        self._pages = pages
        self._visitors = visitors
        self._accounts = accounts
        self._validations = validations
        self._new_password = new_password
        self._limiter = limiter

    def routes(self) -> list[Route]:
        return shown_routes(self._pages, places.FORGOTTEN, self.show, "client-server-api#password-management")

    async def show(self, request: Request) -> Response:
        """Ask for the address; then, with the letter's proof, for the new password."""
        visitor = await self._visitors.find(request)
        token = "" if visitor is None else visitor.token
        if request.method != "POST":
            return self._ask(token)
        said = read_form(request)
        if not self._visitors.is_ours(request, said, visitor):
            return self._ask(token, forbidden("This form was not sent from its page"))
        if said.get(STEP) == "new":
            return await self._set(request, said, token)
        try:
            self._limiter.check("register", address_key(request.client_ip))
            attempt = await self._validations.begin_on_page(Purpose.PASSWORD, said.get("email", ""))
        except MatrixError as error:
            return self._ask(token, error, said.get("email", "")[:320])
        return self._letter(attempt, token)

    async def _set(self, request: Request, said: Mapping[str, str], token: str) -> Response:
        try:
            cookie = await self._visitors.begin(request, await self._renew(said))
        except MatrixError as error:
            return self._letter(said, token, error)
        return see_other(_then(request), cookie)

    async def _renew(self, said: Mapping[str, str]) -> Account:
        password = self._new_password.read(said)
        proof = await self._validations.proven(Purpose.PASSWORD, said.get("sid"), said.get("client_secret"))
        if proof is None:
            raise forbidden("The address is not confirmed yet: open the link in the letter")
        account = await find_by_proof(self._accounts, proof)
        # As by the API: whoever had the old password may not have been they.
        return await self._accounts.set_password(account.user_id, password, log_out=True, proof=proof)

    def _ask(self, token: str, error: MatrixError | None = None, email: str = "") -> Response:
        entry = 'type="email" autocomplete="email" maxlength="320" required autofocus'
        text = (
            "<p>You get a letter at the address of your account.</p>"
            + alert(words_of(error))
            + form(
                "letter",
                field("email", "E-mail address", entry, value=email) + button("Send the letter"),
                form_token=token,
            )
        )
        return self._pages.form_page(error, "A new password", text)

    def _letter(self, attempt: Mapping[str, str], token: str, error: MatrixError | None = None) -> Response:
        text = (
            "<p>Open the link in the letter, then come back to this page and choose a new "
            "password. All your devices are signed out with that.</p>"
            + alert(words_of(error))
            + form(
                "new",
                attempt_fields(attempt) + self._new_password.fields() + button("Set the new password"),
                form_token=token,
            )
        )
        return self._pages.form_page(error, "Look into your mail", text)


def _then(request: Request) -> str:
    """Where somebody wanted to get to: a page of ours, or the start."""
    then = request.arg("then", "")
    is_ours = (
        then.startswith(_THEN) and then.isascii() and then.isprintable() and len(then) <= _THEN_LENGTH_MOST
    )
    return then if is_ours else places.START
