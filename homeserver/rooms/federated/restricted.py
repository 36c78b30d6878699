"""Restricted joins: does the user meet a condition, and which member of this server vouches for it?

spec: client-server-api#restricted-rooms
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

from federation.auth.power import PowerLevels
from federation.errors import Malformed
from federation.event import Event
from federation.ids import parse_room_id
from federation.versions import RoomRules
from homeserver.db.threads import Database
from homeserver.http.errors import MatrixError, forbidden
from homeserver.rooms.turn import Turn
from homeserver.store.ids import Interner
from homeserver.store.members import find_member
from homeserver.store.placement import Membership
from homeserver.stream.index import MembershipIndex

# LIMIT(a join must not look at more rooms than anybody lists)
_CONDITIONS_MOST = 200
_CANDIDATES_MOST = 200


def _unable_to_grant(error: str) -> MatrixError:
    return MatrixError(400, "M_UNABLE_TO_GRANT_JOIN", error)


def is_restricted(join_rules: Event | None, rules: RoomRules) -> bool:
    """Whether the join rule asks for conditions, and the room's version knows that."""
    if join_rules is None:
        return False
    join_rule = join_rules.content.get("join_rule")
    return (join_rule == "restricted" and rules.restricted_join) or (
        join_rule == "knock_restricted" and rules.knock_restricted_join
    )


def allowed_rooms(join_rules: Event) -> list[str]:
    """The rooms whose members may join."""
    return rooms_allowed_by(join_rules.content)


def rooms_allowed_by(content: Mapping[str, Any]) -> list[str]:
    """The same, of the content of a join rule."""
    allow = content.get("allow")
    found: list[str] = []
    for condition in allow[:_CONDITIONS_MOST] if isinstance(allow, list) else ():
        if not isinstance(condition, dict) or condition.get("type") != "m.room_membership":
            continue
        room_id: Any = condition.get("room_id")
        try:
            found.append(parse_room_id(room_id))
        except Malformed:
            continue
    return found


class NobodyHereError(MatrixError):
    """The user may join, and no member of this server has the power to say so: another server's may have."""

    def __init__(self) -> None:
        super().__init__(403, "M_FORBIDDEN", "Nobody on this server may let you into this room")


class RestrictedJoins:
    """Checks conditions against the memberships that this server knows."""

    def __init__(
        self,
        database: Database,
        interner: Interner,
        index: MembershipIndex,
        is_partial: Callable[[int], bool],
    ) -> None:
        self._database = database
        self._interner = interner
        self._index = index
        self._is_partial = is_partial  # members of a room are still to come

    async def authorise(self, turn: Turn, join_rules: Event, user_nid: int) -> str:
        """The member in whose name a local user may join; refuses (403) where they may not."""
        if not await self._meets_condition(join_rules, user_nid):
            raise forbidden("You are in none of the rooms whose members may join this one")
        authoriser_id = await self._find_authoriser(turn)
        if authoriser_id is None:
            raise NobodyHereError
        return authoriser_id

    async def authorise_remote(self, turn: Turn, join_rules: Event, user_id: str) -> str:
        """The same for a user of another server, with the refusals that servers have for each other."""
        # spec: server-server-api#restricted-rooms
        await self.check_remote(join_rules, user_id)
        authoriser_id = await self._find_authoriser(turn)
        if authoriser_id is None:
            raise _unable_to_grant("Nobody on this server may let the user in")
        return authoriser_id

    async def check_authoriser(self, turn: Turn, authoriser_id: str) -> None:
        """Refuse to let a user of another server in, in the name of a member of this one who may not do so (any more)."""
        # spec: server-server-api#restricted-rooms (another server may have somebody who may)
        member = await turn.state("m.room.member", authoriser_id)
        power = await turn.power_levels()
        is_in = member is not None and member.content.get("membership") == "join"
        if not is_in or power.user(authoriser_id) < power.invite:
            raise _unable_to_grant("Who is named in the join may not let the user in")

    async def check_remote(self, join_rules: Event, user_id: str) -> None:
        """Refuse a user of another server who meets no condition, or none that this server can judge."""
        user_nid = await self._interner.find_user(user_id)
        unknown = False
        for room_id in allowed_rooms(join_rules):
            room_nid = await self._interner.find_room(room_id)
            if room_nid is None or not self._index.local_members(room_nid) or self._is_partial(room_nid):
                unknown = True  # who is in it now is not known here
                continue
            member = None if user_nid is None else await self._database.read(find_member, room_nid, user_nid)
            if member is not None and member.membership == Membership.JOIN:
                return
        if unknown:
            raise MatrixError(
                400, "M_UNABLE_TO_AUTHORISE_JOIN", "This server cannot tell whether the user may join"
            )
        raise forbidden("The user is in none of the rooms whose members may join this one")

    async def _meets_condition(self, join_rules: Event, user_nid: int) -> bool:
        for room_id in allowed_rooms(join_rules):
            room_nid = await self._interner.find_room(room_id)
            if room_nid is not None and self._index.is_joined(user_nid, room_nid):
                return True
        return False

    async def _find_authoriser(self, turn: Turn) -> str | None:
        power = await turn.power_levels()
        async for user_id in self._candidates(turn.head.room_nid, power):
            member = await turn.state("m.room.member", user_id)
            if member is not None and member.content.get("membership") == "join":
                return user_id
        return None

    async def _candidates(self, room_nid: int, power: PowerLevels) -> AsyncIterator[str]:
        """Local members who may invite: the most powerful first, so that the choice seldom changes."""
        here = self._index.local_members(room_nid)
        for user_id in _by_power(power):
            nid = self._interner.known_user(user_id) or await self._interner.find_user(user_id)
            if nid in here:
                yield user_id
        if power.users_default >= power.invite:
            some = sorted(here)[:_CANDIDATES_MOST]
            names = await self._interner.user_names(some)
            for nid in some:
                if power.user(names[nid]) >= power.invite:
                    yield names[nid]


def _by_power(power: PowerLevels) -> Iterator[str]:
    able = [(-level, user_id) for user_id, level in power.users.items() if level >= power.invite]
    return (user_id for _, user_id in sorted(able)[:_CANDIDATES_MOST])
