"""How apps introduce themselves, and with what they verify id tokens. spec: client-server-api#client-registration"""

from __future__ import annotations

from typing import Any

from homeserver.api.oauth.answers import answered, refusal
from homeserver.http.errors import MatrixError
from homeserver.http.request import Request
from homeserver.http.response import Response, json_response
from homeserver.http.route import Auth, Route
from homeserver.oauth.clients import Clients
from homeserver.oauth.id_tokens import IdTokens
from homeserver.oauth.metadata import KEYS, REGISTER
from homeserver.oauth.types import OAuthError


class OAuthClientsApi:
    """The two endpoints."""

    def __init__(self, clients: Clients, id_tokens: IdTokens) -> None:
        self._clients = clients
        self._id_tokens = id_tokens

    def routes(self) -> list[Route]:
        return [
            Route(
                method="POST",
                template=REGISTER,
                handler=self.register,
                auth=Auth.NONE,
                limit="write",
                max_body=32_768,
                spec="client-server-api#client-registration",
                refuse=refusal,
            ),
            Route(
                method="GET",
                template=KEYS,
                handler=self.keys,
                auth=Auth.NONE,
                limit="write",
                spec="client-server-api#server-metadata-discovery",
                refuse=refusal,
            ),
        ]

    async def register(self, request: Request) -> Response:
        """An app says what it is, and gets its id."""

        async def make() -> dict[str, Any]:
            try:
                said = request.json()
            except MatrixError as error:
                raise OAuthError("invalid_client_metadata", error.error) from None
            return await self._clients.register(said)

        return await answered(make, 201)

    async def keys(self, _: Request) -> Response:
        """The public half of the key, as a JSON Web Key Set."""
        keys = await self._id_tokens.public_keys()
        return json_response(keys, headers=[(b"Cache-Control", b"max-age=3600")])
