"""Account data and tags. spec: client-server-api#client-config"""

from __future__ import annotations

from typing import Any

from homeserver.accounts.account_data import AccountData
from homeserver.accounts.profiles import check_own
from homeserver.http.request import Request
from homeserver.http.response import EMPTY_JSON
from homeserver.http.route import Auth, Route
from homeserver.store.account_data import MAX_CONTENT_BYTES

_USER = "/_matrix/client/v3/user/{user_id:user_id}"
_ROOM = f"{_USER}/rooms/{{room_id:room_id}}"
# MSC3391, whose stable place is not given yet.
_MSC3391 = "/_matrix/client/unstable/org.matrix.msc3391/user/{user_id:user_id}"


class AccountDataApi:
    def __init__(self, account_data: AccountData) -> None:
        self._account_data = account_data

    def routes(self) -> list[Route]:
        return [*self._data_routes(), *self._deletion_routes(), *self._tag_routes()]

    def _data_routes(self) -> list[Route]:
        return [
            Route(
                method="GET",
                template=f"{_USER}/account_data/{{type_}}",
                handler=self.get,
                auth=Auth.USER,
                limit="read",
                spec="client-server-api#get_matrixclientv3useruseridaccount_datatype",
            ),
            Route(
                method="PUT",
                template=f"{_USER}/account_data/{{type_}}",
                handler=self.put,
                auth=Auth.USER,
                limit="write",
                max_body=MAX_CONTENT_BYTES,
                spec="client-server-api#put_matrixclientv3useruseridaccount_datatype",
                suspended_may=True,
            ),
            Route(
                method="GET",
                template=f"{_ROOM}/account_data/{{type_}}",
                handler=self.get,
                auth=Auth.USER,
                limit="read",
                spec="client-server-api#get_matrixclientv3useruseridroomsroomidaccount_datatype",
            ),
            Route(
                method="PUT",
                template=f"{_ROOM}/account_data/{{type_}}",
                handler=self.put,
                auth=Auth.USER,
                limit="write",
                max_body=MAX_CONTENT_BYTES,
                spec="client-server-api#put_matrixclientv3useruseridroomsroomidaccount_datatype",
                suspended_may=True,
            ),
        ]

    def _deletion_routes(self) -> list[Route]:
        return [
            Route(
                method="DELETE",
                template=f"{_MSC3391}{place}/account_data/{{type_}}",
                handler=self.delete,
                auth=Auth.USER,
                limit="write",
                spec="msc3391#endpoints",
                suspended_may=True,
            )
            for place in ("", "/rooms/{room_id:room_id}")
        ]

    def _tag_routes(self) -> list[Route]:
        return [
            Route(
                method="GET",
                template=f"{_ROOM}/tags",
                handler=self.get_tags,
                auth=Auth.USER,
                limit="read",
                spec="client-server-api#get_matrixclientv3useruseridroomsroomidtags",
            ),
            Route(
                method="PUT",
                template=f"{_ROOM}/tags/{{tag}}",
                handler=self.put_tag,
                auth=Auth.USER,
                limit="write",
                max_body=16_384,
                spec="client-server-api#put_matrixclientv3useruseridroomsroomidtagstag",
                suspended_may=True,
            ),
            Route(
                method="DELETE",
                template=f"{_ROOM}/tags/{{tag}}",
                handler=self.delete_tag,
                auth=Auth.USER,
                limit="write",
                spec="client-server-api#delete_matrixclientv3useruseridroomsroomidtagstag",
                suspended_may=True,
            ),
        ]

    async def get(self, request: Request, user_id: str, type_: str, room_id: str | None = None) -> bytes:
        check_own(request.requester, user_id)
        return await self._account_data.get(request.requester, room_id, type_)

    async def put(self, request: Request, user_id: str, type_: str, room_id: str | None = None) -> bytes:
        check_own(request.requester, user_id)
        await self._account_data.put(request.requester, room_id, type_, request.json())
        return EMPTY_JSON

    async def delete(self, request: Request, user_id: str, type_: str, room_id: str | None = None) -> bytes:
        check_own(request.requester, user_id)
        await self._account_data.delete(request.requester, room_id, type_)
        return EMPTY_JSON

    async def get_tags(self, request: Request, user_id: str, room_id: str) -> dict[str, Any]:
        check_own(request.requester, user_id)
        return {"tags": await self._account_data.get_tags(request.requester, room_id)}

    async def put_tag(self, request: Request, user_id: str, room_id: str, tag: str) -> bytes:
        check_own(request.requester, user_id)
        content = request.json(allow_empty=True)
        await self._account_data.put_tag(request.requester, room_id, tag, content)
        return EMPTY_JSON

    async def delete_tag(self, request: Request, user_id: str, room_id: str, tag: str) -> bytes:
        check_own(request.requester, user_id)
        await self._account_data.drop_tag(request.requester, room_id, tag)
        return EMPTY_JSON
