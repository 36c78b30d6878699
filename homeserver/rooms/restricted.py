"""Restricted joins: does the user meet a condition, and which member of this server vouches for it?

spec: client-server-api#restricted-rooms
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from federation.auth.power import PowerLevels
from federation.errors import Malformed
from federation.event import Event
from federation.ids import parse_room_id
from federation.versions import RoomRules
from homeserver.http.errors import forbidden
from homeserver.rooms.turn import Turn
from homeserver.store.ids import Interner
from homeserver.store.placement import Membership
from homeserver.stream.index import MembershipIndex

# LIMIT(a join must not look at more rooms than anybody lists)
_CONDITIONS_MOST = 200
_CANDIDATES_MOST = 200


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


class RestrictedJoins:
    """Checks conditions against the memberships of local users."""

    def __init__(self, interner: Interner, index: MembershipIndex) -> None:
        self._interner = interner
        self._index = index

    async def authorise(self, turn: Turn, join_rules: Event, user_nid: int) -> str:
        """The member in whose name the user may join; refuses (403) where they may not."""
        if not await self._meets_condition(join_rules, user_nid):
            raise forbidden("You are in none of the rooms whose members may join this one")
        authoriser_id = await self._find_authoriser(turn)
        if authoriser_id is None:
            raise forbidden("Nobody on this server may let you into this room")
        return authoriser_id

    async def _meets_condition(self, join_rules: Event, user_nid: int) -> bool:
        for room_id in allowed_rooms(join_rules):
            room_nid = await self._interner.find_room(room_id)
            standing = self._index.standing(user_nid, room_nid) if room_nid is not None else None
            if standing is not None and standing.membership == Membership.JOIN:
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
