"""Letting an app replace the keys by which others know somebody's devices, after all of them were lost.

spec: client-server-api#oauth-authentication
"""

from __future__ import annotations

from typing import Final

from homeserver.api.account import places
from homeserver.api.account.entry import whose_html
from homeserver.api.account.gate import Admitted, Gate
from homeserver.api.account.page import DONE, Pages, alert, button, form
from homeserver.api.account.proof import FIELD, Proofs, proof_field
from homeserver.api.web.frame import words_of
from homeserver.http.errors import MatrixError
from homeserver.http.request import Request
from homeserver.http.response import Response
from homeserver.http.route import Route
from homeserver.oauth.resets import CrossSigningResets

_MEANS_HTML: Final = (
    "<p>Do this only if you have lost all your other devices <em>and</em> your recovery key, and an app has sent you "
    'here.</p><ul class="facts losses"><li>old messages that only the lost keys could read stay unreadable</li>'
    "<li>those whom you have verified see that your keys are new, and verify you anew</li>"
    "<li>your contacts, rooms and settings stay</li></ul>"
)


class ResetApi:
    """See the module."""

    def __init__(self, pages: Pages, gate: Gate, proofs: Proofs, resets: CrossSigningResets) -> None:
        self._pages = pages
        self._gate = gate
        self._proofs = proofs
        self._resets = resets

    def routes(self) -> list[Route]:
        return self._gate.routes(places.RESET, self.show, "client-server-api#oauth-authentication")

    async def show(self, request: Request, admitted: Admitted) -> Response:
        """Say what it means, and ask."""
        if request.method != "POST" or admitted.answer != "reset":
            return self._page(request, admitted)
        try:
            await self._proofs.check_unless_recent(request, admitted.visitor, admitted.form.get(FIELD, ""))
        except MatrixError as error:
            return self._page(request, admitted, error)
        self._resets.allow(admitted.visitor.user_nid)
        text = f"{DONE}<p>Go back to your app now, and finish there within ten minutes.</p>"
        return self._pages.page(200, "Your app may go on", text)

    def _page(self, request: Request, admitted: Admitted, error: MatrixError | None = None) -> Response:
        text = (
            _MEANS_HTML
            + alert(words_of(error))
            + form(
                "reset",
                proof_field(admitted.visitor)
                + button("Let my app make new keys", value="reset", kind="grave")
                + f'<a class="button" href="{places.START}">Leave everything as it is</a>',
                form_token=admitted.visitor.token,
                is_deliberate=True,
            )
            + whose_html(request, admitted.visitor.user_id)
        )
        return self._pages.form_page(error, "New keys for encryption?", text, back_html=places.BACK_HTML)
