"""The page on which somebody lets a device in that has no browser, by the code that it shows.

Whoever sends somebody here with a code may be a thief who holds the device: so the page asks plainly, and asks first who
is signed in, so that codes are not guessed by strangers.

spec: client-server-api#device-authorisation-flow
spec: RFC 8628 section 5.4
"""

from __future__ import annotations

from typing import Final

from homeserver.accounts.sessions import proof_is_good
from homeserver.api.account.authorize import ALLOWS_HTML, papers_html
from homeserver.api.account.entry import other_account_html
from homeserver.api.account.gate import Admitted, Gate
from homeserver.api.account.page import DONE, Pages, alert, badge, broken, button, field, form
from homeserver.http.ratelimit import RateLimiter
from homeserver.http.request import Request
from homeserver.http.response import Response
from homeserver.http.route import Route
from homeserver.oauth.grants import Grants
from homeserver.oauth.metadata import LINK
from homeserver.oauth.types import DeviceRequest

_CODE: Final = (
    'class="code" autocomplete="off" autocapitalize="characters" autocorrect="off" spellcheck="false" '
    'maxlength="20" required autofocus'
)
_CODE_LENGTH_MOST: Final = 20
_UNKNOWN: Final = "This code is not, or no longer, good. Please look at your device once more."


class LinkApi:
    """See the module."""

    def __init__(self, pages: Pages, gate: Gate, grants: Grants, limiter: RateLimiter) -> None:
        self._pages = pages
        self._gate = gate
        self._grants = grants
        self._limiter = limiter

    def routes(self) -> list[Route]:
        return self._gate.routes(
            LINK,
            self.show,
            "client-server-api#device-authorisation-flow",
            "to connect a device to your account",
        )

    async def show(self, request: Request, admitted: Admitted) -> Response:
        """Ask for the code, then whether it is theirs; or take the answer."""
        typed = request.arg("user_code", "")
        if not typed:
            return self._ask_code(200)
        self._limiter.check("login", f"device codes {admitted.visitor.user_id}")
        wish = await self._grants.find_device_request(typed)
        if wish is None:
            return self._ask_code(404, _UNKNOWN, typed[:_CODE_LENGTH_MOST])
        if request.method == "POST" and admitted.answer in ("allow", "cancel"):
            return await self._decide(wish, admitted)
        return self._ask(request, wish, admitted)

    async def _decide(self, wish: DeviceRequest, admitted: Admitted) -> Response:
        is_allowed = admitted.answer == "allow"
        account = admitted.visitor.account
        with proof_is_good():
            done = await self._grants.decide_device(wish.user_code, account, allowed=is_allowed)
        if not done:
            return self._ask_code(404, _UNKNOWN)
        if is_allowed:
            return self._pages.page(
                200, "Your device is connected", f"{DONE}<p>You can close this page and go on there.</p>"
            )
        return self._pages.page(
            200, "Not connected", "<p>The device was not let in. You can close this page.</p>"
        )

    def _ask_code(self, status: int, error: str = "", typed: str = "") -> Response:
        # By its address, so that the page that follows can be signed in for, and shown again.
        entry = field(
            "user_code",
            "Code",
            _CODE,
            value=typed,
            hint="Small or capital letters, with or without the line.",
        )
        text = (
            f"<p>Your device shows a code of eight letters. Enter it here.</p>{alert(error)}"
            f'<form method="get">{entry}{button("Continue")}</form>'
        )
        return self._pages.page(status, "Connect a device", text)

    def _ask(self, request: Request, wish: DeviceRequest, admitted: Admitted) -> Response:
        visitor, code = admitted.visitor, wish.user_code
        text = (
            badge(wish.client.name, wish.client.host)
            + f'<p>It shows the code <em class="word">{code[:4]}-{code[4:]}</em>, and will be able to use your account '
            f"<em>{broken(visitor.user_id)}</em> as you do:</p>{ALLOWS_HTML}"
            '<p class="note"><strong>Is that device before you, and did you begin this yourself?</strong> If somebody '
            "sent you the code or a link, cancel: they would get into your account.</p>"
            + form(
                "decide",
                button("Yes, connect it", value="allow") + button("Cancel", value="cancel", kind="quiet"),
                form_token=visitor.token,
                is_deliberate=True,
            )
            + other_account_html(request)
            + papers_html(wish.client)
        )
        return self._pages.page(200, "Connect this device?", text)
