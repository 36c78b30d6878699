"""The user directory. spec: client-server-api#user-directory"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from homeserver.http.request import Request
from homeserver.http.route import Route
from homeserver.rooms.reads.people import UserDirectory

_LIMIT, _LIMIT_MOST = 10, 50


class _Body(msgspec.Struct):
    search_term: str
    limit: Annotated[int, msgspec.Meta(ge=0)] = _LIMIT


class UserDirectoryApi:
    """``/user_directory/search``."""

    def __init__(self, people: UserDirectory) -> None:
        self._people = people

    def routes(self) -> list[Route]:
        return [
            Route(
                method="POST",
                template="/_matrix/client/v3/user_directory/search",
                handler=self.search,
                limit="search",
                spec="client-server-api#post_matrixclientv3user_directorysearch",
                suspended_may=True,
            )
        ]

    async def search(self, request: Request) -> dict[str, Any]:
        asked = request.json(_Body)
        limit = min(asked.limit, _LIMIT_MOST)
        people, limited = await self._people.search(request.requester, asked.search_term, limit)
        return {"results": people, "limited": limited}
