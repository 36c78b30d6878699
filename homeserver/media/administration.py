"""Media that those in charge take away: quarantined, so that nobody is shown it whatever its address; or deleted.

Nobody asks here whether the requester is one of them: the endpoint does.
"""

from __future__ import annotations

from collections.abc import Sequence

from federation.ids import RoomId
from homeserver.accounts.types import Requester
from homeserver.db.threads import Database
from homeserver.http.errors import not_found
from homeserver.media.preview import KEEP_MS
from homeserver.media.repo import check_media_id
from homeserver.media.storage import MediaStore
from homeserver.media.sweep import DROPPED_AT_ONCE, ORPHAN_AGE_S
from homeserver.runtime.clock import Clock
from homeserver.store import media_admin as store
from homeserver.store.history import END
from homeserver.store.ids import Interner
from homeserver.store.media import find_used, load_media
from homeserver.store.media_admin import Address, ListedMedia
from homeserver.store.previews import drop_cached
from homeserver.store.work import Worker

# LIMIT(addresses that are quarantined by one unit of work)
_AT_ONCE = 200


class MediaDesk:
    """See the module."""

    def __init__(
        self,
        server_name: str,
        database: Database,
        worker: Worker,
        interner: Interner,
        storage: MediaStore,
        clock: Clock,
    ) -> None:
        self.server_name = server_name
        self._database = database
        self._worker = worker
        self._interner = interner
        self._storage = storage
        self._clock = clock

    # --- quarantine ----------------------------------------------------------------------------------

    async def quarantine(self, requester: Requester, origin: str, media_id: str) -> None:
        """Show a file to nobody any more; 404 for one of this server that is not there."""
        check_media_id(media_id)
        if origin == self.server_name and await self._database.read(load_media, origin, media_id) is None:
            raise not_found("There is no such media")
        await self._quarantine(requester, [(origin, media_id)])

    async def release(self, origin: str, media_id: str) -> None:
        """Show it again."""
        check_media_id(media_id)
        await self._worker.work(store.release, origin, media_id)

    async def quarantine_user(self, requester: Requester, user_nid: int) -> int:
        """Show nothing any more of what a user of this server has uploaded; how many addresses that are."""
        found = await self._database.read(store.load_addresses_of, user_nid)
        return await self._quarantine(requester, found)

    async def quarantine_room(self, requester: Requester, room_id: RoomId) -> int:
        """Show nothing any more to which a room's events refer, as far as they are not encrypted."""
        room_nid = await self._interner.find_room(room_id)
        if room_nid is None:
            raise not_found("Room not found")
        uris: set[str] = set()
        high: int | None = END
        while high is not None:
            found, high = await self._database.read(store.load_media_of_room, room_nid, high)
            uris |= found
        return await self._quarantine(requester, [one for uri in sorted(uris) if (one := _address(uri))])

    async def _quarantine(self, requester: Requester, addresses: Sequence[Address]) -> int:
        count, now_ms = 0, self._clock.now_ms()
        for start in range(0, len(addresses), _AT_ONCE):
            part = addresses[start : start + _AT_ONCE]
            count += await self._worker.work(
                store.quarantine, part, requester.user_nid, now_ms, local=self.server_name
            )
        return count

    # --- uploads -------------------------------------------------------------------------------------

    async def uploads(
        self, user_nid: int, order_by: str, skip: int, most: int, *, backwards: bool
    ) -> tuple[list[ListedMedia], int]:
        """A page of what a user has uploaded, and how much it is in all."""
        return await self._database.read(
            store.load_user_media, user_nid, order_by, skip, most, backwards=backwards
        )

    async def delete(self, media_ids: Sequence[str]) -> Sequence[str]:
        """Delete uploads of users of this server; which there were.

        Their addresses lead nowhere from now on. A file goes at once if it was there for a day and no other address leads
        to it; else with the sweep.
        """
        for media_id in media_ids:
            check_media_id(media_id)
        dropped = await self._worker.work(store.drop_media, self.server_name, media_ids)
        used = await self._database.read(find_used, sorted(dropped.names))
        orphans = sorted(dropped.names - used)
        if orphans:
            # Whoever uploads the same just now has made it a young file: see media/sweep.py.
            await self._storage.remove(orphans, self._clock.seconds() - ORPHAN_AGE_S)
        return dropped.media_ids

    async def drop_cached(self, before_ts_ms: int) -> int:
        """Forget files of other servers, and pictures of previews, at which nobody has looked since then; how many."""
        count = 0
        while dropped := await self._worker.work(drop_cached, before_ts_ms, KEEP_MS, DROPPED_AT_ONCE):
            count += dropped
        return count


def _address(uri: str) -> Address | None:
    """What a content URI leads to; None where it is none."""
    origin, _, media_id = uri.removeprefix("mxc://").partition("/")
    if not origin or not media_id or len(uri) > 500 or "\0" in uri or "/" in media_id:
        return None
    return origin, media_id
