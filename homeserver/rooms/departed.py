"""Forgets rooms for those who are no longer in them, where the administrator wants that.

A follower does it; what a process that ended in between left undone is found again by looking, at the start.

spec: client-server-api#mforget_forced_upon_leave-capability
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from homeserver.db.tx import WriteTx
from homeserver.runtime.tasks import TaskGroup
from homeserver.store.changes import Change, Kind
from homeserver.store.members import find_member, forget_room
from homeserver.store.outside import Told
from homeserver.store.placement import ENDED, MOVING, moves_of
from homeserver.store.work import Worker
from homeserver.stream.index import MembershipIndex

_AT_ONCE = 500


class Departed:
    """``apply`` is subscribed to the log after the index."""

    def __init__(self, worker: Worker, index: MembershipIndex, tasks: TaskGroup) -> None:
        self._worker = worker
        self._index = index
        self._tasks = tasks

    kinds = MOVING | {Kind.OUTSIDE}  # what ``apply`` looks at

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow the log."""
        if self._tasks.stopped:
            return
        left = [
            (move.member_nid, change.topic)
            for change in changes
            for move in moves_of(change)
            if move.member_nid and move.membership in ENDED and self._index.is_local(move.member_nid)
        ]
        for change in changes:
            if change.kind == Kind.OUTSIDE and change.payload is not None:
                told: Told = change.payload
                if told.membership in ENDED:
                    left.append((told.user_nid, told.room_nid))
        if left:
            self._tasks.spawn_restarting("forget rooms", partial(self._forget, left))

    def start(self) -> None:
        """Look for what is still to be forgotten."""
        left = [
            (user_nid, room_nid)
            for user_nid in self._index.local_users()
            for room_nid, standing in self._index.rooms_of(user_nid).items()
            if standing.membership in ENDED and not standing.forgotten
        ]
        if left:
            self._tasks.spawn_restarting("forget rooms", partial(self._forget, left))

    async def _forget(self, left: Sequence[tuple[int, int]]) -> None:
        for start in range(0, len(left), _AT_ONCE):
            await self._worker.work(_forget_all, left[start : start + _AT_ONCE])


def _forget_all(tx: WriteTx, left: Sequence[tuple[int, int]]) -> None:
    for user_nid, room_nid in left:
        member = find_member(tx, room_nid, user_nid)
        if member is not None and member.membership in ENDED and not member.forgotten:
            forget_room(tx, user_nid, room_nid)
