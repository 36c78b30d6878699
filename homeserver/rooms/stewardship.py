"""What those in charge of the server do in rooms: give somebody power there, and bring somebody in.

It is done by ordinary events of members of this server, so that every other server agrees; where none of them has the
power, nobody has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from federation.auth.power import CREATOR_LEVEL, room_creators
from federation.builder import Draft
from federation.event import Event
from federation.ids import RoomAlias, RoomId, ServerName, UserId
from homeserver.accounts.types import Requester, stand_in
from homeserver.http.errors import MatrixError, forbidden, invalid_param, not_found
from homeserver.rooms.aliases import Aliases
from homeserver.rooms.membership import Memberships
from homeserver.rooms.registry import RoomRegistry
from homeserver.rooms.turn import Turn
from homeserver.store.users import load_accounts
from homeserver.stream.index import MembershipIndex

_POWER: Final = "m.room.power_levels"
_MEMBER: Final = "m.room.member"
_ADMIN_LEVEL: Final = 100


class Stewardship:
    """See the module."""

    def __init__(
        self, rooms: RoomRegistry, index: MembershipIndex, memberships: Memberships, aliases: Aliases
    ) -> None:
        self._rooms = rooms
        self._tools = rooms.tools
        self._index = index
        self._memberships = memberships
        self._aliases = aliases

    async def locate(self, room: RoomId | RoomAlias) -> tuple[RoomId, Sequence[ServerName]]:
        """The room of an id or alias, and servers that know it."""
        if room.startswith("#"):
            located = await self._aliases.locate(RoomAlias(room))
            return located.room_id, located.servers
        return RoomId(room), ()

    # --- power ---------------------------------------------------------------------------------------

    async def make_admin(self, room: RoomId | RoomAlias, user_id: UserId) -> None:
        """Give somebody the highest power that a member of this server has; who is not in the room is invited there,
        unless anybody may join.

        400 where no member of this server may change the power levels.
        """
        room_id, _ = await self.locate(room)
        actor = await self._rooms.find(room_id)
        members = [UserId(name) for name in await self._local_members(actor.room_nid)]

        async def job(turn: Turn) -> tuple[UserId, bool]:
            giver = await _mightiest(turn, members)
            await _give(turn, room_id, giver, user_id)
            member = await turn.state(_MEMBER, user_id)
            rule = await turn.state("m.room.join_rules")
            membership = None if member is None else member.content.get("membership")
            is_open = rule is not None and rule.content.get("join_rule") == "public"
            return giver, membership not in ("join", "invite") and not is_open

        giver, must_invite = await actor.run(job)
        if must_invite:
            giver_nid = await self._tools.interner.user(giver)
            await self._memberships.invite(stand_in(giver, giver_nid), room_id, user_id)

    async def _local_members(self, room_nid: int) -> list[str]:
        nids = sorted(self._index.local_members(room_nid))
        return sorted((await self._tools.interner.user_names(nids)).values())

    # --- membership ----------------------------------------------------------------------------------

    async def bring_in(self, requester: Requester, room: RoomId | RoomAlias, user_id: UserId) -> RoomId:
        """Let a user of this server join a room, into which the requester invites them where it is not open to all."""
        room_id, via = await self.locate(room)
        account = (await self._tools.database.read(load_accounts, [user_id])).get(user_id)
        if account is None:
            raise not_found("User not found")
        if account.deactivated:
            raise invalid_param("This account is deactivated")
        user = stand_in(user_id, account.user_nid)
        if await self._needs_invite(requester, room_id, user_id):
            await self._memberships.invite(requester, room_id, user_id)
        return await self._memberships.join(user, room_id, is_guest=bool(account.guest), via=via)

    async def _needs_invite(self, requester: Requester, room_id: RoomId, user_id: UserId) -> bool:
        if requester.user_id == user_id:
            return False
        try:
            actor = await self._rooms.find(room_id)
        except MatrixError as error:
            if error.status != 404:
                raise
            return False  # it is joined through other servers, who know whether it is open
        if not self._index.local_members(actor.room_nid):
            return False

        async def job(turn: Turn) -> bool:
            rule = await turn.state("m.room.join_rules")
            member = await turn.state(_MEMBER, user_id)
            if member is not None and member.content.get("membership") in ("join", "invite"):
                return False
            return rule is None or rule.content.get("join_rule") != "public"

        return await actor.run(job)


async def _mightiest(turn: Turn, members: Sequence[UserId]) -> UserId:
    """The member with the most power, who may change the levels."""
    await turn.load([(_MEMBER, member) for member in members])
    power = await turn.power_levels()
    joined = [member for member in members if _is_joined(turn.lookup(_MEMBER, member))]
    if not joined:
        raise invalid_param("No user of this server is in the room")
    giver = max(joined, key=power.user)
    if power.user(giver) < power.event(_POWER, True):
        raise invalid_param("No user of this server in the room has the power to change the power levels")
    return giver


def _is_joined(member: Event | None) -> bool:
    return member is not None and member.content.get("membership") == "join"


async def _give(turn: Turn, room_id: RoomId, giver: UserId, user_id: UserId) -> None:
    power = await turn.power_levels()
    level = power.user(giver)
    if level >= CREATOR_LEVEL:
        # A creator's power is theirs alone; this is the most that another one needs.
        level = max(_ADMIN_LEVEL, power.event(_POWER, True), power.event("m.room.tombstone", True))
    if power.user(user_id) >= level:
        return
    event = await turn.state(_POWER)
    content: dict[str, Any] = dict(event.content) if event is not None else await _from_nothing(turn)
    users = content.get("users")
    content["users"] = {**(users if isinstance(users, Mapping) else {}), user_id: level}
    await turn.place(Draft(room_id, _POWER, giver, content, ""))


async def _from_nothing(turn: Turn) -> dict[str, Any]:
    """The levels of a room that has no such event, as an event."""
    create = await turn.state("m.room.create")
    if create is None:
        raise forbidden("The room has no create event")
    if turn.head.rules.privileged_creators:
        return {}
    return {"users": dict.fromkeys(room_creators(create, turn.head.rules), _ADMIN_LEVEL)}
