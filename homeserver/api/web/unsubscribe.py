"""The page behind the link that ends mails. spec: docs/reference/web.md#unsubscribe"""

from __future__ import annotations

from html import escape
from typing import Final

from homeserver.http.request import Request
from homeserver.http.response import Response
from homeserver.http.route import Auth, Handler, Route
from homeserver.push.unsubscribing import PATH, Unsubscribing

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


class UnsubscribeApi:
    def __init__(self, unsubscribing: Unsubscribing) -> None:
        self._unsubscribing = unsubscribing

    def routes(self) -> list[Route]:
        return [_route("GET", self.ask), _route("POST", self.end)]

    async def ask(self, request: Request) -> Response:
        """A button: who only looks at the link ends nothing."""
        found = self._checked(request)
        if found is None:
            return _page(404, "<p>This link is not, or no longer, good for anything.</p>")
        return _page(
            200,
            f"<p>Shall no more mail about unread messages be sent to {escape(found[1])}?</p>"
            '<form method="post"><button type="submit">Send no more</button></form>',
        )

    async def end(self, request: Request) -> Response:
        found = self._checked(request)
        if found is None:
            return _page(404, "<p>This link is not, or no longer, good for anything.</p>")
        await self._unsubscribing.end(*found)
        return _page(200, f"<p>No more mail will be sent to {escape(found[1])}.</p>")

    def _checked(self, request: Request) -> tuple[str, str] | None:
        user, address, token = (request.arg(name, "") for name in ("user", "address", "token"))
        return (user, address) if self._unsubscribing.is_good(user, address, token) else None


def _page(status: int, text: str) -> Response:
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Mail</title></head><body><main>{text}</main></body></html>"
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
        spec="docs/reference/web.md#unsubscribe",
    )
