"""The user directory: people in the searcher's rooms, and in rooms that anybody may join or read.

They are found by what their memberships say, so it knows users of other servers too, and whoever left every room (as
those do who deactivate their account) is in it no more.

# spec: client-server-api#user-directory
"""

from __future__ import annotations

from collections.abc import Collection

from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.rooms.reads.reading import Ignoring
from homeserver.rooms.reads.search_index import SearchIndex
from homeserver.rooms.types import Requester
from homeserver.store.people import load_open_rooms, load_people
from homeserver.store.search import names_of, phrases_of
from homeserver.store.search_hits import NEWEST_PLACE, Search, find_hits
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
        # Nobody looks for themselves.
        left_out = {requester.user_id, *await self._ignoring.load(requester.user_nid)}
        joined = self._index.joined_rooms(requester.user_nid)
        found: dict[str, dict[str, str]] = {}
        for person in await self._database.read(_find, term, joined):
            if person["user_id"] not in left_out:
                found.setdefault(person["user_id"], person)
        # Stable: those with a profile first, and of each the newest first.
        ordered = sorted(found.values(), key=lambda person: "display_name" not in person)
        return ordered[:limit], len(ordered) > limit


def _find(tx: Tx, term: str, joined: Collection[int]) -> list[dict[str, str]]:
    """Everybody whom the words fit, the newest membership first, whoever asks: some of them more than once."""
    rooms = load_open_rooms(tx).union(joined)
    # Typing a name begins with its first letter.
    search = Search(names_of(phrases_of(term)), sorted(rooms), ("member",), shortest=1, are_few=True)
    nids = [hit.nid for hit in find_hits(tx, search, NEWEST_PLACE, _LOOKED_AT)]
    people = load_people(tx, nids)
    return [people[nid] for nid in nids if nid in people]
