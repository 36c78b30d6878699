"""Tokens for apps: by a code, for a device without a browser, anew, and no longer.

# spec: client-server-api#grant-types
# spec: client-server-api#token-revocation
"""

from __future__ import annotations

from typing import Any, Final

from homeserver.api.oauth.answers import answered, read_form, refusal
from homeserver.http.request import Request
from homeserver.http.response import Response
from homeserver.http.route import Auth, Route
from homeserver.oauth.grants import Grants
from homeserver.oauth.metadata import DEVICE, REVOKE, TOKEN
from homeserver.oauth.types import OAuthError

_BODY_MOST: Final = 32_768


class OAuthTokensApi:
    """The endpoints that give tokens and take them back."""

    def __init__(self, grants: Grants) -> None:
        self._grants = grants

    def routes(self) -> list[Route]:
        return [
            Route(
                method="POST",
                template=TOKEN,
                handler=self.token,
                auth=Auth.NONE,
                limit="write",
                max_body=_BODY_MOST,
                spec="client-server-api#grant-types",
                refuse=refusal,
            ),
            Route(
                method="POST",
                template=REVOKE,
                handler=self.revoke,
                auth=Auth.NONE,
                limit="write",
                max_body=_BODY_MOST,
                spec="client-server-api#token-revocation",
                refuse=refusal,
            ),
            Route(
                method="POST",
                template=DEVICE,
                handler=self.device,
                auth=Auth.NONE,
                limit="login",
                max_body=_BODY_MOST,
                spec="client-server-api#device-authorisation-flow",
                refuse=refusal,
            ),
        ]

    async def token(self, request: Request) -> Response:
        """Exchange a grant."""

        async def make() -> dict[str, Any]:
            return await self._grants.exchange(read_form(request))

        return await answered(make)

    async def revoke(self, request: Request) -> Response:
        """Log out."""

        async def make() -> dict[str, Any]:
            token = read_form(request).get("token")
            if not token:
                raise OAuthError("invalid_request", "token is missing")
            await self._grants.revoke(token)
            return {}

        return await answered(make)

    async def device(self, request: Request) -> Response:
        """Ask to be let in, for somebody to decide elsewhere."""

        async def make() -> dict[str, Any]:
            said = read_form(request)
            client_id = said.get("client_id")
            if not client_id:
                raise OAuthError("invalid_request", "client_id is missing")
            return await self._grants.begin_device(client_id, said.get("scope", ""))

        return await answered(make)
