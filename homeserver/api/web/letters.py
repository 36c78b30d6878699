"""The routes of pages behind the links in letters: plain, without a script, and never followed by a program to any effect.

Every refusal is a page too, also one that comes before: people read it, and no program.
"""

from __future__ import annotations

from homeserver.api.web.frame import refusal_page
from homeserver.http.route import Auth, Handler, Route


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
        refuse=refusal_page,
    )
