"""The page behind the link that ends mails. spec: docs/reference/web.md#unsubscribe"""

from __future__ import annotations

from html import escape
from typing import Final

from homeserver.api.web.frame import framed_page
from homeserver.api.web.letters import letter_routes
from homeserver.http.request import Request
from homeserver.http.response import Response
from homeserver.http.route import Route
from homeserver.push.unsubscribing import PATH, Unsubscribing

_TITLE: Final = "Mail"


class UnsubscribeApi:
    def __init__(self, unsubscribing: Unsubscribing) -> None:
        self._unsubscribing = unsubscribing

    def routes(self) -> list[Route]:
        return letter_routes(PATH, self.ask, self.end, "docs/reference/web.md#unsubscribe")

    async def ask(self, request: Request) -> Response:
        """A button: who only looks at the link ends nothing."""
        found = self._checked(request)
        if found is None:
            return framed_page(404, _TITLE, "<p>This link is not, or no longer, good for anything.</p>")
        return framed_page(
            200,
            _TITLE,
            f"<p>Shall no more mail about unread messages be sent to {escape(found[1])}?</p>"
            '<form method="post"><button type="submit">Send no more</button></form>',
        )

    async def end(self, request: Request) -> Response:
        found = self._checked(request)
        if found is None:
            return framed_page(404, _TITLE, "<p>This link is not, or no longer, good for anything.</p>")
        await self._unsubscribing.end(*found)
        return framed_page(200, _TITLE, f"<p>No more mail will be sent to {escape(found[1])}.</p>")

    def _checked(self, request: Request) -> tuple[str, str] | None:
        user, address, token = (request.arg(name, "") for name in ("user", "address", "token"))
        return (user, address) if self._unsubscribing.is_good(user, address, token) else None
