"""Receipts of other servers' users, kept as those of our own users are.

1. A receipt counts where its event stands in the room's timeline, and in a thread that the event belongs to: so what
   is stored is bounded by what is in rooms, whatever others send.
2. A receipt may overtake its event. It then waits in memory, a bounded number of them: what is lost with the process is
   made good by the user's next receipt, and a row for an event that may never come would be nobody's to take away.

# spec: server-server-api#receipts
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice

from federation.edus import Receipt
from homeserver.db.errors import DatabaseError
from homeserver.db.threads import Database
from homeserver.runtime.tasks import TaskGroup
from homeserver.store.changes import Change, Kind
from homeserver.store.parsed import EventCache
from homeserver.store.receipts import (
    READ,
    UNTHREADED,
    ReceiptChange,
    find_targets,
    fits_thread,
    put_markers,
)
from homeserver.store.work import Worker

# LIMIT(memory: some 500 bytes each; those that wait the longest are dropped)
WAITING_MOST = 5_000
# LIMIT(what one EDU may make us look for in one room)
EVENTS_MOST = 200

_Of = tuple[int, Receipt]  # user nid, receipt


class RemoteReceipts:
    """See the module. ``apply`` follows the log for events that receipts wait for."""

    def __init__(self, database: Database, worker: Worker, events: EventCache, tasks: TaskGroup) -> None:
        self._database = database
        self._worker = worker
        self._events = events
        self._tasks = tasks
        # (room nid, event id) -> user nid -> receipt
        self._waiting: OrderedDict[tuple[int, str], dict[tuple[int, str], Receipt]] = OrderedDict()
        self._count = 0
        self._heard = 0  # how often events came

    async def put_remote(self, room_nid: int, receipts: Sequence[_Of]) -> None:
        """Store the receipts of users who are in a room; of those whose event is not here the newest waits."""
        event_ids = list(islice(dict.fromkeys(receipt.event_id for _, receipt in receipts), EVENTS_MOST))
        missing, heard = set(event_ids), self._heard
        targets = await self._database.read(find_targets, room_nid, event_ids, self._events)
        missing -= targets.keys()
        changes: list[ReceiptChange] = []
        for user_nid, receipt in receipts:
            target = targets.get(receipt.event_id)
            thread = receipt.thread_id or UNTHREADED
            if target is None:
                if receipt.event_id in missing:
                    self._wait(room_nid, user_nid, receipt)
            elif fits_thread(target, thread):
                changes.append(
                    ReceiptChange(
                        room_nid,
                        receipt.user_id,
                        user_nid,
                        READ,
                        thread,
                        target.event_id,
                        receipt.ts_ms,
                        target.nid,
                        target.pos,
                    )
                )
        if changes:
            await self._worker.work(put_markers, 0, room_nid, changes, None)
        if missing and self._heard != heard:
            # An event that came while it was looked for was followed before its receipt waited.
            for event_id in await self._database.read(find_targets, room_nid, sorted(missing), self._events):
                self._come(room_nid, event_id)

    kinds = frozenset({Kind.EVENT})  # what ``apply`` looks at

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow the log: an event that receipts wait for may be among them."""
        self._heard += 1
        if not self._waiting:
            return
        for change in changes:
            if change.kind == Kind.EVENT and change.payload is not None:
                self._come(change.topic, change.payload.event.event_id)

    def _come(self, room_nid: int, event_id: str) -> None:
        """An event is here: what waits for it is stored."""
        if self._tasks.stopped:
            return
        found = self._waiting.pop((room_nid, event_id), None)
        if found is not None:
            self._count -= len(found)
            receipts = [(user_nid, receipt) for (user_nid, _), receipt in found.items()]
            self._tasks.spawn("keep receipts that waited", self._put_late(room_nid, receipts))

    async def _put_late(self, room_nid: int, receipts: list[tuple[int, Receipt]]) -> None:
        try:
            await self.put_remote(room_nid, receipts)
        except DatabaseError:
            # As much as the others lose of what passes: their readers' next receipt says the same and more.
            return

    @property
    def waiting(self) -> int:
        """How many receipts wait for their events."""
        return self._count

    def _wait(self, room_nid: int, user_nid: int, receipt: Receipt) -> None:
        of_event = self._waiting.setdefault((room_nid, receipt.event_id), {})
        before = len(of_event)
        of_event[user_nid, receipt.thread_id or UNTHREADED] = receipt
        self._count += len(of_event) - before
        while self._count > WAITING_MOST:
            _, dropped = self._waiting.popitem(last=False)
            self._count -= len(dropped)
