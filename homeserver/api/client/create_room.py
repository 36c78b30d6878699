"""POST /createRoom. spec: client-server-api#post_matrixclientv3createroom"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import msgspec

from federation.ids import parse_user_id
from homeserver.accounts.identity_servers import Account, Invited, parse_invited
from homeserver.api.client.send import count_invites
from homeserver.appservices.registry import Registry, check_alias
from homeserver.http.errors import bad_json
from homeserver.http.ratelimit import RateLimiter
from homeserver.http.request import Request
from homeserver.http.route import Auth, Route
from homeserver.rooms.address_invites import AddressInvites
from homeserver.rooms.create import NewRoom, RoomCreator
from homeserver.rooms.presets import Preset, StateItem

# LIMIT(a room is created in one transaction: what it starts with must fit there)
MAX_INVITES = 500
MAX_INITIAL_STATE = 500
# LIMIT(an identity server is asked up to three times for each, one after the other)
MAX_ADDRESSES = 20


class _State(msgspec.Struct):
    type: str
    content: dict[str, Any]
    state_key: str = ""


class _Address(msgspec.Struct):
    id_server: str
    id_access_token: str
    medium: str
    address: str


class _Body(msgspec.Struct):
    visibility: Literal["public", "private"] | None = None
    room_alias_name: str | None = None
    name: str | None = None
    topic: str | None = None
    invite: list[str] | None = None
    invite_3pid: list[_Address] | None = None
    room_version: str | None = None
    creation_content: dict[str, Any] | None = None
    initial_state: list[_State] | None = None
    preset: Preset | None = None
    is_direct: bool | None = None
    power_level_content_override: dict[str, Any] | None = None


class CreateRoomApi:
    def __init__(
        self,
        creator: RoomCreator,
        server_name: str,
        names: Registry,
        by_address: AddressInvites[Account],
        ratelimit: RateLimiter,
    ) -> None:
        self._ratelimit = ratelimit
        self._by_address = by_address
        self._creator = creator
        self._server_name = server_name
        self._names = names

    def routes(self) -> list[Route]:
        return [
            Route(
                method="POST",
                template="/_matrix/client/v3/createRoom",
                handler=self.create_room,
                auth=Auth.USER,
                limit="create_room",
                spec="client-server-api#post_matrixclientv3createroom",
            )
        ]

    async def create_room(self, request: Request) -> dict[str, str]:
        body = request.json(_Body, allow_empty=True)
        wanted, addresses = _parse(body), _parse_addresses(body)
        if wanted.alias_localpart is not None:
            alias = f"#{wanted.alias_localpart}:{self._server_name}"
            check_alias(self._names, alias, request.requester.appservice_id)

        def admit(invites: int) -> None:
            count_invites(self._ratelimit, request, invites + len(addresses))

        more = partial(
            self._by_address.to_new_room,
            request.requester,
            [(who.account, who.medium, who.address) for who in addresses],
            is_direct=wanted.is_direct,
        )
        return {"room_id": await self._creator.create(request.requester, wanted, more=more, admit=admit)}


def _parse_addresses(body: _Body) -> list[Invited]:
    found = body.invite_3pid or []
    if len(found) > MAX_ADDRESSES:
        raise bad_json(f"At most {MAX_ADDRESSES} addresses can be invited at once")
    return [parse_invited(one.medium, one.address, one.id_server, one.id_access_token) for one in found]


def _parse(body: _Body) -> NewRoom:
    invite, initial_state = body.invite or [], body.initial_state or []
    if len(invite) > MAX_INVITES or len(initial_state) > MAX_INITIAL_STATE:
        raise bad_json(f"At most {MAX_INVITES} invites and {MAX_INITIAL_STATE} state events are possible")
    content = body.creation_content or {}
    if not isinstance(content.get("m.federate", True), bool) or not isinstance(content.get("type", ""), str):
        raise bad_json("m.federate must be true or false, and a room's type a string")
    return NewRoom(
        published=body.visibility == "public",
        alias_localpart=body.room_alias_name,
        name=body.name,
        topic=body.topic,
        invite=[parse_user_id(user_id) for user_id in invite],
        version=body.room_version,
        creation_content=content,
        initial_state=[StateItem(one.type, one.state_key, one.content) for one in initial_state],
        preset=body.preset,
        is_direct=bool(body.is_direct),
        power_override=body.power_level_content_override,
    )
