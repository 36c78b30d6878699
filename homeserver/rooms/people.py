"""The user directory: people in the searcher's rooms, and in rooms that anybody may join or read.

They are found by what their memberships say, so it knows users of other servers too, and whoever left every room (as
those do who deactivate their account) is in it no more.

# spec: client-server-api#user-directory
"""

from __future__ import annotations

from homeserver.db.threads import Database
from homeserver.rooms.reading import Ignoring
from homeserver.rooms.search_index import SearchIndex
from homeserver.rooms.types import Requester
from homeserver.store.people import load_open_rooms, load_people
from homeserver.store.search import NEWEST_PLACE, Search, find_hits, phrases_of
from homeserver.stream.index import MembershipIndex

# LIMIT(time): so many memberships that fit are looked at, the newest first.
_LOOKED_AT = 1_000


class UserDirectory:
    """See the module."""

    def __init__(
        self, database: Database, index: MembershipIndex, ignoring: Ignoring, texts: SearchIndex
    ) -> None:
        self._database = database
        self._index = index
        self._ignoring = ignoring
        self._texts = texts

    async def search(self, requester: Requester, term: str, limit: int) -> tuple[list[dict[str, str]], bool]:
        """At most ``limit`` people, and whether there are more."""
        await self._texts.write()
        ignored = await self._ignoring.load(requester.user_nid)
        rooms = await self._database.read(load_open_rooms)
        rooms.update(self._index.joined_rooms(requester.user_nid))
        # Typing a name begins with its first letter.
        search = Search(phrases_of(term), sorted(rooms), ("member",), shortest=1)
        hits = await self._database.read(find_hits, search, NEWEST_PLACE, _LOOKED_AT)
        people = await self._database.read(load_people, [hit.nid for hit in hits])
        found: dict[str, dict[str, str]] = {}
        for hit in hits:
            person = people.get(hit.nid)
            if person is not None and person["user_id"] not in ignored:
                found.setdefault(person["user_id"], person)
        # Stable: those with a profile first, and of each the newest first.
        ordered = sorted(found.values(), key=lambda person: "display_name" not in person)
        return ordered[:limit], len(ordered) > limit
