"""The page on which somebody logs in, for clients that know none of the ways to do it. spec: client-server-api#login-fallback"""

from __future__ import annotations

from functools import partial
from typing import Final

from homeserver.api.web.frame import framed_page, load_script, refusal_page
from homeserver.http.request import Request
from homeserver.http.response import Response
from homeserver.http.route import Auth, Route

_SCRIPT: Final = load_script("login.js")
_TEXT: Final = (
    '<p id="alert" class="alert" role="alert"></p>'
    '<form id="login" method="post">'
    '<label for="user">User name</label>'
    '<input id="user" name="user" autocomplete="username" autocapitalize="none" spellcheck="false" required autofocus>'
    '<label for="password">Password</label>'
    '<input id="password" name="password" type="password" autocomplete="current-password" required>'
    '<button type="submit">Log in</button></form>'
    '<div id="done" role="status" hidden><p class="done" aria-hidden="true">✓</p>'
    '<p>You are logged in as <em id="user_id"></em>. You can close this page.</p></div>'
    '<noscript><p class="alert">This page needs JavaScript, to hand the login over to your app.</p></noscript>'
)


class LoginFallbackApi:
    """The page is the same for everybody: what the query says is read by its script."""

    def __init__(self, server_name: str) -> None:
        self._server_name = server_name

    def routes(self) -> list[Route]:
        return [
            Route(
                method="GET",
                template="/_matrix/static/client/login/",
                handler=self.page,
                auth=Auth.NONE,
                spec="client-server-api#login-fallback",
                refuse=partial(refusal_page, server_name=self._server_name),
            )
        ]

    async def page(self, _: Request) -> Response:
        return framed_page(200, "Log in", _TEXT, server_name=self._server_name, script=_SCRIPT, connects=True)
