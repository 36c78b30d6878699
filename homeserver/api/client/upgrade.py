"""Room upgrades. spec: client-server-api#room-upgrades"""

from __future__ import annotations

import msgspec

from federation.ids import RoomId
from homeserver.http.request import Request
from homeserver.http.route import Auth, Route
from homeserver.rooms.upgrade import RoomUpgrades


class _Body(msgspec.Struct):
    new_version: str
    additional_creators: list[str] | None = None


class UpgradeApi:
    def __init__(self, upgrades: RoomUpgrades) -> None:
        self._upgrades = upgrades

    def routes(self) -> list[Route]:
        return [
            Route(
                method="POST",
                template="/_matrix/client/v3/rooms/{room_id:room_id}/upgrade",
                handler=self.upgrade,
                auth=Auth.USER,
                limit="create_room",
                spec="client-server-api#post_matrixclientv3roomsroomidupgrade",
            )
        ]

    async def upgrade(self, request: Request, room_id: RoomId) -> dict[str, str]:
        body = request.json(_Body)
        new_id = await self._upgrades.upgrade(
            request.requester, room_id, body.new_version, body.additional_creators
        )
        return {"replacement_room": new_id}
