"""Rooms: listed, looked at, blocked; who is in them, who has power, and who is brought in."""

from __future__ import annotations

from typing import Any

import msgspec

from federation.ids import RoomAlias, RoomId, UserId, domain_of, parse_user_id, parse_user_id_historical
from homeserver.http.errors import invalid_param
from homeserver.http.request import Request
from homeserver.http.route import Route
from homeserver.rooms.blocks import RoomBlocks
from homeserver.rooms.reads.listing import ORDERS, RoomListing, RoomsWanted, is_federatable, text_of
from homeserver.rooms.stewardship import Stewardship
from homeserver.store.room_listing import ListedRoom
from synapse_compat.gate import admin_route, is_backwards, optional_flag, page_bounds

_ROOM = "/v1/rooms/{room_id:room_id}"
_SEARCH_MOST = 500


class BlockBody(msgspec.Struct):
    block: bool


class AdminBody(msgspec.Struct):
    user_id: str | None = None


class JoinBody(msgspec.Struct):
    user_id: str


class RoomsApi:
    """See the module."""

    def __init__(
        self, server_name: str, listing: RoomListing, blocks: RoomBlocks, stewardship: Stewardship
    ) -> None:
        self._server_name = server_name
        self._listing = listing
        self._blocks = blocks
        self._stewardship = stewardship

    def routes(self) -> list[Route]:
        make_admin = "/v1/rooms/{room:room_id_or_alias}/make_room_admin"
        return [
            admin_route("GET", "/v1/rooms", self.list_all, "rooms"),
            admin_route("GET", _ROOM, self.get, "rooms"),
            admin_route("GET", _ROOM + "/members", self.members, "rooms"),
            admin_route("GET", _ROOM + "/block", self.get_block, "rooms"),
            admin_route("PUT", _ROOM + "/block", self.put_block, "rooms"),
            admin_route("POST", make_admin, self.make_admin, "rooms"),
            admin_route("POST", "/v1/join/{room:room_id_or_alias}", self.join, "rooms"),
        ]

    async def list_all(self, request: Request) -> dict[str, Any]:
        """A page of the rooms."""
        order_by, term = request.arg("order_by", "name"), request.arg("search_term")
        if order_by not in ORDERS:
            raise invalid_param("Query parameter order_by is none of those that there are")
        if term is not None and not 0 < len(term) <= _SEARCH_MOST:
            raise invalid_param(f"search_term is empty, or has more than {_SEARCH_MOST} characters")
        wanted = RoomsWanted(
            term or "",
            optional_flag(request, "public_rooms"),
            optional_flag(request, "empty_rooms"),
            order_by,
            is_backwards(request, default=False),
        )
        skip, most = page_bounds(request)
        found, total = await self._listing.page(wanted, skip, most)
        answer: dict[str, Any] = {
            "rooms": [_shown(room) for room in found],
            "offset": skip,
            "total_rooms": total,
        }
        if found and skip + len(found) < total:
            answer["next_batch"] = skip + len(found)
        if skip > 0:
            answer["prev_batch"] = max(0, skip - most)
        return answer

    async def get(self, _: Request, room_id: RoomId) -> dict[str, Any]:
        """One room, whole."""
        room, more = await self._listing.details(room_id)
        return {
            **_shown(room),
            "topic": text_of(room, "topic"),
            "avatar": text_of(room, "avatar"),
            "joined_local_devices": more.local_devices,
            "forgotten": more.forgotten,
            "tombstoned": "m.room.tombstone" in room.facts.contents,
            "replacement_room": text_of(room, "replacement_room"),
        }

    async def members(self, _: Request, room_id: RoomId) -> dict[str, Any]:
        """Who is in a room."""
        found = await self._listing.joined(room_id)
        return {"members": found, "total": len(found)}

    async def get_block(self, _: Request, room_id: RoomId) -> dict[str, Any]:
        """Whether a room is blocked, and by whom."""
        blocked_by = await self._blocks.blocked_by(room_id)
        return {"block": False} if blocked_by is None else {"block": True, "user_id": blocked_by}

    async def put_block(self, request: Request, room_id: RoomId) -> dict[str, bool]:
        """Block a room, known or not, or no longer."""
        block = request.json(BlockBody).block
        if block:
            await self._blocks.block(request.requester, room_id)
        else:
            await self._blocks.unblock(room_id)
        return {"block": block}

    async def make_admin(self, request: Request, room: RoomId | RoomAlias) -> dict[str, Any]:
        """Give somebody power in a room: the administrator, or whom the body names."""
        named = request.json(AdminBody, allow_empty=True).user_id
        user_id = UserId(request.requester.user_id) if named is None else parse_user_id_historical(named)
        await self._stewardship.make_admin(room, user_id)
        return {}

    async def join(self, request: Request, room: RoomId | RoomAlias) -> dict[str, str]:
        """Let a user of this server join a room."""
        user_id = parse_user_id(request.json(JoinBody).user_id)
        if domain_of(user_id) != self._server_name:
            raise invalid_param("The user is not of this server")
        return {"room_id": await self._stewardship.bring_in(request.requester, room, user_id)}


def _shown(room: ListedRoom) -> dict[str, Any]:
    facts = room.facts
    return {
        "room_id": facts.room_id,
        "name": text_of(room, "name"),
        "canonical_alias": text_of(room, "canonical_alias"),
        "joined_members": facts.joined,
        "joined_local_members": room.joined_local,
        "version": facts.version,
        "creator": room.creator_id,
        "encryption": text_of(room, "encryption"),
        "federatable": is_federatable(room),
        "public": facts.published,
        "join_rules": text_of(room, "join_rules"),
        "guest_access": text_of(room, "guest_access"),
        "history_visibility": text_of(room, "history_visibility"),
        "state_events": room.state_events,
        "room_type": text_of(room, "room_type"),
    }
