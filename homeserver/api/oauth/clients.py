"""How apps find the authorization server and introduce themselves.

# spec: client-server-api#server-metadata-discovery
# spec: client-server-api#client-registration
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from homeserver.api.oauth.answers import answered
from homeserver.config.schema import Config
from homeserver.http.errors import MatrixError
from homeserver.http.request import Request
from homeserver.http.response import Response, json_response
from homeserver.http.route import Auth, Handler, Route
from homeserver.oauth.clients import Clients
from homeserver.oauth.id_tokens import IdTokens
from homeserver.oauth.metadata import KEYS, REGISTER, Places
from homeserver.oauth.types import OAuthError

_STABLE: Final = "/_matrix/client/v1/auth_metadata"
_OLD: Final = "/_matrix/client/unstable/org.matrix.msc2965/auth_metadata"


class OAuthClientsApi:
    """``config`` is asked each time, as registration may be opened or closed while the server runs."""

    def __init__(
        self, config: Callable[[], Config], places: Places, clients: Clients, id_tokens: IdTokens
    ) -> None:
        self._config = config
        self._places = places
        self._clients = clients
        self._id_tokens = id_tokens

    def routes(self) -> list[Route]:
        discovery = "client-server-api#server-metadata-discovery"
        return [
            self._get(_STABLE, self.metadata, discovery),
            # COMPAT(apps of before Matrix 1.15): the name from before it was specified.
            self._get(_OLD, self.metadata, discovery),
            # COMPAT(matrix-js-sdk up to 43): it looks here before each refresh, by the name of the issuer.
            self._get("/.well-known/openid-configuration", self.metadata, discovery),
            # spec: RFC 8414 section 3
            self._get("/.well-known/oauth-authorization-server", self.metadata, discovery),
            self._get(KEYS, self.keys, discovery),
            Route(
                method="POST",
                template=REGISTER,
                handler=self.register,
                auth=Auth.NONE,
                limit="write",
                max_body=32_768,
                spec="client-server-api#client-registration",
            ),
        ]

    def _get(self, template: str, handler: Handler, spec: str) -> Route:
        return Route(method="GET", template=template, handler=handler, auth=Auth.NONE, spec=spec)

    async def metadata(self, request: Request) -> Response:
        """Where everything is, and what is supported."""
        told = self._places.metadata(
            may_sign_up=self._config().registration.mode != "closed",
            with_old_names=request.path != _STABLE,
        )
        return json_response(told, headers=[(b"Cache-Control", b"max-age=600")])

    async def keys(self, _: Request) -> Response:
        """With what id tokens are verified."""
        keys = await self._id_tokens.public_keys()
        return json_response(keys, headers=[(b"Cache-Control", b"max-age=3600")])

    async def register(self, request: Request) -> Response:
        """An app says what it is, and gets its id."""

        async def make() -> dict[str, Any]:
            try:
                said = request.json()
            except MatrixError as error:
                raise OAuthError("invalid_client_metadata", error.error) from None
            return await self._clients.register(said)

        return await answered(make, 201)
