"""Server administration. spec: client-server-api#server-administration"""

from __future__ import annotations

from typing import Any

import msgspec

from federation.ids import UserId
from homeserver.accounts.standing import Moderation
from homeserver.http.request import Request
from homeserver.http.route import Auth, Route

_V1 = "/_matrix/client/v1/admin"


class SuspendBody(msgspec.Struct):
    suspended: bool


class LockBody(msgspec.Struct):
    locked: bool


class AdminApi:
    """The domain asks whether somebody is an administrator, as it has to before it looks anybody up."""

    def __init__(self, moderation: Moderation) -> None:
        self._moderation = moderation

    def routes(self) -> list[Route]:
        suspend, lock = f"{_V1}/suspend/{{user_id:user_id}}", f"{_V1}/lock/{{user_id:user_id}}"
        return [
            Route(
                method="GET",
                template="/_matrix/client/v3/admin/whois/{user_id:user_id}",
                handler=self.whois,
                auth=Auth.USER,
                limit="read",
                spec="client-server-api#get_matrixclientv3adminwhoisuserid",
            ),
            _route("GET", suspend, self.get_suspended, "suspend"),
            _route("PUT", suspend, self.put_suspended, "suspend"),
            _route("GET", lock, self.get_locked, "lock"),
            _route("PUT", lock, self.put_locked, "lock"),
        ]

    async def whois(self, request: Request, user_id: UserId) -> dict[str, Any]:
        return await self._moderation.whois(request.requester, user_id)

    async def get_suspended(self, request: Request, user_id: UserId) -> dict[str, bool]:
        account = await self._moderation.find(request.requester, user_id)
        return {"suspended": bool(account.suspended)}

    async def put_suspended(self, request: Request, user_id: UserId) -> dict[str, bool]:
        suspended = request.json(SuspendBody).suspended
        await self._moderation.set_standing(request.requester, user_id, suspended=suspended)
        return {"suspended": suspended}

    async def get_locked(self, request: Request, user_id: UserId) -> dict[str, bool]:
        account = await self._moderation.find(request.requester, user_id)
        return {"locked": bool(account.locked)}

    async def put_locked(self, request: Request, user_id: UserId) -> dict[str, bool]:
        locked = request.json(LockBody).locked
        await self._moderation.set_standing(request.requester, user_id, locked=locked)
        return {"locked": locked}


def _route(method: str, template: str, handler: Any, what: str) -> Route:
    return Route(
        method=method,
        template=template,
        handler=handler,
        auth=Auth.USER,
        limit="read" if method == "GET" else "write",
        spec=f"client-server-api#{method.lower()}_matrixclientv1admin{what}userid",
    )
