"""Rooms are closed for this server: in the background, or while the client waits."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from federation.ids import RoomId, parse_user_id
from homeserver.accounts.users import Accounts
from homeserver.http.errors import MatrixError, bad_json, invalid_param, not_found
from homeserver.http.request import Request
from homeserver.http.route import Route
from homeserver.moderation.tasks import ModerationTasks
from homeserver.rooms.blocks import RoomBlocks
from homeserver.rooms.reads.listing import RoomListing
from homeserver.store.moderation_tasks import Task, TaskKind
from synapse_compat.gate import admin_route, find_local
from synapse_compat.user_redactions import status_of

_ROOM: Final = "/rooms/{room_id:room_id}"
_TEXT_MOST: Final = 10_000
_MESSAGE: Final = (
    "This room has been closed by the administrators of this server: its content is not permitted here."
)


class DeleteBody(msgspec.Struct):
    """``purge`` and ``force_purge`` are passed over: nothing is purged."""

    new_room_user_id: str | None = None
    room_name: str | None = None
    message: str | None = None
    block: bool = False
    purge: bool = True
    force_purge: bool = False


class RoomDeletionApi:
    """See the module."""

    def __init__(
        self, accounts: Accounts, listing: RoomListing, blocks: RoomBlocks, tasks: ModerationTasks
    ) -> None:
        self._accounts = accounts
        self._listing = listing
        self._blocks = blocks
        self._tasks = tasks

    def routes(self) -> list[Route]:
        by_room, by_id = "/v2" + _ROOM + "/delete_status", "/v2/rooms/delete_status/{delete_id}"
        return [
            admin_route("DELETE", "/v1" + _ROOM, self.delete_and_wait, "rooms"),
            admin_route("DELETE", "/v2" + _ROOM, self.delete, "rooms"),
            admin_route("GET", by_room, self.status_of_room, "rooms"),
            admin_route("GET", by_id, self.status, "rooms"),
        ]

    async def delete_and_wait(self, request: Request, room_id: RoomId) -> dict[str, Any]:
        """Close a room, and answer when that is done. One that is unknown here can be blocked."""
        body = request.json(DeleteBody)
        if not await self._listing.is_known(room_id):
            if not body.block:
                raise invalid_param("This room is not known here")
            await self._blocks.block(request.requester, room_id)
            return _result({})
        task_id = await self._begin(request, room_id, body)
        await self._tasks.ended(task_id)
        task = await self._tasks.find(TaskKind.DELETE_ROOM, task_id)
        if task is None or task.ended_ts_ms is None:
            raise MatrixError(503, "M_UNKNOWN", "The server stops, and goes on with this when it runs again")
        if task.error is not None:
            raise MatrixError(400, "M_UNKNOWN", task.error)
        return _result(task.result)

    async def delete(self, request: Request, room_id: RoomId) -> dict[str, str]:
        """Close a room in the background; by its id can be asked how far it is."""
        body = request.json(DeleteBody)
        if not await self._listing.is_known(room_id):
            raise not_found("Room not found")
        return {"delete_id": await self._begin(request, room_id, body)}

    async def _begin(self, request: Request, room_id: RoomId, body: DeleteBody) -> str:
        if body.new_room_user_id is not None:
            leader = await find_local(self._accounts, parse_user_id(body.new_room_user_id))
            if leader.deactivated:
                raise invalid_param("The user of the new room is deactivated")
        wishes = {
            "new_room_user_id": body.new_room_user_id,
            "room_name": _checked(body.room_name, "Content Violation Notification"),
            "message": _checked(body.message, _MESSAGE),
            "block": body.block,
        }
        return await self._tasks.begin(request.requester, TaskKind.DELETE_ROOM, room_id, wishes, alone=True)

    async def status_of_room(self, _: Request, room_id: RoomId) -> dict[str, Any]:
        """Every closing of a room, until a day after its end."""
        tasks = await self._tasks.about(TaskKind.DELETE_ROOM, room_id)
        if not tasks:
            raise not_found("Nobody has closed this room")
        return {"results": [_shown(task) for task in tasks]}

    async def status(self, _: Request, delete_id: str) -> dict[str, Any]:
        """One closing."""
        task = await self._tasks.find(TaskKind.DELETE_ROOM, delete_id)
        if task is None:
            raise not_found("There is no such closing of a room")
        return _shown(task)


def _checked(text: str | None, default: str) -> str:
    if text is None:
        return default
    if not text or "\0" in text or len(text) > _TEXT_MOST:
        raise bad_json(f"room_name and message have 1 to {_TEXT_MOST} characters, and no NUL")
    return text


def _shown(task: Task) -> dict[str, Any]:
    shown = {
        "delete_id": task.task_id,
        "room_id": task.subject,
        "status": status_of(task),
        "shutdown_room": _result(task.result),
        # Said plainly, as nothing is: see rooms/shutdowns.py.
        "purged": False,
    }
    return shown if task.error is None else {**shown, "error": task.error}


def _result(result: dict[str, Any]) -> dict[str, Any]:
    return {
        "kicked_users": result.get("kicked_users", []),
        "failed_to_kick_users": result.get("failed_to_kick_users", []),
        "local_aliases": result.get("local_aliases", []),
        "new_room_id": result.get("new_room_id"),
    }
