"""The addresses of an account: proven by a letter, removed at will.

spec: client-server-api#adding-account-administrative-contact-information
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from homeserver.accounts.text import check_text
from homeserver.accounts.threepids import Threepids
from homeserver.accounts.validations import Validations
from homeserver.api.account import places
from homeserver.api.account.gate import Admitted, Gate
from homeserver.api.account.page import (
    Pages,
    alert,
    attempt_fields,
    button,
    field,
    form,
    hidden,
    see_other,
)
from homeserver.api.account.proof import FIELD, Proofs, proof_field
from homeserver.api.web.frame import words_of
from homeserver.http.errors import MatrixError, user_suspended
from homeserver.http.request import Request
from homeserver.http.response import Response
from homeserver.http.route import Route
from homeserver.store.threepids import EMAIL
from homeserver.store.validations import Purpose

_MOST = 1000


class AddressesApi:
    """See the module."""

    def __init__(
        self,
        pages: Pages,
        gate: Gate,
        proofs: Proofs,
        validations: Validations,
        threepids: Threepids,
    ) -> None:
        self._pages = pages
        self._gate = gate
        self._proofs = proofs
        self._validations = validations
        self._threepids = threepids

    def routes(self) -> list[Route]:
        spec = "client-server-api#adding-account-administrative-contact-information"
        return self._gate.routes(places.ADDRESSES, self.show, spec)

    async def show(self, request: Request, admitted: Admitted) -> Response:
        """What there is, and a form for one more."""
        if request.method != "POST":
            return await self._page(admitted)
        try:
            return await self._take(request, admitted)
        except MatrixError as error:
            if admitted.answer == "confirmed":
                return self._letter(admitted, admitted.form, error)
            return await self._page(admitted, error)

    async def _take(self, request: Request, admitted: Admitted) -> Response:
        visitor, said = admitted.visitor, admitted.form
        if admitted.answer in ("add", "confirmed"):
            # Both: who comes with an attempt of their own, begun elsewhere, must not be spared the question.
            proven = await self._proofs.check_unless_recent(request, visitor, said.get(FIELD, ""))
            if admitted.answer == "add":
                attempt = await self._validations.begin_on_page(Purpose.ADD, said.get("email", ""))
                return self._letter(admitted, attempt)
            await self._threepids.add(proven, said.get("sid", ""), said.get("client_secret", ""))
        elif admitted.answer == "remove":
            if visitor.account.suspended:
                raise user_suspended()
            address = check_text(said.get("address", ""), "address", _MOST)
            await self._threepids.delete(visitor.user_nid, visitor.user_id, EMAIL, address, None)
        return see_other(places.ADDRESSES)

    def _letter(
        self, admitted: Admitted, attempt: Mapping[str, str], error: MatrixError | None = None
    ) -> Response:
        text = (
            "<p>Open the link in the letter, then come back to this page.</p>"
            + alert(words_of(error))
            + form(
                "confirm",
                attempt_fields(attempt)
                + proof_field(admitted.visitor)
                + button("I have confirmed it", value="confirmed")
                + f'<a class="button" href="{places.ADDRESSES}">Another address</a>',
                form_token=admitted.visitor.token,
            )
        )
        return self._pages.form_page(error, "Look into your mail", text, back_html=places.BACK_HTML)

    async def _page(self, admitted: Admitted, error: MatrixError | None = None) -> Response:
        visitor = admitted.visitor
        found = [one["address"] for one in await self._threepids.load(visitor.user_nid)]
        listed = "".join(
            f'<li class="row"><span>{escape(address)}</span>'
            + form(
                "remove",
                hidden("address", address)
                + f'<button type="submit" name="answer" value="remove" class="link" aria-label="Remove {escape(address)}">'
                "Remove</button>",
                form_token=visitor.token,
            )
            + "</li>"
            for address in found
        )
        text = (
            "<p>With an address you can sign in by it, and set a new password when you have lost yours.</p>"
            + (f'<ul class="rows">{listed}</ul>' if found else "")
            + alert(words_of(error))
            + form(
                "add",
                field("email", "E-mail address", 'type="email" autocomplete="email" maxlength="320" required')
                + proof_field(visitor)
                + button("Send a letter", value="add"),
                form_token=visitor.token,
            )
        )
        return self._pages.form_page(error, "E-mail addresses", text, back_html=places.BACK_HTML)
