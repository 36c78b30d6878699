"""Keys of devices: upload, query, claim, changes. spec: client-server-api#key-management-api"""

from __future__ import annotations

from typing import Any

import msgspec

from homeserver.accounts.types import Requester
from homeserver.e2ee.assembly import keys_by_usage
from homeserver.e2ee.queries import KeyQueries
from homeserver.e2ee.sections import DeviceNews
from homeserver.e2ee.types import DEFAULT_TIMEOUT_S, MAX_TIMEOUT_S
from homeserver.e2ee.uploads import KeyUploads
from homeserver.http.errors import invalid_param
from homeserver.http.request import Request
from homeserver.http.route import Auth, Route
from homeserver.stream.log import ChangeLog
from homeserver.sync.v3 import SyncService

_V3 = "/_matrix/client/v3/keys"
_MAX_BODY = 1024 * 1024
# All devices of a large room: some clients ask for them in one request.
_MAX_QUESTION = 2 * 1024 * 1024


class QueryBody(msgspec.Struct):
    device_keys: dict[str, list[str]]
    timeout: int | None = None


class ClaimBody(msgspec.Struct):
    one_time_keys: dict[str, dict[str, str]]
    timeout: int | None = None


class DeviceKeysApi:
    def __init__(
        self,
        uploads: KeyUploads,
        queries: KeyQueries,
        news: DeviceNews,
        sync: SyncService,
        changes: ChangeLog,
    ) -> None:
        self._uploads = uploads
        self._queries = queries
        self._news = news
        self._sync = sync
        self._changes = changes

    def routes(self) -> list[Route]:
        return [
            Route(
                method="POST",
                template=f"{_V3}/upload",
                handler=self.upload,
                auth=Auth.GUEST_OK,
                limit="write",
                max_body=_MAX_BODY,
                spec="client-server-api#post_matrixclientv3keysupload",
                suspended_may=True,
            ),
            Route(
                method="POST",
                template=f"{_V3}/query",
                handler=self.query,
                auth=Auth.GUEST_OK,
                limit="read",
                max_body=_MAX_QUESTION,
                spec="client-server-api#post_matrixclientv3keysquery",
                suspended_may=True,
            ),
            Route(
                method="POST",
                template=f"{_V3}/claim",
                handler=self.claim,
                auth=Auth.GUEST_OK,
                limit="write",
                max_body=_MAX_QUESTION,
                spec="client-server-api#post_matrixclientv3keysclaim",
                suspended_may=True,
            ),
            Route(
                method="GET",
                template=f"{_V3}/changes",
                handler=self.get_changes,
                auth=Auth.USER,
                limit="read",
                spec="client-server-api#get_matrixclientv3keyschanges",
            ),
        ]

    async def upload(self, request: Request) -> dict[str, Any]:
        counts = await self._uploads.upload(request.requester, request.json(allow_empty=True))
        return {"one_time_key_counts": counts}

    async def query(self, request: Request) -> dict[str, Any]:
        body = request.json(QueryBody)
        timeout_s = _timeout(body.timeout)
        found = await self._queries.query(request.requester, body.device_keys, timeout_s)
        return {"failures": found.failures, **keys_by_usage(found.users, with_empty=True)}

    async def claim(self, request: Request) -> dict[str, Any]:
        body = request.json(ClaimBody)
        claims = [
            (user_id, device_id, algorithm)
            for user_id, by_device in body.one_time_keys.items()
            for device_id, algorithm in by_device.items()
        ]
        found = await self._queries.claim(request.requester, claims, _timeout(body.timeout))
        return {"failures": found.failures, "one_time_keys": found.keys}

    async def get_changes(self, request: Request) -> dict[str, Any]:
        requester: Requester = request.requester
        since = self._sync.parse_token(request.required_arg("from"))
        # Up to where is a hint: whatever is newer than it is told as well.
        self._sync.parse_token(request.required_arg("to"))
        news = await self._news.list_news(requester.user_nid, since.pos, self._changes.position)
        return {
            "changed": await self._news.name_users(news.changed),
            "left": await self._news.name_users(news.left),
        }


def _timeout(timeout_ms: int | None) -> float:
    if timeout_ms is None:
        return DEFAULT_TIMEOUT_S
    if timeout_ms < 0:
        raise invalid_param("timeout must not be negative")
    return min(max(timeout_ms / 1000, 1.0), MAX_TIMEOUT_S)
