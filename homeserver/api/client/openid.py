"""OpenID tokens: made for users, and exchanged by services of other people. spec: client-server-api#openid"""

from __future__ import annotations

from typing import Any

from homeserver.accounts.openid import OpenIds
from homeserver.http.errors import missing_token
from homeserver.http.request import Request
from homeserver.http.route import Auth, Route


class OpenIdApi:
    def __init__(self, openids: OpenIds) -> None:
        self._openids = openids

    def routes(self) -> list[Route]:
        return [
            Route(
                method="POST",
                template="/_matrix/client/v3/user/{user_id:user_id}/openid/request_token",
                handler=self.request_token,
                auth=Auth.USER,
                limit="write",
                spec="client-server-api#post_matrixclientv3useruseridopenidrequest_token",
            ),
            # Whoever asks is no homeserver and signs nothing; the token is what is believed.
            Route(
                method="GET",
                template="/_matrix/federation/v1/openid/userinfo",
                handler=self.user_info,
                auth=Auth.NONE,
                limit="federation",
                serve="federation",
                spec="server-server-api#get_matrixfederationv1openiduserinfo",
            ),
        ]

    async def request_token(self, request: Request, user_id: str) -> dict[str, Any]:
        request.json(allow_empty=True)
        return await self._openids.make(request.requester, user_id)

    async def user_info(self, request: Request) -> dict[str, str]:
        token = request.arg("access_token")
        if not token:
            raise missing_token()
        return {"sub": await self._openids.owner(token)}
