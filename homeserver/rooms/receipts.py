"""Receipts and read markers of local users: what may be set where, and setting it.

1. Only who is in a room may say how far they have read it, at an event that stands in its timeline.
2. A request with several markers sets all of them or none.

# spec: client-server-api#receipts
# spec: client-server-api#read-and-unread-markers
"""

from __future__ import annotations

from collections.abc import Mapping

from homeserver.db.threads import Database
from homeserver.http.errors import forbidden, invalid_param, not_found
from homeserver.rooms.types import Requester
from homeserver.runtime.clock import Clock
from homeserver.store.account_data import FULLY_READ
from homeserver.store.ids import Interner
from homeserver.store.parsed import EventCache
from homeserver.store.placement import Membership
from homeserver.store.receipts import (
    KINDS,
    UNTHREADED,
    ReceiptChange,
    find_targets,
    fits_thread,
    put_markers,
)
from homeserver.store.work import Worker
from homeserver.stream.index import MembershipIndex


class Receipts:
    """See the module."""

    def __init__(
        self,
        database: Database,
        worker: Worker,
        interner: Interner,
        index: MembershipIndex,
        events: EventCache,
        clock: Clock,
    ) -> None:
        self._database = database
        self._worker = worker
        self._interner = interner
        self._index = index
        self._events = events
        self._clock = clock

    async def put(
        self, requester: Requester, room_id: str, markers: Mapping[str, str], thread: str = UNTHREADED
    ) -> None:
        """Set markers (``m.read``, ``m.read.private``, ``m.fully_read`` to event ids), all in one thread or none."""
        room_nid = await self._interner.find_room(room_id)
        standing = self._index.standing(requester.user_nid, room_nid) if room_nid is not None else None
        if room_nid is None or standing is None or standing.membership != Membership.JOIN:
            raise forbidden("You are not in this room")
        if not markers:
            return
        event_ids = sorted(set(markers.values()))
        targets = await self._database.read(find_targets, room_nid, event_ids, self._events)
        if len(targets) < len(event_ids):
            raise not_found("The event was not found in this room")
        now_ms = self._clock.now_ms()
        changes: list[ReceiptChange] = []
        for kind in (kind for kind in KINDS if kind in markers):
            target = targets[markers[kind]]
            if not fits_thread(target, thread):
                # spec: client-server-api#post_matrixclientv3roomsroomidreceiptreceipttypeeventid (400)
                raise invalid_param("The event is not related to the thread")
            changes.append(
                ReceiptChange(
                    room_nid,
                    requester.user_id,
                    requester.user_nid,
                    KINDS[kind],
                    thread,
                    target.event_id,
                    now_ms,
                    target.nid,
                    target.pos,
                )
            )
        fully_read = targets[markers[FULLY_READ]] if FULLY_READ in markers else None
        await self._worker.work(put_markers, requester.user_nid, room_nid, changes, fully_read)
