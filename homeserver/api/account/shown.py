"""Routes of pages: asked for and answered at one address, and every refusal is a page too, also one that comes before."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from homeserver.api.account.page import Pages
from homeserver.http.request import Request
from homeserver.http.response import Response
from homeserver.http.route import Auth, Route

Show = Callable[[Request], Awaitable[Response]]
_BODY_MOST = 16_384


def shown_routes(pages: Pages, path: str, show: Show, spec: str) -> list[Route]:
    """GET and POST."""
    return [
        Route(
            method=method,
            template=path,
            handler=show,
            auth=Auth.NONE,
            # What can be guessed on a page is counted there.
            limit="read" if method == "GET" else "write",
            max_body=_BODY_MOST,
            spec=spec,
            refuse=pages.refusal,
        )
        for method in ("GET", "POST")
    ]
