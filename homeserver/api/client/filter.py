"""Filters defined beforehand. spec: client-server-api#filtering"""

from __future__ import annotations

from homeserver.accounts.filters import MAX_FILTER_BYTES, Filters
from homeserver.accounts.profiles import check_own
from homeserver.http.request import Request
from homeserver.http.route import Auth, Route


class FilterApi:
    def __init__(self, filters: Filters) -> None:
        self._filters = filters

    def routes(self) -> list[Route]:
        return [
            Route(
                method="POST",
                template="/_matrix/client/v3/user/{user_id:user_id}/filter",
                handler=self.define,
                auth=Auth.GUEST_OK,
                limit="write",
                max_body=MAX_FILTER_BYTES,
                spec="client-server-api#post_matrixclientv3useruseridfilter",
                suspended_may=True,
            ),
            Route(
                method="GET",
                template="/_matrix/client/v3/user/{user_id:user_id}/filter/{filter_id}",
                handler=self.get,
                auth=Auth.GUEST_OK,
                limit="read",
                spec="client-server-api#get_matrixclientv3useruseridfilterfilterid",
            ),
        ]

    async def define(self, request: Request, user_id: str) -> dict[str, str]:
        check_own(request.requester, user_id)
        return {"filter_id": await self._filters.define(request.requester, request.body or b"{}")}

    async def get(self, request: Request, user_id: str, filter_id: str) -> bytes:
        check_own(request.requester, user_id)
        return await self._filters.get(request.requester, filter_id)
