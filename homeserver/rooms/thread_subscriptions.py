"""Subscribing to threads, and hearing of it page by page.

proposals: MSC4306 (thread subscriptions), MSC4308 (the endpoint beside sliding sync)
"""

from __future__ import annotations

import re
from typing import Any

from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.http.errors import MatrixError, UserLimitReachedError, invalid_param, not_found
from homeserver.rooms.reads.pagination import find_event, no_event
from homeserver.rooms.reads.reading import Archive
from homeserver.rooms.reads.visibility import Sight, Sights
from homeserver.rooms.types import Requester
from homeserver.store.ids import Interner
from homeserver.store.parsed import EventCache
from homeserver.store.receipts import Target, find_target
from homeserver.store.thread_subscriptions import (
    Subscription,
    Thread,
    TooManySubscriptionsError,
    UnsubscribedSinceError,
    load_changes_of,
    load_subscription,
    subscribe,
    unsubscribe,
)
from homeserver.store.work import Worker
from homeserver.stream.log import ChangeLog
from homeserver.stream.threads import told_changes
from homeserver.stream.tokens import parse_timeline_token

# LIMIT(one page)
PAGE_MOST = 500
_PREFIX = "IO.ELEMENT.MSC4306."
_TOKEN = re.compile(r"([0-9]{1,18})\Z")


class ThreadSubscriptions:
    """See the module."""

    def __init__(
        self,
        database: Database,
        worker: Worker,
        interner: Interner,
        sights: Sights,
        archive: Archive,
        events: EventCache,
        changes: ChangeLog,
    ) -> None:
        self._database = database
        self._worker = worker
        self._interner = interner
        self._sights = sights
        self._archive = archive
        self._events = events
        self._changes = changes

    async def get(self, requester: Requester, room_id: str, root_id: str) -> bool:
        """Whether they are subscribed by themselves; 404 M_NOT_FOUND where they are not subscribed."""
        thread = await self._thread(requester, room_id, root_id)
        found: Subscription | None = await self._database.read(
            load_subscription, thread.user_nid, thread.room_nid, thread.root_nid
        )
        if found is None or not found.subscribed:
            raise not_found("You are not subscribed to this thread")
        return found.automatic

    async def put(self, requester: Requester, room_id: str, root_id: str, cause_id: str | None) -> None:
        """Subscribe; ``cause_id``: the event that did it, where the user did not."""
        thread = await self._thread(requester, room_id, root_id)
        cause: Target | None = None
        if cause_id is not None:
            cause = await self._database.read(find_target, thread.room_nid, cause_id, self._events)
            if cause is None or cause.thread != root_id:
                raise MatrixError(400, _PREFIX + "M_NOT_IN_THREAD", "The event is not in this thread")
        try:
            await self._worker.work(subscribe, thread, None if cause is None else cause.pos)
        except UnsubscribedSinceError:
            raise MatrixError(
                409, _PREFIX + "M_CONFLICTING_UNSUBSCRIPTION", "You unsubscribed after this event"
            ) from None
        except TooManySubscriptionsError:
            raise UserLimitReachedError("You are subscribed to too many threads") from None

    async def drop(self, requester: Requester, room_id: str, root_id: str) -> None:
        """Unsubscribe, if they are subscribed."""
        thread = await self._thread(requester, room_id, root_id)
        await self._worker.work(unsubscribe, thread, self._changes.position)

    async def _thread(self, requester: Requester, room_id: str, root_id: str) -> Thread:
        """A thread that the requester can see; 404 M_NOT_FOUND for any other."""
        try:
            sight = await self._sights.find(requester, room_id)
        except MatrixError as error:
            if error.status != 403:
                raise
            raise no_event() from None
        root_nid = await self._database.read(_find_root, self._archive, sight, root_id)
        return Thread(requester.user_nid, sight.room_nid, root_nid, root_id)

    async def page(
        self, requester: Requester, from_token: str | None, to_token: str | None, limit: int
    ) -> dict[str, Any]:
        """What changed between two positions, the newest first."""
        upto = self._changes.position if from_token is None else _position(from_token)
        since = 0 if to_token is None else parse_timeline_token(to_token)
        most = min(limit, PAGE_MOST)
        found = await self._database.read(load_changes_of, requester.user_nid, since, upto, most + 1)
        names = await self._interner.room_names(sorted({one.room_nid for one in found}))
        answer = told_changes(found[:most], names)
        if len(found) > most:
            answer["end"] = str(found[most].pos)
        return answer


def _find_root(tx: Tx, archive: Archive, sight: Sight, root_id: str) -> int:
    return find_event(tx, archive, sight, root_id).row.nid


def _position(token: str) -> int:
    match = _TOKEN.match(token)
    if match is None:
        raise invalid_param("Not a token of this endpoint")
    return int(match[1])
