"""Pushers. spec: client-server-api#push-notifications"""

from __future__ import annotations

from typing import Any

from homeserver.http.errors import missing_param
from homeserver.http.request import Request
from homeserver.http.response import EMPTY_JSON
from homeserver.http.route import Route
from homeserver.push.pushers import PusherBody, Pushers


class PushersApi:
    def __init__(self, pushers: Pushers) -> None:
        self._pushers = pushers

    def routes(self) -> list[Route]:
        return [
            Route(
                method="GET",
                template="/_matrix/client/v3/pushers",
                handler=self.get,
                limit="read",
                spec="client-server-api#get_matrixclientv3pushers",
            ),
            Route(
                method="POST",
                template="/_matrix/client/v3/pushers/set",
                handler=self.post,
                limit="write",
                max_body=65_536,
                spec="client-server-api#post_matrixclientv3pushersset",
                suspended_may=True,
            ),
        ]

    async def get(self, request: Request) -> dict[str, Any]:
        return {"pushers": await self._pushers.load(request.requester)}

    async def post(self, request: Request) -> bytes:
        given = request.json()
        missing = [name for name in ("kind", "app_id", "pushkey") if name not in given]
        if missing:
            raise missing_param(f"Missing parameters: {', '.join(missing)}")
        await self._pushers.put(request.requester, request.json(PusherBody))
        return EMPTY_JSON
