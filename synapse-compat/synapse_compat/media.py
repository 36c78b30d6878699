"""Media: quarantined, deleted, listed by who has uploaded it."""

from __future__ import annotations

from typing import Any, Final

from federation.ids import RoomId, UserId
from homeserver.accounts.users import Accounts
from homeserver.http.errors import invalid_param, not_found
from homeserver.http.request import Request
from homeserver.http.route import Route
from homeserver.media.administration import MediaDesk
from homeserver.store.media_admin import ORDERS, ListedMedia
from synapse_compat.gate import admin_route, find_local, is_backwards, next_token, page_bounds

_ONE: Final = "/{origin:server_name}/{media_id}"
_USER: Final = "/v1/users/{user_id:member_id}/media"
# LIMIT(files that are deleted by one call)
_DELETED_MOST: Final = 1_000


class MediaAdminApi:
    """See the module."""

    def __init__(self, accounts: Accounts, desk: MediaDesk) -> None:
        self._accounts = accounts
        self._desk = desk

    def routes(self) -> list[Route]:
        room, user = "/v1/room/{room_id:room_id}", "/v1/user/{user_id:member_id}"
        return [
            admin_route("POST", "/v1/media/quarantine" + _ONE, self.quarantine, "media"),
            admin_route("POST", "/v1/media/unquarantine" + _ONE, self.release, "media"),
            admin_route("POST", room + "/media/quarantine", self.quarantine_room, "media"),
            admin_route("POST", user + "/media/quarantine", self.quarantine_user, "media"),
            admin_route("DELETE", "/v1/media" + _ONE, self.delete, "media"),
            admin_route("GET", _USER, self.list_user, "media"),
            admin_route("DELETE", _USER, self.delete_user, "media"),
            admin_route("POST", "/v1/purge_media_cache", self.purge, "media"),
        ]

    async def quarantine(self, request: Request, origin: str, media_id: str) -> dict[str, Any]:
        """Show a file to nobody any more."""
        await self._desk.quarantine(request.requester, origin, media_id)
        return {}

    async def release(self, _: Request, origin: str, media_id: str) -> dict[str, Any]:
        """Show it again."""
        await self._desk.release(origin, media_id)
        return {}

    async def quarantine_room(self, request: Request, room_id: RoomId) -> dict[str, int]:
        """Show nothing any more to which a room's events refer."""
        return {"num_quarantined": await self._desk.quarantine_room(request.requester, room_id)}

    async def quarantine_user(self, request: Request, user_id: UserId) -> dict[str, int]:
        """Show nothing any more of what a user has uploaded."""
        account = await find_local(self._accounts, user_id)
        return {"num_quarantined": await self._desk.quarantine_user(request.requester, account.user_nid)}

    async def delete(self, _: Request, origin: str, media_id: str) -> dict[str, Any]:
        """Delete an upload."""
        if origin != self._desk.server_name:
            raise invalid_param("Only media of this server can be deleted")
        deleted = await self._desk.delete([media_id])
        if not deleted:
            raise not_found("There is no such media")
        return _deleted(deleted)

    async def list_user(self, request: Request, user_id: UserId) -> dict[str, Any]:
        """A page of what a user has uploaded, the newest first unless the query says otherwise."""
        account = await find_local(self._accounts, user_id)
        skip, most = page_bounds(request)
        found, total = await self._uploads(request, account.user_nid, skip, most)
        shown = [_shown(one) for one in found]
        return {"media": shown, "total": total, **next_token(skip, len(found), total)}

    async def delete_user(self, request: Request, user_id: UserId) -> dict[str, Any]:
        """Delete what the same list would show."""
        account = await find_local(self._accounts, user_id)
        skip, most = page_bounds(request)
        found, _ = await self._uploads(request, account.user_nid, skip, min(most, _DELETED_MOST))
        return _deleted(await self._desk.delete([one.media_id for one in found]))

    async def _uploads(
        self, request: Request, user_nid: int, skip: int, most: int
    ) -> tuple[list[ListedMedia], int]:
        order_by = request.arg("order_by", "created_ts")
        if order_by not in ORDERS:
            raise invalid_param("Query parameter order_by is none of those that there are")
        by_default = request.arg("order_by") is None
        backwards = is_backwards(request, default=by_default)
        return await self._desk.uploads(user_nid, order_by, skip, most, backwards=backwards)

    async def purge(self, request: Request) -> dict[str, int]:
        """Forget files of other servers at which nobody has looked for so long."""
        request.required_arg("before_ts")
        return {"deleted": await self._desk.drop_cached(request.int_arg("before_ts", 0))}


def _deleted(media_ids: Any) -> dict[str, Any]:
    return {"deleted_media": list(media_ids), "total": len(media_ids)}


def _shown(one: ListedMedia) -> dict[str, Any]:
    return {
        "media_id": one.media_id,
        "media_type": one.content_type,
        "media_length": one.size,
        "upload_name": one.file_name,
        "created_ts": one.created_ts_ms,
        "last_access_ts": one.last_access_ts_ms,
        "quarantined_by": one.quarantined_by,
        "safe_from_quarantine": False,
    }
