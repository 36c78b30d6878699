"""Key backups. spec: client-server-api#server-side-key-backups"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from homeserver.e2ee.backup import KeyBackups, KeyData, RoomKeys
from homeserver.http.errors import invalid_param
from homeserver.http.request import Request
from homeserver.http.response import EMPTY_JSON, Response
from homeserver.http.route import Auth, Route

_ROOT = "/_matrix/client/v3/room_keys"
_KEYS = f"{_ROOT}/keys"
_ROOM = f"{_KEYS}/{{room_id:room_id}}"
_SESSION = f"{_ROOM}/{{session_id}}"
# Clients send some hundred keys at a time.
_MAX_BODY = 8 * 1024 * 1024


class BackupBody(msgspec.Struct):
    algorithm: str
    auth_data: dict[str, Any]
    version: str | None = None


class KeysBody(msgspec.Struct):
    rooms: dict[str, RoomKeys]


def _route(
    method: str, template: str, handler: Callable[..., Any], anchor: str, max_body: int = 262_144
) -> Route:
    return Route(
        method=method,
        template=template,
        handler=handler,
        auth=Auth.USER,
        limit="read" if method == "GET" else "write",
        max_body=max_body,
        spec=f"client-server-api#{method.lower()}_matrixclientv3room_keys{anchor}",
        suspended_may=True,
    )


class RoomKeysApi:
    def __init__(self, backups: KeyBackups) -> None:
        self._backups = backups

    def routes(self) -> list[Route]:
        one = f"{_ROOT}/version/{{version}}"
        return [
            _route("POST", f"{_ROOT}/version", self.create, "version"),
            _route("GET", f"{_ROOT}/version", self.get, "version"),
            _route("GET", one, self.get, "versionversion"),
            _route("PUT", one, self.update, "versionversion"),
            _route("DELETE", one, self.delete, "versionversion"),
            _route("PUT", _KEYS, self.put_keys, "keys", _MAX_BODY),
            _route("GET", _KEYS, self.get_keys, "keys"),
            _route("DELETE", _KEYS, self.delete_keys, "keys"),
            _route("PUT", _ROOM, self.put_room, "keysroomid", _MAX_BODY),
            _route("GET", _ROOM, self.get_keys, "keysroomid"),
            _route("DELETE", _ROOM, self.delete_keys, "keysroomid"),
            _route("PUT", _SESSION, self.put_session, "keysroomidsessionid"),
            _route("GET", _SESSION, self.get_session, "keysroomidsessionid"),
            _route("DELETE", _SESSION, self.delete_keys, "keysroomidsessionid"),
        ]

    # --- versions ------------------------------------------------------------------------------------------------

    async def create(self, request: Request) -> dict[str, Any]:
        body = request.json(BackupBody)
        return {"version": await self._backups.create(request.requester, body.algorithm, body.auth_data)}

    async def get(self, request: Request, version: str | None = None) -> dict[str, Any]:
        return await self._backups.get(request.requester, version)

    async def update(self, request: Request, version: str) -> bytes:
        body = request.json(BackupBody)
        if body.version is not None and body.version != version:
            raise invalid_param("The version in the body is not the one in the path")
        await self._backups.update(request.requester, version, body.algorithm, body.auth_data)
        return EMPTY_JSON

    async def delete(self, request: Request, version: str) -> bytes:
        await self._backups.delete(request.requester, version)
        return EMPTY_JSON

    # --- keys ----------------------------------------------------------------------------------------------------

    async def put_keys(self, request: Request) -> dict[str, Any]:
        version, body = request.required_arg("version"), request.json(KeysBody)
        rooms = {room_id: room.sessions for room_id, room in body.rooms.items()}
        return await self._backups.put_keys(request.requester, version, rooms)

    async def put_room(self, request: Request, room_id: str) -> dict[str, Any]:
        version, body = request.required_arg("version"), request.json(RoomKeys)
        return await self._backups.put_keys(request.requester, version, {room_id: body.sessions})

    async def put_session(self, request: Request, room_id: str, session_id: str) -> dict[str, Any]:
        version, key = request.required_arg("version"), request.json(KeyData)
        return await self._backups.put_keys(request.requester, version, {room_id: {session_id: key}})

    async def get_keys(self, request: Request, room_id: str | None = None) -> Response:
        version = request.required_arg("version")
        return Response(body=await self._backups.get_keys(request.requester, version, room_id))

    async def get_session(self, request: Request, room_id: str, session_id: str) -> bytes:
        version = request.required_arg("version")
        return await self._backups.get_key(request.requester, version, room_id, session_id)

    async def delete_keys(
        self, request: Request, room_id: str | None = None, session_id: str | None = None
    ) -> dict[str, Any]:
        version = request.required_arg("version")
        return await self._backups.delete_keys(request.requester, version, room_id, session_id)
