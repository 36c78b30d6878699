"""Cross-signing keys and signatures. spec: client-server-api#cross-signing"""

from __future__ import annotations

from typing import Any

from homeserver.accounts.login import Identity
from homeserver.accounts.types import Requester
from homeserver.accounts.uia import InteractiveAuth
from homeserver.e2ee.signing import CrossSigning
from homeserver.http.request import Request
from homeserver.http.response import EMPTY_JSON
from homeserver.http.route import Auth, Route

_MAX_BODY = 1024 * 1024


class CrossSigningApi:
    def __init__(self, signing: CrossSigning, identity: Identity, interactive: InteractiveAuth) -> None:
        self._signing = signing
        self._identity = identity
        self._interactive = interactive

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
            await self._interactive.confirm(request, body, offer, user_nid=requester.user_nid)

        await self._signing.upload(requester, body, confirm)
        return EMPTY_JSON

    async def sign(self, request: Request) -> dict[str, Any]:
        return {"failures": await self._signing.sign(request.requester, request.json())}
