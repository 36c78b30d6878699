"""The pages behind the links in letters: plain, without a script, and never followed by a program to any effect."""

from __future__ import annotations

from typing import Final

from homeserver.http.response import Response
from homeserver.http.route import Auth, Handler, Route

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


def letter_page(status: int, title: str, text: str) -> Response:
    """A whole page; ``text`` is HTML already."""
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title></head><body><main>{text}</main></body></html>"
    )
    return Response(status, page.encode(), list(_HEADERS), content_type=_HTML)


def letter_routes(path: str, ask: Handler, act: Handler, spec: str) -> list[Route]:
    """Looking at the link asks with a button, which posts to the same address."""
    return [_route("GET", path, ask, spec), _route("POST", path, act, spec)]


def _route(method: str, path: str, handler: Handler, spec: str) -> Route:
    return Route(
        method=method,
        template=path,
        handler=handler,
        auth=Auth.NONE,
        limit="read" if method == "GET" else "write",
        max_body=1024,
        spec=spec,
    )
