"""Which rooms two users are in together. spec: client-server-api#get_matrixclientv1mutual_rooms"""

from __future__ import annotations

from dataclasses import dataclass

from homeserver.db.threads import Database
from homeserver.http.errors import invalid_param
from homeserver.rooms.types import Requester
from homeserver.store.ids import Interner
from homeserver.store.members import load_joined_rooms
from homeserver.stream.index import MembershipIndex

PAGE_MOST = 200
_TOKEN_LONGEST = 18


@dataclass(frozen=True, slots=True)
class MutualPage:
    """Some of the rooms; ``next_token`` where there are more."""

    room_ids: list[str]
    count: int
    next_token: str | None


class MutualRooms:
    """Of users of other servers it knows what rooms of this server say."""

    def __init__(self, database: Database, interner: Interner, index: MembershipIndex) -> None:
        self._database = database
        self._interner = interner
        self._index = index

    async def page(self, requester: Requester, user_id: str, token: str | None) -> MutualPage:
        """A page. A token is the number of the last room before it, so a room that comes or goes moves nothing."""
        if user_id == requester.user_id:
            raise invalid_param("That is you")
        after = _parse_token(token) if token is not None else 0
        both = await self._both(requester.user_nid, user_id)
        rest = sorted(nid for nid in both if nid > after)
        names = await self._interner.room_names(rest[:PAGE_MOST])
        more = len(rest) > PAGE_MOST
        return MutualPage(list(names.values()), len(both), str(rest[PAGE_MOST - 1]) if more else None)

    async def _both(self, user_nid: int, other_id: str) -> set[int]:
        other_nid = await self._interner.find_user(other_id)
        if other_nid is None:
            return set()
        if self._index.is_local(other_nid):
            theirs = self._index.joined_rooms(other_nid)
        else:
            theirs = (await self._database.read(load_joined_rooms, [other_nid])).get(other_nid, [])
        return set(theirs).intersection(self._index.joined_rooms(user_nid))


def _parse_token(token: str) -> int:
    if not (token.isascii() and token.isdigit() and len(token) <= _TOKEN_LONGEST):
        raise invalid_param("Unknown token")
    return int(token)
