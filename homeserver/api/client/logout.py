"""Logging out. spec: client-server-api#post_matrixclientv3logout"""

from __future__ import annotations

from homeserver.accounts.sessions import Sessions
from homeserver.http.request import Request
from homeserver.http.response import EMPTY_JSON
from homeserver.http.route import Auth, Route


class LogoutApi:
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def routes(self) -> list[Route]:
        return [
            Route(
                method="POST",
                template="/_matrix/client/v3/logout",
                handler=self.logout,
                auth=Auth.GUEST_OK,
                spec="client-server-api#post_matrixclientv3logout",
                suspended_may=True,
                locked_may=True,
            ),
            Route(
                method="POST",
                template="/_matrix/client/v3/logout/all",
                handler=self.logout_all,
                auth=Auth.GUEST_OK,
                spec="client-server-api#post_matrixclientv3logoutall",
                suspended_may=True,
                locked_may=True,
            ),
        ]

    async def logout(self, request: Request) -> bytes:
        await self._sessions.log_out(request.requester)
        return EMPTY_JSON

    async def logout_all(self, request: Request) -> bytes:
        await self._sessions.log_out_all(request.requester)
        return EMPTY_JSON
