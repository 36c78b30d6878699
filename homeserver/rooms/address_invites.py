"""Inviting by a mail address: who has it gets an invite; for an address that nobody has, an offer stands in the room.

The identity server that the user named finds the owner, or keeps the invite until there is one. Whether the requester may
invite at all is known before it is told anything.
spec: client-server-api#third-party-invites
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from federation.builder import Draft
from federation.ids import RoomId, UserId
from homeserver.accounts.types import IdentityServerAwayError
from homeserver.http.errors import MatrixError, forbidden
from homeserver.rooms.blocks import RoomBlocks
from homeserver.rooms.first_invites import Chain
from homeserver.rooms.membership import Memberships
from homeserver.rooms.registry import RoomRegistry
from homeserver.rooms.turn import Turn
from homeserver.rooms.types import Requester
from homeserver.runtime.log import Log


class AtServer(Protocol):
    """Who the user is at an identity server."""

    @property
    def server(self) -> str:
        """Its name."""


Account = TypeVar("Account", contravariant=True)  # noqa: PLC0105 (who the user is at an identity server)
A = TypeVar("A", bound=AtServer)

OFFER = "m.room.third_party_invite"
_MEMBER = "m.room.member"
# What an identity server may put into its letter, by the state that says it.
_TOLD = (
    ("room_name", "m.room.name", "name"),
    ("room_alias", "m.room.canonical_alias", "alias"),
    ("room_avatar_url", "m.room.avatar", "url"),
    ("room_join_rules", "m.room.join_rules", "join_rule"),
    ("room_type", "m.room.create", "type"),
)


class Directory(Protocol[Account]):
    """Identity servers."""

    async def look_up(self, account: Account, medium: str, address: str) -> UserId | None:
        """Whose address it is."""

    async def store_invite(self, account: Account, invite: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """The token and the offer of an invite that is kept there."""


class AddressInvites(Generic[A]):
    """See the module."""

    def __init__(
        self,
        rooms: RoomRegistry,
        memberships: Memberships,
        blocks: RoomBlocks,
        directory: Directory[A],
        log: Log,
    ) -> None:
        self._rooms = rooms
        self._memberships = memberships
        self._blocks = blocks
        self._directory = directory
        self._log = log

    async def invite(
        self,
        requester: Requester,
        room_id: RoomId,
        account: A,
        medium: str,
        address: str,
        reason: str | None = None,
        *,
        is_direct: bool = False,
    ) -> None:
        """Invite the owner of an address, whoever that is or will be."""
        told = await self._check(requester, room_id)
        target_id = await self._directory.look_up(account, medium, address)
        if target_id is not None:
            await self._memberships.invite(requester, room_id, target_id, reason, is_direct=is_direct)
            return
        invite = {
            "medium": medium,
            "address": address,
            "room_id": room_id,
            "sender": requester.user_id,
            **told,
        }
        token, content = await self._directory.store_invite(account, invite)
        draft = Draft(room_id, OFFER, UserId(requester.user_id), content, token)
        actor = await self._rooms.find(room_id)

        async def job(turn: Turn) -> None:
            self._blocks.check_nid(turn.head.room_nid)
            await turn.place(draft)

        await actor.run(job)

    def to_new_room(
        self,
        requester: Requester,
        addresses: Sequence[tuple[A, str, str]],
        room_id: RoomId,
        *,
        is_direct: bool,
    ) -> list[Chain]:
        """The same for a room that was just made, by identity servers: it is there, whatever these say.

        An address is a user's account at the identity server, a medium, and the address itself.
        """
        by_server: dict[str, list[tuple[A, str, str]]] = {}
        for one in addresses:
            by_server.setdefault(one[0].server, []).append(one)
        return [
            partial(self._try_all, requester, some, room_id, is_direct=is_direct)
            for some in by_server.values()
        ]

    async def _try_all(
        self,
        requester: Requester,
        addresses: Sequence[tuple[A, str, str]],
        room_id: RoomId,
        *,
        is_direct: bool,
    ) -> None:
        for account, medium, address in addresses:
            try:
                await self.invite(requester, room_id, account, medium, address, is_direct=is_direct)
            except MatrixError as error:
                self._log.info("address not invited", room_id=room_id, reason=str(error))
                if isinstance(error, IdentityServerAwayError):
                    return

    async def _check(self, requester: Requester, room_id: RoomId) -> dict[str, str]:
        """Refuse (403) who may not invite; what an invite tells of the room and of its sender."""
        try:
            actor = await self._rooms.find(room_id)
        except MatrixError as error:
            if error.status != 404:
                raise
            raise forbidden("You are not in this room") from None

        async def job(turn: Turn) -> dict[str, str]:
            self._blocks.check_nid(turn.head.room_nid)
            own = (_MEMBER, requester.user_id)
            shown = await turn.contents([own, *((kind, "") for _, kind, _ in _TOLD)])
            member = shown.get(own, {})
            if member.get("membership") != "join":
                raise forbidden("You are not in this room")
            levels = await turn.power_levels()
            if levels.user(requester.user_id) < levels.invite:
                raise forbidden("You may not invite")
            told = {
                "sender_display_name": member.get("displayname"),
                "sender_avatar_url": member.get("avatar_url"),
            }
            for name, kind, key in _TOLD:
                told[name] = shown.get((kind, ""), {}).get(key)
            return {name: value for name, value in told.items() if isinstance(value, str)}

        return await actor.run(job)
