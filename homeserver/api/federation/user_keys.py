"""Keys and devices of our users, for other servers. spec: server-server-api#end-to-end-encryption"""

from __future__ import annotations

from typing import Any

import msgspec

from federation.ids import UserId
from homeserver.e2ee.assembly import keys_by_usage
from homeserver.e2ee.outgoing import device_list_content
from homeserver.e2ee.queries import KeyQueries
from homeserver.http.request import Request
from homeserver.http.route import Auth, Route

_V1 = "/_matrix/federation/v1/user"
_MAX_BODY = 2 * 1024 * 1024


class PeerQueryBody(msgspec.Struct):
    # Dendrite writes the list that means every device as null.
    device_keys: dict[str, list[str] | None]


class PeerClaimBody(msgspec.Struct):
    one_time_keys: dict[str, dict[str, str]]


class UserKeysApi:
    """Users of other servers, and users that there are not, are left out of every answer."""

    def __init__(self, queries: KeyQueries) -> None:
        self._queries = queries

    def routes(self) -> list[Route]:
        return [
            Route(
                method="GET",
                template=f"{_V1}/devices/{{user_id:user_id}}",
                handler=self.devices,
                auth=Auth.FEDERATION,
                serve="federation",
                spec="server-server-api#get_matrixfederationv1userdevicesuserid",
            ),
            Route(
                method="POST",
                template=f"{_V1}/keys/query",
                handler=self.query,
                auth=Auth.FEDERATION,
                max_body=_MAX_BODY,
                serve="federation",
                spec="server-server-api#post_matrixfederationv1userkeysquery",
            ),
            Route(
                method="POST",
                template=f"{_V1}/keys/claim",
                handler=self.claim,
                auth=Auth.FEDERATION,
                max_body=_MAX_BODY,
                serve="federation",
                spec="server-server-api#post_matrixfederationv1userkeysclaim",
            ),
        ]

    async def devices(self, request: Request, user_id: UserId) -> dict[str, Any]:  # noqa: ARG002 (a signed request)
        stream_id, keys = await self._queries.device_list(user_id)
        return device_list_content(user_id, stream_id, keys)

    async def query(self, request: Request) -> dict[str, Any]:
        asked = request.json(PeerQueryBody).device_keys
        users = await self._queries.query_local({user_id: names or () for user_id, names in asked.items()})
        return keys_by_usage(users, with_empty=False)

    async def claim(self, request: Request) -> dict[str, Any]:
        body = request.json(PeerClaimBody)
        claims = [
            (user_id, device_id, algorithm)
            for user_id, by_device in body.one_time_keys.items()
            for device_id, algorithm in by_device.items()
        ]
        return {"one_time_keys": await self._queries.claim_local(claims)}
