"""The page behind the link that proves an address. spec: docs/reference/web.md#validate_email"""

from __future__ import annotations

from html import escape
from typing import Final
from urllib.parse import urlsplit

from homeserver.accounts.validations import PATH, Validations
from homeserver.http.request import Request
from homeserver.http.response import Response
from homeserver.http.route import Auth, Handler, Route
from homeserver.store.validations import Purpose

_HTML: Final = b"text/html; charset=utf-8"
_HEADERS: Final = (
    (
        b"Content-Security-Policy",
        b"default-src 'none'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Referrer-Policy", b"no-referrer"),
    (b"Cache-Control", b"no-store"),
)
_QUESTIONS: Final = {
    Purpose.REGISTER: "Create an account with the address {}?",
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
        return [_route("GET", self.ask), _route("POST", self.confirm)]

    async def ask(self, request: Request) -> Response:
        """A button: programs that look into mails follow links, and prove nothing with that."""
        sid, client_secret, _ = _arguments(request)
        found = await self._validations.find(sid, client_secret)
        if found is None:
            return _page(404, _NOT_GOOD)
        question = _QUESTIONS[Purpose(found.purpose)].format(escape(found.address))
        return _page(
            200, f'<p>{question}</p><form method="post"><button type="submit">Confirm</button></form>'
        )

    async def confirm(self, request: Request) -> Response:
        found = await self._validations.submit(*_arguments(request))
        if found is None:
            return _page(404, _NOT_GOOD)
        return _page(
            200, f"<p>The address {escape(found.address)} is confirmed.</p>{_onward(found.next_link)}"
        )


def _arguments(request: Request) -> tuple[str, str, str]:
    return request.arg("sid", ""), request.arg("client_secret", ""), request.arg("token", "")


def _onward(next_link: str | None) -> str:
    """A client may name a page to go to. Nobody is sent there unseen: whoever began this may be anybody."""
    if next_link is None:
        return "<p>Go on where you began.</p>"
    host = urlsplit(next_link).hostname or ""
    return f'<p><a href="{escape(next_link)}" rel="noopener noreferrer">Go on at {escape(host)}</a></p>'


def _page(status: int, text: str) -> Response:
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Confirm your address</title></head><body><main>{text}</main></body></html>"
    )
    return Response(status, page.encode(), list(_HEADERS), content_type=_HTML)


def _route(method: str, handler: Handler) -> Route:
    return Route(
        method=method,
        template=PATH,
        handler=handler,
        auth=Auth.NONE,
        limit="read" if method == "GET" else "write",
        max_body=1024,
        spec="docs/reference/web.md#validate_email",
    )
