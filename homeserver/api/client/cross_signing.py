"""Cross-signing keys and signatures. spec: client-server-api#cross-signing"""

from __future__ import annotations

from typing import Any

from homeserver.accounts.login import Identity
from homeserver.accounts.types import Requester
from homeserver.accounts.uia import InteractiveAuth, Offer, StageRefusedError
from homeserver.e2ee.signing import CrossSigning
from homeserver.http.request import Request
from homeserver.http.response import EMPTY_JSON
from homeserver.http.route import Auth, Route
from homeserver.oauth.resets import STAGES, CrossSigningResets

_MAX_BODY = 1024 * 1024


class CrossSigningApi:
    """``resets``: how apps without a password do it; None where there are none."""

    def __init__(
        self,
        signing: CrossSigning,
        identity: Identity,
        interactive: InteractiveAuth,
        resets: CrossSigningResets | None = None,
    ) -> None:
        self._signing = signing
        self._identity = identity
        self._interactive = interactive
        self._resets = resets

    def routes(self) -> list[Route]:
        return [
            Route(
                method="POST",
                template=f"/_matrix/client/{version}/keys/device_signing/upload",
                handler=self.upload,
                auth=Auth.USER,
                limit="write",
                spec="client-server-api#post_matrixclientv3keysdevice_signingupload",
                suspended_may=True,
            )
            for version in ("v3", "unstable")  # COMPAT(clients of before v1.1, always)
        ] + [
            Route(
                method="POST",
                template=f"/_matrix/client/{version}/keys/signatures/upload",
                handler=self.sign,
                auth=Auth.USER,
                limit="write",
                max_body=_MAX_BODY,
                spec="client-server-api#post_matrixclientv3keyssignaturesupload",
                suspended_may=True,
            )
            for version in ("v3", "unstable")  # COMPAT(clients of before v1.1, always)
        ]

    async def upload(self, request: Request) -> bytes:
        requester: Requester = request.requester
        body = request.json()

        async def confirm() -> None:
            if requester.appservice_id is not None:
                return  # spec: application-service-api#cross-signing
            offer = self._identity.password_offer(requester)
            if self._resets is not None and await self._resets.concern(requester.device_nid):
                if self._resets.take(requester.user_nid):
                    return
                offer = _page_offer(self._resets, requester.user_nid)
            await self._interactive.confirm(request, body, offer, user_nid=requester.user_nid)

        await self._signing.upload(requester, body, confirm)
        return EMPTY_JSON

    async def sign(self, request: Request) -> dict[str, Any]:
        return {"failures": await self._signing.sign(request.requester, request.json())}


def _page_offer(resets: CrossSigningResets, user_nid: int) -> Offer:
    """What is to be allowed on the page of the account. An app that asks before it was learns no more than that."""
    # spec: client-server-api#oauth-authentication

    async def check(_: dict[str, Any]) -> None:
        if not resets.take(user_nid):
            # Without an errcode: it is no failure, and the app asks again.
            raise StageRefusedError("", "This was not allowed yet")

    return Offer(
        [[stage] for stage in STAGES],
        dict.fromkeys(STAGES, check),
        params={stage: {"url": resets.page} for stage in STAGES},
    )
