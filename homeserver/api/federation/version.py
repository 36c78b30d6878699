"""Which program answers. spec: server-server-api#get_matrixfederationv1version"""

from __future__ import annotations

from typing import Any

from homeserver import __version__
from homeserver.http.request import Request
from homeserver.http.route import Auth, Route


class FederationVersionApi:
    """Open to everybody, as others use it to see whether federation works."""

    def routes(self) -> list[Route]:
        return [
            Route(
                method="GET",
                template="/_matrix/federation/v1/version",
                handler=self.version,
                auth=Auth.NONE,
                limit="federation",
                serve="federation",
                spec="server-server-api#get_matrixfederationv1version",
            )
        ]

    async def version(self, _: Request) -> dict[str, Any]:
        return {"server": {"name": "CHAOS", "version": __version__}}
