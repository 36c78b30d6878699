"""Where somebody is signed in: the devices, one of them, and signing one out.

spec: client-server-api#account-management-url-actions
"""

from __future__ import annotations

from html import escape
from typing import Any, Final
from urllib.parse import urlencode

from homeserver.accounts.devices import Devices
from homeserver.accounts.text import MAX_DISPLAY_NAME_LENGTH
from homeserver.api.account import places
from homeserver.api.account.entry import whose_html
from homeserver.api.account.gate import Admitted, Gate
from homeserver.api.account.page import Pages, alert, back, button, field, form, rows, see_other
from homeserver.api.web.frame import words_of
from homeserver.http.errors import MatrixError
from homeserver.http.request import Request
from homeserver.http.response import Response
from homeserver.http.route import Route
from homeserver.oauth.clients import Clients
from homeserver.oauth.types import Client
from homeserver.runtime.clock import Clock

_BACK_HTML: Final = back(places.DEVICES, "Devices")


class AccountDevicesApi:
    """See the module."""

    def __init__(self, pages: Pages, gate: Gate, devices: Devices, clients: Clients, clock: Clock) -> None:
        self._pages = pages
        self._gate = gate
        self._devices = devices
        self._clients = clients
        self._clock = clock

    def routes(self) -> list[Route]:
        return [
            *self._gate.routes(places.DEVICES, self.all, places.SPEC),
            *self._gate.routes(places.DEVICE, self.one, places.SPEC),
            *self._gate.routes(places.DEVICE_SIGN_OUT, self.sign_out, places.SPEC),
        ]

    async def all(self, _: Request, admitted: Admitted) -> Response:
        """Every device, the one that was used last first."""
        found = await self._load(admitted)
        apps = await self._clients.of_devices(admitted.visitor.user_nid)
        found.sort(key=lambda device: device["last_seen_ts"] or 0, reverse=True)
        links = [
            (
                f"{places.DEVICE}?{urlencode({'device_id': device['device_id']})}",
                _name(device),
                " · ".join(part for part in (_app(apps, device), self._seen(device)) if part),
            )
            for device in found
        ]
        text = (
            "<p>You are signed in with these.</p>" + rows(links)
            if links
            else "<p>You are signed in nowhere.</p>"
        )
        return self._pages.page(200, "Devices", text, back_html=places.BACK_HTML)

    async def one(self, request: Request, admitted: Admitted) -> Response:
        """One device, whose name may be changed."""
        device = await self._find(admitted, request)
        if device is None:
            return self._gone(request, admitted)
        if request.method != "POST":
            return await self._show(admitted, device)
        name = admitted.form.get("name", "").strip()
        try:
            await self._devices.rename(admitted.visitor.requester, device["device_id"], name or None)
        except MatrixError as error:
            return await self._show(admitted, {**device, "display_name": name}, error)
        return see_other(places.DEVICES)

    async def sign_out(self, request: Request, admitted: Admitted) -> Response:
        """End its login, after a question."""
        device = await self._find(admitted, request)
        if device is None:
            return self._gone(request, admitted)
        device_id = device["device_id"]
        if request.method == "POST" and admitted.answer == "sign-out":
            await self._devices.delete(admitted.visitor.requester, [device_id])
            return see_other(places.DEVICES)
        back = f"{places.DEVICE}?{urlencode({'device_id': device_id})}"
        text = (
            f"<p><em>{escape(_name(device))}</em> will be signed out. What it alone has of your keys is lost: make sure "
            "that another device can read your messages, or that you have your recovery key.</p>"
            + form(
                "sign-out",
                button("Sign out", value="sign-out", kind="grave")
                + f'<a class="button" href="{escape(back)}">Keep it</a>',
                form_token=admitted.visitor.token,
                is_deliberate=True,
            )
        )
        return self._pages.page(200, "Sign this device out?", text)

    async def _load(self, admitted: Admitted) -> list[dict[str, Any]]:
        # One that only takes keys in while nobody is there is nothing that one is signed in with.
        every = await self._devices.get_all_in_full(admitted.visitor.requester)
        return [device for device in every if not device["dehydrated"]]

    async def _find(self, admitted: Admitted, request: Request) -> dict[str, Any] | None:
        wanted = request.arg("device_id", "")
        found = await self._load(admitted)
        return next((device for device in found if device["device_id"] == wanted), None)

    def _gone(self, request: Request, admitted: Admitted) -> Response:
        text = "<p>It is not, or no longer, signed in.</p>" + whose_html(request, admitted.visitor.user_id)
        return self._pages.page(404, "No such device", text, back_html=_BACK_HTML)

    async def _show(
        self, admitted: Admitted, device: dict[str, Any], error: MatrixError | None = None
    ) -> Response:
        apps = await self._clients.of_devices(admitted.visitor.user_nid)
        facts = (
            ("App", _app(apps, device)),
            ("Last used", self._seen(device)),
            ("From", device["last_seen_ip"] or ""),
            ("Device ID", device["device_id"]),
        )
        listed = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts if value)
        query = urlencode({"device_id": device["device_id"]})
        text = (
            f"<dl>{listed}</dl>{alert(words_of(error))}"
            + form(
                "rename",
                field(
                    "name",
                    "Name",
                    f'autocomplete="off" maxlength="{MAX_DISPLAY_NAME_LENGTH}"',
                    value=(device.get("display_name") or "")[: 2 * MAX_DISPLAY_NAME_LENGTH],
                    hint="Those whom you talk to may see it too.",
                )
                + button("Save"),
                form_token=admitted.visitor.token,
            )
            + f'<a class="button apart" href="{places.DEVICE_SIGN_OUT}?{escape(query)}">Sign this device out</a>'
        )
        return self._pages.form_page(error, _name(device), text, back_html=_BACK_HTML)

    def _seen(self, device: dict[str, Any]) -> str:
        seen = device["last_seen_ts"]
        return "not used yet" if seen is None else ago(self._clock.now_ms() - seen)


def _name(device: dict[str, Any]) -> str:
    name: str = device.get("display_name") or device["device_id"]
    return name


def _app(apps: dict[str, Client], device: dict[str, Any]) -> str:
    app = apps.get(device["device_id"])
    return "" if app is None else f"{app.name} ({app.host})"


def ago(age_ms: int) -> str:
    """How long it is since something: roughly, as where the reader's clock stands is not known here."""
    for size_ms, name in ((86_400_000, "day"), (3_600_000, "hour"), (60_000, "minute")):
        number = age_ms // size_ms
        if number > 0:
            return f"{number} {name}{'s' if number != 1 else ''} ago"
    return "just now"
