"""What the pages for signing in and up need to know of the page that somebody wants to get to."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from urllib.parse import urlencode

from homeserver.api.account.page import broken
from homeserver.http.request import Request


@dataclass(frozen=True, slots=True)
class Entry:
    """One such way in."""

    onward: str  # where somebody is led who is signed in
    sign_in: str  # where the page is on which one signs in
    sign_up: str  # and that for a new account; empty where nobody may make one
    lead_html: str = ""  # what one signs in for
    hint: str = ""  # whom the app takes the visitor for
    form_token: str = ""


def address(request: Request, **changes: str) -> str:
    """The address of a page, with other parameters; empty ones are left out."""
    query = {**request.query, **{name: [value] if value else [] for name, value in changes.items()}}
    text = urlencode(query, doseq=True)
    return f"{request.path}?{text}" if text else request.path


def other_account_html(request: Request) -> str:
    """The way to another account, for who is signed in with one that is not meant."""
    other = address(request, prompt="login", login_hint="")
    return f'<p class="other">Not you? <a href="{escape(other)}">Use another account</a></p>'


def whose_html(request: Request, user_id: str) -> str:
    """Who is signed in, where a page does not say it: an app leads to it for its own account, which may be another."""
    return f'<p class="other">Signed in as <em>{broken(user_id)}</em></p>{other_account_html(request)}'
