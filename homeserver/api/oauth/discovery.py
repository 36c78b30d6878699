"""How apps find out whether people log in by OAuth 2.0 here, and where. spec: client-server-api#server-metadata-discovery"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from homeserver.config.schema import Config
from homeserver.http.errors import MatrixError
from homeserver.http.request import Request
from homeserver.http.response import Response, json_response
from homeserver.http.route import Auth, Route
from homeserver.oauth.metadata import Places

_STABLE: Final = "/_matrix/client/v1/auth_metadata"
_PATHS: Final = (
    _STABLE,
    # COMPAT(apps of before Matrix 1.15): the name from before it was specified.
    "/_matrix/client/unstable/org.matrix.msc2965/auth_metadata",
    # COMPAT(matrix-js-sdk up to 43): it looks here before each refresh, by the name of the issuer.
    "/.well-known/openid-configuration",
    # spec: RFC 8414 section 3
    "/.well-known/oauth-authorization-server",
)


class OAuthDiscoveryApi:
    """``config`` is asked each time, as registration may be opened or closed while the server runs."""

    def __init__(self, config: Callable[[], Config], places: Places) -> None:
        self._config = config
        self._places = places

    def routes(self) -> list[Route]:
        return [
            Route(
                method="GET",
                template=path,
                handler=self.metadata,
                auth=Auth.NONE,
                spec="client-server-api#server-metadata-discovery",
            )
            for path in _PATHS
        ]

    async def metadata(self, request: Request) -> Response:
        """Where everything is, and what is supported."""
        config = self._config()
        if not config.has_oauth:
            # spec: client-server-api#authentication-api-discovery
            raise MatrixError(404, "M_UNRECOGNIZED", "Accounts are logged in by the legacy API here")
        told = self._places.metadata(
            may_sign_up=config.registration.mode != "closed", with_old_names=request.path != _STABLE
        )
        return json_response(told, headers=[(b"Cache-Control", b"max-age=600")])
