"""Keeps the text search up to date: a follower of the log that only notes what is new, and writes it some seconds later.

What is noted goes to the disk in the transaction of the cursor, so nothing is lost and a message costs no commit of its
own. Who searches has it written first: what one has just said can be found.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import islice

from homeserver.db.threads import Database
from homeserver.runtime.clock import Clock, sleep
from homeserver.store.changes import Change, Kind
from homeserver.store.placement import moves_of
from homeserver.store.search import drain_queue, find_events, has_queue, index_older, refresh, searched_type
from homeserver.store.work import Worker
from homeserver.stream.followers import Unit

FOLLOWER = "search"
# LIMIT(memory, and how long the one writer is busy with it: some milliseconds): then it is written at once.
_NOTED_MOST = 256
# Between two pieces of what was there before, so that who writes messages hardly waits.
_PAUSE_S = 0.05


class SearchIndex:
    """See the module. ``handle`` is a follower, and this is its memory."""

    def __init__(self, database: Database, worker: Worker, clock: Clock) -> None:
        self._database = database
        self._worker = worker
        self._clock = clock
        self._noted: dict[int, None] = {}
        self._given: list[int] = []

    async def handle(self, changes: Sequence[Change]) -> None:
        """Note what these changes add, and what they redact."""
        redacted: list[str] = []
        for change in changes:
            # A join brings a state whose events are in no timeline: its members are people to find.
            members = [move.event_nid for move in moves_of(change) if move.member_nid and move.event_nid]
            self._noted.update(dict.fromkeys(members))
            if change.kind == Kind.EVENT and change.payload is not None:
                if searched_type(change.payload.type_nid):
                    self._noted[change.ref] = None
                if change.payload.redacts_target is not None:
                    redacted.append(change.payload.redacts_target)
        if redacted:
            self._noted.update(dict.fromkeys(await self._database.read(find_events, redacted)))
        if len(self._noted) > _NOTED_MOST:
            await self.write()

    def unsaved(self) -> Unit | None:
        """What was noted, to be written with the cursor."""
        self._given = list(self._noted)
        return partial(refresh, nids=self._given) if self._given else None

    def saved(self) -> None:
        """That was written."""
        self._forget(self._given)

    async def write(self) -> None:
        """Bring the index up to date, with the events that came as history too."""
        while nids := list(islice(self._noted, _NOTED_MOST)):
            await self._worker.work(refresh, nids)
            self._forget(nids)
        while await self._database.read(has_queue):
            await self._worker.work(drain_queue)

    def _forget(self, nids: Sequence[int]) -> None:
        for nid in nids:
            self._noted.pop(nid, None)

    async def fill(self) -> None:
        """Index what was said before there was an index, in pieces. An earlier process may have begun."""
        while await self._worker.work(index_older):
            await sleep(self._clock, _PAUSE_S)
