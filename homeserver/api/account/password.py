"""A new password, for who knows the old one. spec: client-server-api#password-management"""

from __future__ import annotations

from homeserver.accounts.users import Accounts
from homeserver.api.account import places
from homeserver.api.account.gate import Admitted, Gate
from homeserver.api.account.new_password import NewPassword
from homeserver.api.account.page import DONE, Pages, alert, button, check_box, form, password_field
from homeserver.api.account.proof import FIELD, Proofs
from homeserver.api.account.visitors import Visitors
from homeserver.api.web.frame import words_of
from homeserver.http.errors import MatrixError
from homeserver.http.request import Request
from homeserver.http.response import Response
from homeserver.http.route import Route


class PasswordApi:
    """See the module."""

    def __init__(
        self,
        pages: Pages,
        gate: Gate,
        visitors: Visitors,
        proofs: Proofs,
        accounts: Accounts,
        new_password: NewPassword,
    ) -> None:
        self._pages = pages
        self._gate = gate
        self._visitors = visitors
        self._proofs = proofs
        self._accounts = accounts
        self._new_password = new_password

    def routes(self) -> list[Route]:
        return self._gate.routes(places.PASSWORD, self.show, "client-server-api#password-management")

    async def show(self, request: Request, admitted: Admitted) -> Response:
        """Ask for the old and the new one."""
        if request.method != "POST":
            return self._page(admitted)
        try:
            return await self._set(request, admitted)
        except MatrixError as error:
            return self._page(admitted, error)

    async def _set(self, request: Request, admitted: Admitted) -> Response:
        visitor, said = admitted.visitor, admitted.form
        password = self._new_password.read(said)
        proven = await self._proofs.check(request, visitor, said.get(FIELD, ""))
        log_out = said.get("log_out") == "yes"
        account = await self._accounts.set_password(visitor.user_id, password, log_out=log_out, proven=proven)
        # With the old password every browser's session has ended.
        cookie = await self._visitors.begin(request, account)
        told = "Your devices are signed out." if log_out else "Your devices stay signed in."
        page = self._pages.page(
            200, "Your password is new", f"{DONE}<p>{told}</p>", back_html=places.BACK_HTML
        )
        page.headers.append(cookie)
        return page

    def _page(self, admitted: Admitted, error: MatrixError | None = None) -> Response:
        text = alert(words_of(error)) + form(
            "password",
            password_field(FIELD, "Password so far")
            + self._new_password.fields()
            + check_box("log_out", "Sign all my devices out: somebody else may know the old one")
            + button("Set the new password"),
            form_token=admitted.visitor.token,
        )
        return self._pages.form_page(error, "Password", text, back_html=places.BACK_HTML)
