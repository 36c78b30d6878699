"""The start of account management, and where apps lead to from elsewhere.

spec: client-server-api#oauth-20-account-management
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlencode

from homeserver.accounts.profiles import MAX_DISPLAY_NAME_LENGTH, Profiles
from homeserver.api.account import places
from homeserver.api.account.gate import Admitted, Gate
from homeserver.api.account.page import (
    Pages,
    alert,
    badge,
    broken,
    button,
    field,
    form,
    rows,
    see_other,
)
from homeserver.api.account.shown import shown_routes
from homeserver.api.account.visitors import Visitors
from homeserver.api.web.frame import words_of
from homeserver.http.errors import MatrixError
from homeserver.http.request import Request
from homeserver.http.response import Response
from homeserver.http.route import Route
from homeserver.oauth import metadata

_ACTIONS: Final = {
    metadata.PROFILE: places.PROFILE,
    metadata.DEVICES: places.DEVICES,
    metadata.DEVICE_VIEW: places.DEVICE,
    metadata.DEVICE_DELETE: places.DEVICE_SIGN_OUT,
    metadata.DEACTIVATE: places.DEACTIVATE,
    metadata.RESET: places.RESET,
}


class OverviewApi:
    """See the module. ``with_mail``: addresses can be verified here."""

    def __init__(
        self, pages: Pages, gate: Gate, visitors: Visitors, profiles: Profiles, *, with_mail: bool
    ) -> None:
        self._pages = pages
        self._gate = gate
        self._visitors = visitors
        self._profiles = profiles
        self._with_mail = with_mail

    def routes(self) -> list[Route]:
        return [
            *shown_routes(self._pages, places.START, self.show, places.SPEC),
            *shown_routes(self._pages, places.START.rstrip("/"), self.start, places.SPEC),
            *self._gate.routes(places.PROFILE, self.profile, places.SPEC),
        ]

    async def start(self, _: Request) -> Response:
        """For who leaves the slash out."""
        return see_other(places.START)

    async def show(self, request: Request) -> Response:
        """What there is to look after; or what an app names."""
        page = _named_page(request)
        if page:
            return see_other(page)
        admitted = await self._gate.admit(request)
        if isinstance(admitted, Response):
            return admitted
        if request.method == "POST" and admitted.answer == "sign-out":
            return await self._sign_out(request)
        user_id = admitted.visitor.user_id
        mail = [(places.ADDRESSES, "E-mail addresses", "To sign in by, and when a password is lost")]
        links = [
            (places.PROFILE, "Your name", "What others see"),
            (places.DEVICES, "Devices", "Where you are signed in"),
            (places.PASSWORD, "Password", "Set a new one"),
            *(mail if self._with_mail else []),
            (places.RESET, "Encryption", "Begin anew when all keys are lost"),
            (places.DEACTIVATE, "Deactivate account", "For good"),
        ]
        text = (
            badge(await self._name(user_id), user_id, is_person=True)
            + rows(links)
            + form(
                "sign-out",
                button("Sign out of this browser", value="sign-out", kind="quiet"),
                form_token=admitted.visitor.token,
            )
        )
        return self._pages.page(200, "Your account", text)

    async def _sign_out(self, request: Request) -> Response:
        cookie = await self._visitors.end(request)
        page = self._pages.page(
            200,
            "Signed out",
            "<p>You are signed out of this browser. Your apps stay as they are.</p>"
            f'<a class="button" href="{places.START}">Sign in</a>',
        )
        page.headers.append(cookie)
        return page

    async def _name(self, user_id: str) -> str:
        profile = await self._profiles.load_local(user_id) or {}
        name = profile.get("displayname")
        return name if isinstance(name, str) and name.strip() else user_id[1:].partition(":")[0]

    # --- the name ------------------------------------------------------------------------------------

    async def profile(self, request: Request, admitted: Admitted) -> Response:
        """What others see."""
        if admitted.visitor.account.suspended:
            text = "<p>Your account is suspended: your name cannot be changed at the moment.</p>"
            return self._pages.page(403, "Your name", text, back_html=places.BACK_HTML)
        if request.method == "POST":
            return await self._rename(admitted, admitted.form)
        return self._profile_page(admitted, await self._name(admitted.visitor.user_id))

    async def _rename(self, admitted: Admitted, said: Mapping[str, str]) -> Response:
        visitor, name = admitted.visitor, said.get("name", "").strip()
        try:
            await self._profiles.put(visitor.requester, visitor.user_id, "displayname", {"displayname": name})
        except MatrixError as error:
            return self._profile_page(admitted, name, error)
        return see_other(places.START)

    def _profile_page(self, admitted: Admitted, name: str, error: MatrixError | None = None) -> Response:
        text = (
            f"<p>This is how others see you. They find you by <em>{broken(admitted.visitor.user_id)}</em>.</p>"
            + alert(words_of(error))
            + form(
                "profile",
                field(
                    "name",
                    "Name",
                    f'autocomplete="nickname" maxlength="{MAX_DISPLAY_NAME_LENGTH}"',
                    value=name[: 2 * MAX_DISPLAY_NAME_LENGTH],
                )
                + button("Save"),
                form_token=admitted.visitor.token,
            )
        )
        return self._pages.form_page(error, "Your name", text, back_html=places.BACK_HTML)


def _named_page(request: Request) -> str:
    """The page that an app means; empty where it means none of these."""
    # spec: client-server-api#account-management-url-actions
    action = request.arg("action", "")
    page = _ACTIONS.get(metadata.OLD_ACTIONS.get(action, action), "")
    device_id = request.arg("device_id", "")
    if page not in (places.DEVICE, places.DEVICE_SIGN_OUT):
        return page
    return f"{page}?{urlencode({'device_id': device_id})}" if device_id else places.DEVICES
