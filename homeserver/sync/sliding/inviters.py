"""Who invited a user: for those who do not want everybody's invites, which then are in no list, and count in none.

spec: client-server-api#invite-permission, https://github.com/matrix-org/matrix-spec-proposals/pull/4155
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.moderation.types import InvitePermission
from homeserver.store.client_events import ClientEventCache, load_client_events
from homeserver.store.outside import load_outside
from homeserver.store.placement import Membership
from homeserver.stream.index import Standing
from homeserver.sync.sections import outside_stripped

# LIMIT(memory: some 200 bytes an invite; the one that was read longest ago is read again)
KEPT = 50_000


class Inviters:
    """See the module. What is kept is found by the position of an invite, so a newer one is not taken for it."""

    def __init__(self, database: Database, cache: ClientEventCache) -> None:
        self._database = database
        self._cache = cache
        self._known: dict[tuple[int, int, int], str] = {}  # by user, room and position

    async def hidden(
        self, user_nid: int, rooms: Mapping[int, Standing], permission: InvitePermission
    ) -> Collection[int]:
        """The rooms whose invites are not to be shown."""
        if permission.takes_all:
            return ()
        invites = {nid: one for nid, one in rooms.items() if one.membership == Membership.INVITE}
        missing = {nid: one for nid, one in invites.items() if (user_nid, nid, one.pos) not in self._known}
        found: Mapping[int, str] = {}
        if missing:
            found = await self._database.read(_load, user_nid, missing, self._cache)
            self._keep({(user_nid, nid, missing[nid].pos): sender for nid, sender in found.items()})
        senders = {
            nid: found.get(nid) or self._known.get((user_nid, nid, one.pos)) for nid, one in invites.items()
        }
        return {nid for nid, sender in senders.items() if sender in permission}

    def _keep(self, found: Mapping[tuple[int, int, int], str]) -> None:
        self._known.update(found)
        while len(self._known) > KEPT:
            del self._known[next(iter(self._known))]


def _load(tx: Tx, user_nid: int, invites: Mapping[int, Standing], cache: ClientEventCache) -> dict[int, str]:
    outside = load_outside(tx, user_nid, [nid for nid, one in invites.items() if one.outside])
    found = {nid: outside_stripped(row).sender for nid, row in outside.items()}
    inside = {nid: one.event_nid for nid, one in invites.items() if not one.outside}
    events = load_client_events(tx, sorted(inside.values()), cache)
    found.update((nid, events[event_nid].sender) for nid, event_nid in inside.items() if event_nid in events)
    return found
