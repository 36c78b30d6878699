"""The page behind the link that proves an address. spec: docs/reference/web.md#validate_email"""

from __future__ import annotations

from html import escape
from typing import Final
from urllib.parse import urlsplit

from homeserver.accounts.validations import PATH, Validations
from homeserver.api.web.frame import framed_page
from homeserver.api.web.letters import letter_routes
from homeserver.http.request import Request
from homeserver.http.response import Response
from homeserver.http.route import Route
from homeserver.store.validations import Purpose

_TITLE: Final = "Confirm your address"
_QUESTIONS: Final = {
    Purpose.REGISTER: "Use the address {} for a new account, or add it to one?",
    Purpose.ADD: "Add the address {} to an account?",
    Purpose.PASSWORD: "Set a new password for the account with the address {}?",
}
_NOT_GOOD: Final = (
    "<p>This link is not, or no longer, good for anything. The newest letter has the one that is.</p>"
)


class ValidateEmailApi:
    def __init__(self, validations: Validations) -> None:
        self._validations = validations

    def routes(self) -> list[Route]:
        return letter_routes(PATH, self.ask, self.confirm, "docs/reference/web.md#validate_email")

    async def ask(self, request: Request) -> Response:
        """A button: programs that look into mails follow links, and prove nothing with that."""
        sid, client_secret, _ = _arguments(request)
        found = await self._validations.find(sid, client_secret)
        if found is None:
            return framed_page(404, _TITLE, _NOT_GOOD)
        question = _QUESTIONS[Purpose(found.purpose)].format(escape(found.address))
        return framed_page(
            200, _TITLE, f'<p>{question}</p><form method="post"><button type="submit">Confirm</button></form>'
        )

    async def confirm(self, request: Request) -> Response:
        found = await self._validations.submit(*_arguments(request))
        if found is None:
            return framed_page(404, _TITLE, _NOT_GOOD)
        return framed_page(
            200, _TITLE, f"<p>The address {escape(found.address)} is confirmed.</p>{_onward(found.next_link)}"
        )


def _arguments(request: Request) -> tuple[str, str, str]:
    return request.arg("sid", ""), request.arg("client_secret", ""), request.arg("token", "")


def _onward(next_link: str | None) -> str:
    """A client may name a page to go to. Nobody is sent there unseen: whoever began this may be anybody."""
    if next_link is None:
        return "<p>Go on where you began.</p>"
    host = urlsplit(next_link).hostname or ""
    return f'<p><a href="{escape(next_link)}" rel="noopener noreferrer">Go on at {escape(host)}</a></p>'
