"""The page on which somebody lets an app in. They are always asked: an app's id is public, so it proves nothing.

spec: client-server-api#authorisation-code-flow
"""

from __future__ import annotations

from html import escape
from typing import Final
from urllib.parse import urlsplit

from homeserver.accounts.sessions import proof_is_good
from homeserver.api.account.entry import other_account_html
from homeserver.api.account.gate import Admitted, Gate
from homeserver.api.account.page import Pages, badge, broken, button, form, see_other
from homeserver.api.account.shown import shown_routes
from homeserver.api.account.visitors import Visitors
from homeserver.http.request import Request
from homeserver.http.response import Response
from homeserver.http.route import Route
from homeserver.oauth.grants import Grants
from homeserver.oauth.metadata import AUTHORIZE
from homeserver.oauth.requests import AuthorizationRequests
from homeserver.oauth.types import AuthorizationRequest, Client, RequestRefusedError, SentBackError

ALLOWS_HTML: Final = (
    '<ul class="facts"><li>read and send your messages</li><li>see your rooms and the people in them</li>'
    "<li>change your profile and settings</li>"
    "<li>stay among your devices until you sign it out</li></ul>"
)


class AuthorizeApi:
    """See the module."""

    def __init__(
        self,
        pages: Pages,
        gate: Gate,
        visitors: Visitors,
        requests: AuthorizationRequests,
        grants: Grants,
    ) -> None:
        self._pages = pages
        self._gate = gate
        self._visitors = visitors
        self._requests = requests
        self._grants = grants

    def routes(self) -> list[Route]:
        return shown_routes(self._pages, AUTHORIZE, self.show, "client-server-api#authorisation-code-flow")

    async def show(self, request: Request) -> Response:
        """Ask, or take the answer."""
        try:
            wish = await self._requests.parse(request.query)
            if wish.wants_nobody:
                raise await self._nobody(request, wish)
        except RequestRefusedError as refused:
            return self._pages.page(400, "This does not work", f"<p>{escape(str(refused))}</p>")
        except SentBackError as back:
            return _back_to_app(302, back.url)
        lead = f"to continue to <em>{escape(wish.client.name)}</em> ({escape(known_by(wish))})"
        admitted = await self._gate.admit(request, lead, wish.login_hint or "")
        if isinstance(admitted, Response):
            return admitted
        if request.method == "POST" and admitted.answer == "allow":
            with proof_is_good():
                code = await self._grants.allow(wish, admitted.visitor.account)
            return _back_to_app(303, self._requests.answer(wish, code=code))
        if request.method == "POST" and admitted.answer == "cancel":
            denied = self._requests.sent_back(wish, "access_denied", "The user said no")
            return _back_to_app(303, denied.url)
        return self._consent(request, wish, admitted)

    async def _nobody(self, request: Request, wish: AuthorizationRequest) -> SentBackError:
        """Without a question there is no consent. spec: OpenID Connect Core 1.0 section 3.1.2.6"""
        if await self._visitors.find(request) is None:
            return self._requests.sent_back(wish, "login_required", "Nobody is signed in")
        return self._requests.sent_back(wish, "consent_required", "People are always asked")

    def _consent(self, request: Request, wish: AuthorizationRequest, admitted: Admitted) -> Response:
        client, visitor = wish.client, admitted.visitor
        text = (
            badge(client.name, known_by(wish))
            + f"<p>It will be able to use your account <em>{broken(visitor.user_id)}</em> as you do:</p>{ALLOWS_HTML}"
            + form(
                "consent",
                button("Continue", value="allow") + button("Cancel", value="cancel", kind="quiet"),
                form_token=visitor.token,
                is_deliberate=True,
            )
            + other_account_html(request)
            + papers_html(client)
        )
        return self._pages.page(
            200, f"Let {client.name} in?", text, form_targets=form_target(wish.redirect_uri)
        )


def known_by(wish: AuthorizationRequest) -> str:
    """What an app cannot say of itself at will: who gets the answer.

    Many may share what is below one host, so it is the host of the answer that counts, where it has one.
    """
    parts = urlsplit(wish.redirect_uri)
    return parts.netloc if parts.scheme == "https" else wish.client.host


def papers_html(client: Client) -> str:
    """What an app has to say about itself."""
    papers = ((client.tos_uri, "Terms"), (client.policy_uri, "Privacy"))
    links = [
        f'<a href="{escape(uri)}" target="_blank" rel="noopener noreferrer">{label}</a>'
        for uri, label in papers
        if uri is not None
    ]
    return f'<p class="other">{escape(client.host)}: {" · ".join(links)}</p>' if links else ""


def form_target(redirect_uri: str) -> str:
    """Where the answer may lead, as a Content-Security-Policy names it: a form is followed no further by browsers."""
    parts = urlsplit(redirect_uri)
    # Such a policy has no word for an address of IPv6.
    if parts.scheme not in ("http", "https") or "[" in parts.netloc:
        return f"{parts.scheme}:"
    return f"{parts.scheme}://{parts.netloc}"


def _back_to_app(status: int, url: str) -> Response:
    if status == 303:
        return see_other(url)
    headers = [(b"Location", url.encode()), (b"Cache-Control", b"no-store")]
    return Response(status, b"", headers, content_type=None)
