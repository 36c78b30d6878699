"""The way to every page: sign in or sign up first, at the page's own address, then on to it.

``prompt`` in an address is heeded on all pages: ``login`` has whoever is signed in prove it once more, or be somebody
else; ``create`` leads to a new account. Neither is in the address that follows.

spec: client-server-api#oauth-20-account-management
spec: client-server-api#user-registration
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Final

from homeserver.api.account.entry import Entry, address
from homeserver.api.account.page import FORM_TOKEN, STEP, Pages, see_other
from homeserver.api.account.shown import shown_routes
from homeserver.api.account.sign_in import SignIn
from homeserver.api.account.sign_up import SignUp
from homeserver.api.account.visitors import Visitor, Visitors, read_form
from homeserver.http.request import Request
from homeserver.http.response import Response
from homeserver.http.route import Route

SIGN_IN: Final = "sign-in"
SIGN_UP: Final = "sign-up"


@dataclass(frozen=True, slots=True)
class Admitted:
    """Somebody who is signed in, with the form that they sent, if they did."""

    visitor: Visitor
    form: Mapping[str, str] = field(default_factory=dict)

    @property
    def answer(self) -> str:
        """The button that was pressed."""
        return self.form.get("answer", "")


ShowAdmitted = Callable[[Request, Admitted], Awaitable[Response]]


class Gate:
    """See the module."""

    def __init__(self, pages: Pages, visitors: Visitors, sign_in: SignIn, sign_up: SignUp) -> None:
        self._pages = pages
        self._visitors = visitors
        self._sign_in = sign_in
        self._sign_up = sign_up

    def routes(self, path: str, show: ShowAdmitted, spec: str, lead_html: str = "") -> list[Route]:
        """Of a page that is shown only to those who are signed in."""
        admit = self.admit

        async def shown(request: Request) -> Response:
            admitted = await admit(request, lead_html)
            return admitted if isinstance(admitted, Response) else await show(request, admitted)

        return shown_routes(self._pages, path, shown, spec)

    async def admit(self, request: Request, lead_html: str = "", hint: str = "") -> Admitted | Response:
        """Who asks for a page or sends its form; or what they are shown until they are signed in.

        ``lead_html``: what one signs in for; ``hint``: whom the app takes the visitor for.
        """
        visitor = await self._visitors.find(request)
        entry = self._entry(request, visitor, lead_html, hint)
        if request.method == "POST":
            return await self._take(request, visitor, entry)
        prompts = request.arg("prompt", "").split(" ")
        if "create" in prompts and entry.sign_up:
            return self._sign_up.page(entry)
        if visitor is None or "login" in prompts or "create" in prompts:
            return self._sign_in.page(entry)
        return Admitted(visitor)

    def _entry(self, request: Request, visitor: Visitor | None, lead_html: str, hint: str) -> Entry:
        return Entry(
            address(request, prompt="", login_hint=""),
            # Somebody is signed in who may be somebody else: so they are asked.
            address(request, prompt="" if visitor is None else "login"),
            address(request, prompt="create", login_hint="") if self._sign_up.is_open else "",
            lead_html,
            hint,
            "" if visitor is None else visitor.token,
        )

    async def _take(self, request: Request, visitor: Visitor | None, entry: Entry) -> Admitted | Response:
        form = read_form(request)
        if not self._visitors.is_ours(request, form, visitor):
            if form.get(STEP) in (SIGN_IN, SIGN_UP) and FORM_TOKEN not in form and visitor is not None:
                return see_other(entry.onward)  # signed in meanwhile: whoever presses a button twice, say
            return self._stale(request)
        if form.get(STEP) == SIGN_IN:
            return await self._sign_in.take(request, form, entry)
        if form.get(STEP) == SIGN_UP:
            return await self._sign_up.take(request, form, entry)
        if visitor is None:
            return see_other(address(request))  # signed out meanwhile
        return Admitted(visitor, form)

    def _stale(self, request: Request) -> Response:
        return self._pages.page(
            403,
            "Once more, please",
            "<p>This form was too old, or was not sent from its page. Nothing has happened.</p>"
            f'<a class="button" href="{escape(address(request))}">Show the page again</a>',
        )
