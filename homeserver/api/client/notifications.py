"""What a user was notified of. spec: client-server-api#listing-notifications"""

from __future__ import annotations

from homeserver.http.errors import invalid_param
from homeserver.http.request import Request
from homeserver.http.route import Route
from homeserver.push.listing import LIMIT, LIMIT_MOST, NotificationList

_TOKEN_MOST = 18


class NotificationsApi:
    def __init__(self, listing: NotificationList) -> None:
        self._listing = listing

    def routes(self) -> list[Route]:
        return [
            Route(
                method="GET",
                template="/_matrix/client/v3/notifications",
                handler=self.get,
                limit="read",
                spec="client-server-api#get_matrixclientv3notifications",
            )
        ]

    async def get(self, request: Request) -> bytes:
        token = request.arg("from") or None
        if token is not None and not (token.isascii() and token.isdecimal() and len(token) <= _TOKEN_MOST):
            raise invalid_param("from is no token of this server")
        return await self._listing.page(
            request.requester,
            None if token is None else int(token),
            request.int_arg("limit", LIMIT, minimum=1, maximum=LIMIT_MOST, clamp=True),
            only_highlights=request.arg("only") == "highlight",
        )
