"""Ending an account for good. spec: client-server-api#account-deactivation"""

from __future__ import annotations

from typing import Final

from homeserver.accounts.threepids import Threepids
from homeserver.accounts.users import Accounts
from homeserver.api.account import places
from homeserver.api.account.gate import Admitted, Gate
from homeserver.api.account.page import (
    Pages,
    alert,
    broken,
    button,
    check_box,
    form,
    password_field,
)
from homeserver.api.account.proof import FIELD, Proofs
from homeserver.api.account.visitors import Visitors
from homeserver.api.web.frame import words_of
from homeserver.http.errors import MatrixError
from homeserver.http.request import Request
from homeserver.http.response import Response
from homeserver.http.route import Route

_MEANS_HTML: Final = (
    '<ul class="facts losses"><li>you are signed out everywhere, and leave all rooms</li>'
    "<li>nobody can ever have your user name again, not even you</li>"
    "<li>what you wrote stays with those who have received it</li><li>it cannot be taken back</li></ul>"
)


class DeactivateApi:
    """See the module."""

    def __init__(
        self,
        pages: Pages,
        gate: Gate,
        visitors: Visitors,
        proofs: Proofs,
        accounts: Accounts,
        threepids: Threepids,
    ) -> None:
        self._pages = pages
        self._gate = gate
        self._visitors = visitors
        self._proofs = proofs
        self._accounts = accounts
        self._threepids = threepids

    def routes(self) -> list[Route]:
        return self._gate.routes(places.DEACTIVATE, self.show, "client-server-api#account-deactivation")

    async def show(self, request: Request, admitted: Admitted) -> Response:
        """Say what it means, and ask for the password."""
        if request.method != "POST":
            return self._page(admitted)
        try:
            return await self._end(request, admitted)
        except MatrixError as error:
            return self._page(admitted, error)

    async def _end(self, request: Request, admitted: Admitted) -> Response:
        visitor, said = admitted.visitor, admitted.form
        proven = await self._proofs.check(request, visitor, said.get(FIELD, ""))
        await self._accounts.deactivate(visitor.user_id, erase=said.get("erase") == "yes", proven=proven)
        await self._threepids.forget_all(visitor.user_nid, visitor.user_id)
        cookie = await self._visitors.end(request)
        text = f"<p><em>{broken(visitor.user_id)}</em> has ended. You can close this page. Farewell!</p>"
        page = self._pages.page(200, "Your account has ended", text)
        page.headers.append(cookie)
        return page

    def _page(self, admitted: Admitted, error: MatrixError | None = None) -> Response:
        visitor = admitted.visitor
        text = (
            f"<p>If <em>{broken(visitor.user_id)}</em> ends,</p>{_MEANS_HTML}"
            + alert(words_of(error))
            + form(
                "deactivate",
                password_field(FIELD, "Your password")
                + check_box("erase", "Hide what I wrote from those who join my rooms later")
                + button("End my account for good", kind="grave")
                + f'<a class="button" href="{places.START}">Keep it</a>',
                form_token=visitor.token,
            )
        )
        return self._pages.form_page(error, "Deactivate your account?", text, back_html=places.BACK_HTML)
