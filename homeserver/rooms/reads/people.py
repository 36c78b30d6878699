"""The user directory: people in the searcher's rooms, and in rooms that anybody may join or read.

They are found by what their memberships say, so it knows users of other servers too, and whoever left every room (as
those do who deactivate their account) is in it no more.

Who asks for somebody of this server by their whole name finds them besides, wherever they are: that is how people come
to talk who have no room in common yet. It tells nothing new: whether a name is taken tells the registration, and what
its profile says ``GET /profile``. (Those of other servers are not asked about: the client does that when it has the
whole name, and here each letter of a name would make a request.) Only where the configuration says so
(``user_directory.search_all_users``) the beginning of a name finds everybody who has an account here, by their profile.
In neither way is found who is a guest, deactivated or locked.

# spec: client-server-api#user-directory
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from federation.errors import Malformed
from federation.ids import UserId, parse_user_id
from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.rooms.reads.reading import Ignoring
from homeserver.rooms.reads.search_index import SearchIndex
from homeserver.rooms.types import Requester
from homeserver.store.people import find_account, find_accounts, load_open_rooms, load_people
from homeserver.store.search import names_of, phrases_of
from homeserver.store.search_hits import NEWEST_PLACE, Search, find_hits
from homeserver.stream.index import MembershipIndex

# LIMIT(time): so many memberships that fit are looked at, the newest first.
_LOOKED_AT = 1_000


class UserDirectory:
    """See the module."""

    def __init__(
        self,
        server_name: str,
        database: Database,
        index: MembershipIndex,
        ignoring: Ignoring,
        texts: SearchIndex,
        search_all: Callable[[], bool],
    ) -> None:
        self._server_name = server_name
        self._database = database
        self._index = index
        self._ignoring = ignoring
        self._texts = texts
        self._search_all = search_all

    async def search(self, requester: Requester, term: str, limit: int) -> tuple[list[dict[str, str]], bool]:
        """At most ``limit`` people, and whether there are more."""
        await self._texts.write()
        # Nobody looks for themselves.
        left_out = {requester.user_id, *await self._ignoring.load(requester.user_nid)}
        joined = self._index.joined_rooms(requester.user_nid)
        named = self._named(term)
        found: dict[str, dict[str, str]] = {}
        for person in await self._database.read(_find, term, joined, named, search_all=self._search_all()):
            if person["user_id"] not in left_out:
                found.setdefault(person["user_id"], person)
        # Stable: who was named, then those with a profile, and of each the newest first.
        ordered = sorted(found.values(), key=lambda one: (one["user_id"] != named, "display_name" not in one))
        return ordered[:limit], len(ordered) > limit

    def _named(self, term: str) -> UserId | None:
        """The user of this server whose whole name this is: the part before the colon, or all of it."""
        localpart, colon, domain = term.strip().lower().removeprefix("@").partition(":")
        if colon and domain != self._server_name.lower():
            return None
        try:
            return parse_user_id(f"@{localpart}:{self._server_name}")
        except Malformed:
            return None


def _find(
    tx: Tx, term: str, joined: Collection[int], named: UserId | None, *, search_all: bool
) -> list[dict[str, str]]:
    """Everybody whom the words fit, whoever asks: some of them more than once, first as the newest of their rooms shows
    them, and those who are in none last."""
    phrases = phrases_of(term)
    rooms = load_open_rooms(tx).union(joined)
    # Typing a name begins with its first letter.
    search = Search(names_of(phrases), sorted(rooms), ("member",), shortest=1, are_few=True)
    nids = [hit.nid for hit in find_hits(tx, search, NEWEST_PLACE, _LOOKED_AT)]
    people = load_people(tx, nids)
    found = [people[nid] for nid in nids if nid in people]
    account = find_account(tx, named) if named is not None else None
    if account is not None:
        found.append(account)
    return [*found, *find_accounts(tx, phrases)] if search_all else found
