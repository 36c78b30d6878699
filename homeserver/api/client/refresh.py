"""Refreshing access tokens. spec: client-server-api#refreshing-access-tokens"""

from __future__ import annotations

from typing import Any

import msgspec

from homeserver.accounts.sessions import Sessions
from homeserver.http.errors import missing_param
from homeserver.http.request import Request
from homeserver.http.route import Auth, Route


class RefreshBody(msgspec.Struct):
    refresh_token: str | None = None


class RefreshApi:
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def routes(self) -> list[Route]:
        return [
            # The refresh token is all the authentication that it takes: the access token may be over.
            Route(
                method="POST",
                template="/_matrix/client/v3/refresh",
                handler=self.refresh,
                auth=Auth.NONE,
                limit="write",
                max_body=16_384,
                spec="client-server-api#post_matrixclientv3refresh",
            )
        ]

    async def refresh(self, request: Request) -> dict[str, Any]:
        token = request.json(RefreshBody).refresh_token
        if token is None:
            raise missing_param("refresh_token is missing")
        answer = (await self._sessions.refresh(token)).to_json()
        del answer["device_id"]  # not among the fields of this answer
        return answer
