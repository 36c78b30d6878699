"""Membership of rooms. spec: client-server-api#room-membership"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from federation.ids import (
    RoomAlias,
    RoomId,
    ServerName,
    UserId,
    parse_server_name,
    parse_user_id,
    parse_user_id_historical,
)
from homeserver.accounts.identity_servers import Account, parse_invited
from homeserver.http.errors import missing_param
from homeserver.http.request import Request
from homeserver.http.response import EMPTY_JSON
from homeserver.http.route import Auth, Route
from homeserver.http.router import default_rate_key
from homeserver.rooms.address_invites import AddressInvites
from homeserver.rooms.aliases import Aliases
from homeserver.rooms.membership import Memberships
from homeserver.rooms.third_party import parse_proof

_ROOM = "/_matrix/client/v3/rooms/{room_id:room_id}"
MAX_VIA = 50


class _Self(msgspec.Struct):
    reason: str | None = None
    third_party_signed: dict[str, Any] | None = None


class _Target(msgspec.Struct):
    user_id: str | None = None
    reason: str | None = None
    medium: str | None = None
    address: str | None = None
    id_server: str | None = None
    id_access_token: str | None = None


class MembershipApi:
    def __init__(
        self, memberships: Memberships, aliases: Aliases, by_address: AddressInvites[Account]
    ) -> None:
        self._by_address = by_address
        self._memberships = memberships
        self._aliases = aliases

    def routes(self) -> list[Route]:
        prefix = "/_matrix/client/v3"
        return [
            _post(f"{_ROOM}/join", self.join_by_id, "join", "roomsroomidjoin", Auth.GUEST_OK),
            _post(
                f"{prefix}/join/{{where:room_id_or_alias}}",
                self.join,
                "join",
                "joinroomidoralias",
                Auth.GUEST_OK,
            ),
            _post(f"{prefix}/knock/{{where:room_id_or_alias}}", self.knock, "join", "knockroomidoralias"),
            _post(
                f"{_ROOM}/leave", self.leave, "write", "roomsroomidleave", Auth.GUEST_OK, suspended_may=True
            ),
            _post(f"{_ROOM}/forget", self.forget, "write", "roomsroomidforget", suspended_may=True),
            _post(f"{_ROOM}/invite", self.invite, "invite", "roomsroomidinvite"),
            _post(f"{_ROOM}/kick", self.kick, "write", "roomsroomidkick"),
            _post(f"{_ROOM}/ban", self.ban, "write", "roomsroomidban"),
            _post(f"{_ROOM}/unban", self.unban, "write", "roomsroomidunban"),
        ]

    # --- the requester -------------------------------------------------------------------------------

    async def join_by_id(self, request: Request, room_id: RoomId) -> dict[str, str]:
        return await self._join(request, room_id, _via(request))

    async def join(self, request: Request, where: RoomId | RoomAlias) -> dict[str, str]:
        room_id, servers = await self._locate(request, where)
        return await self._join(request, room_id, servers)

    async def _join(self, request: Request, room_id: RoomId, servers: Sequence[ServerName]) -> dict[str, str]:
        body = request.json(_Self, allow_empty=True)
        requester = request.requester
        proof = parse_proof(body.third_party_signed) if body.third_party_signed is not None else None
        joined = await self._memberships.join(
            requester, room_id, body.reason, is_guest=requester.is_guest, proof=proof, via=servers
        )
        return {"room_id": joined}

    async def knock(self, request: Request, where: RoomId | RoomAlias) -> dict[str, str]:
        body = request.json(_Self, allow_empty=True)
        room_id, servers = await self._locate(request, where)
        return {"room_id": await self._memberships.knock(request.requester, room_id, body.reason, servers)}

    async def _locate(
        self, request: Request, where: RoomId | RoomAlias
    ) -> tuple[RoomId, Sequence[ServerName]]:
        """The room, and the servers that may be in it: those that the client names first."""
        via = _via(request)
        if where[:1] == "!":
            return RoomId(where), via
        located = await self._aliases.locate(RoomAlias(where), default_rate_key(request))
        return located.room_id, [*via, *located.servers]

    async def leave(self, request: Request, room_id: RoomId) -> bytes:
        body = request.json(_Self, allow_empty=True)
        await self._memberships.leave(request.requester, room_id, body.reason)
        return EMPTY_JSON

    async def forget(self, request: Request, room_id: RoomId) -> bytes:
        await self._memberships.forget(request.requester, room_id)
        return EMPTY_JSON

    # --- others --------------------------------------------------------------------------------------

    async def invite(self, request: Request, room_id: RoomId) -> bytes:
        body = request.json(_Target)
        if body.user_id is None and body.medium is not None and body.address is not None:
            # spec: client-server-api#third-party-invites
            who = parse_invited(body.medium, body.address, body.id_server, body.id_access_token)
            await self._by_address.invite(
                request.requester, room_id, who.account, who.medium, who.address, body.reason
            )
            return EMPTY_JSON
        await self._memberships.invite(request.requester, room_id, _target(body), body.reason)
        return EMPTY_JSON

    async def kick(self, request: Request, room_id: RoomId) -> bytes:
        body = request.json(_Target)
        await self._memberships.kick(request.requester, room_id, _member(body), body.reason)
        return EMPTY_JSON

    async def ban(self, request: Request, room_id: RoomId) -> bytes:
        body = request.json(_Target)
        await self._memberships.ban(request.requester, room_id, _member(body), body.reason)
        return EMPTY_JSON

    async def unban(self, request: Request, room_id: RoomId) -> bytes:
        body = request.json(_Target)
        await self._memberships.unban(request.requester, room_id, _member(body), body.reason)
        return EMPTY_JSON


def _post(
    template: str,
    handler: Any,
    limit: str,
    anchor: str,
    auth: Auth = Auth.USER,
    *,
    suspended_may: bool = False,
) -> Route:
    return Route(
        method="POST",
        template=template,
        handler=handler,
        auth=auth,
        limit=limit,
        spec=f"client-server-api#post_matrixclientv3{anchor}",
        suspended_may=suspended_may,
    )


def _target(body: _Target) -> UserId:
    if body.user_id is None:
        raise missing_param("Missing key user_id")
    return parse_user_id(body.user_id)


def _member(body: _Target) -> UserId:
    """Somebody who may be in the room already, whatever the name: other servers let in whom they like."""
    # spec: appendices#historical-user-ids
    if body.user_id is None:
        raise missing_param("Missing key user_id")
    return parse_user_id_historical(body.user_id)


def _via(request: Request) -> list[ServerName]:
    """The servers to ask for a room that this one is not in."""
    # COMPAT(clients before v1.12 say server_name instead of via, for as long as they are about)
    names = [*request.query.get("via", ()), *request.query.get("server_name", ())]
    return [parse_server_name(name) for name in names[:MAX_VIA]]
