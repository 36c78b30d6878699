"""Keeps the invites that were signed for a room of ours until the room tells of them, or all of ours have left it.

A follower does it; what a process that ended in between left undone is found again by looking, at the start.

# spec: server-server-api#inviting-to-a-room
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from homeserver.db.threads import Database
from homeserver.runtime.tasks import TaskGroup
from homeserver.store.changes import Change
from homeserver.store.outside import Told
from homeserver.store.placement import moves_of
from homeserver.store.signed_invites import load_signed, note_signed, settle_signed
from homeserver.store.work import Worker
from homeserver.stream.index import MembershipIndex


class SignedInvites:
    """See the module. ``apply`` is subscribed to the log after the index."""

    def __init__(self, database: Database, worker: Worker, index: MembershipIndex, tasks: TaskGroup) -> None:
        self._database = database
        self._worker = worker
        self._index = index
        self._tasks = tasks
        self._kept: dict[int, set[int]] = {}  # room -> users

    def start(self) -> None:
        """Look for what an earlier process kept."""
        self._tasks.spawn_restarting("look for signed invites", self._load)

    async def _load(self) -> None:
        for room_nid, user_nid in await self._database.read(load_signed):
            self._kept.setdefault(room_nid, set()).add(user_nid)
        for room_nid in list(self._kept):
            await self._settle(room_nid)

    async def keep(self, told: Told) -> None:
        """An invite is about to be handed back with our signature."""
        self._kept.setdefault(told.room_nid, set()).add(told.user_nid)
        await self._worker.work(note_signed, told)
        if not self._index.local_members(told.room_nid):
            await self._settle(told.room_nid)  # they have gone meanwhile

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow the log."""
        if self._tasks.stopped or not self._kept:
            return
        moved = {
            change.topic
            for change in changes
            for move in moves_of(change)
            if change.topic in self._kept and move.member_nid and self._index.is_local(move.member_nid)
        }
        for room_nid in sorted(moved):
            self._tasks.spawn_restarting("look at signed invites", partial(self._settle, room_nid))

    async def _settle(self, room_nid: int) -> None:
        gone = not self._index.local_members(room_nid)
        settled = await self._worker.work(settle_signed, room_nid, gone)
        kept = self._kept.get(room_nid, set())
        kept.difference_update(settled)
        if not kept:
            self._kept.pop(room_nid, None)
