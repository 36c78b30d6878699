"""GET /joined_rooms. spec: client-server-api#get_matrixclientv3joined_rooms"""

from __future__ import annotations

from homeserver.http.request import Request
from homeserver.http.route import Auth, Route
from homeserver.store.ids import Interner
from homeserver.stream.index import MembershipIndex


class JoinedRoomsApi:
    def __init__(self, index: MembershipIndex, interner: Interner) -> None:
        self._index = index
        self._interner = interner

    def routes(self) -> list[Route]:
        return [
            Route(
                method="GET",
                template="/_matrix/client/v3/joined_rooms",
                handler=self.joined_rooms,
                auth=Auth.GUEST_OK,
                limit="read",
                spec="client-server-api#get_matrixclientv3joined_rooms",
            )
        ]

    async def joined_rooms(self, request: Request) -> dict[str, list[str]]:
        names = await self._interner.room_names(self._index.joined_rooms(request.requester.user_nid))
        return {"joined_rooms": list(names.values())}
