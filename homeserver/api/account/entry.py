"""What the pages for signing in and up need to know of the page that somebody wants to get to."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlencode

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
