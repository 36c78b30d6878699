"""Redacts what a user has written: in the user's own name where they are of this server, else in an administrator's.

It may be stopped anywhere and begun anew: what is redacted already is passed over.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from federation.errors import Malformed
from federation.ids import EventId, RoomId, UserId, domain_of, parse_room_id
from homeserver.db.tx import WriteTx
from homeserver.http.errors import MatrixError
from homeserver.rooms.registry import RoomRegistry
from homeserver.rooms.send import Sender, redaction
from homeserver.store.history import END
from homeserver.store.members import load_user_rooms
from homeserver.store.moderation_tasks import Task
from homeserver.store.placement import Membership
from homeserver.store.user_events import Span, load_sent

FAILED: Final = "failed_redactions"
# LIMIT(failures that are told of)
_FAILED_MOST: Final = 1_000
_HAS_BEEN = (Membership.JOIN, Membership.LEAVE, Membership.BAN)


class UserRedactions:
    """See the module."""

    def __init__(self, server_name: str, rooms: RoomRegistry, sender: Sender) -> None:
        self._server_name = server_name
        self._tools = rooms.tools
        self._sender = sender

    async def run(self, task: Task, save: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        """Do a task of TaskKind.REDACT_USER. Its wishes: rooms (empty: all that the user is or was in), reason, limit (of
        events, in each room), use_admin, after_ts and before_ts (ms; None: without end).
        """
        user_nid = await self._tools.interner.find_user(task.subject)
        if user_nid is None:
            return
        failed: dict[str, str] = dict(task.result.get(FAILED, {}))
        senders = await self._senders(task)
        for room_id in await self._rooms(task, user_nid):
            await self._clear(task, room_id, user_nid, senders, failed)
            await save({FAILED: failed})

    async def _senders(self, task: Task) -> list[UserId]:
        """In whose name it is tried, one after the other."""
        names = await self._tools.interner.user_names([task.by_nid])
        admin, user = UserId(names[task.by_nid]), UserId(task.subject)
        if task.wishes["use_admin"] or domain_of(user) != self._server_name:
            return [admin]
        return [user, admin]

    async def _rooms(self, task: Task, user_nid: int) -> list[RoomId]:
        wanted = task.wishes["rooms"]
        if wanted:
            return [parse_room_id(room_id) for room_id in wanted]
        members = await self._tools.database.read(load_user_rooms, user_nid)
        nids = [one.room_nid for one in members if one.membership in _HAS_BEEN and not one.outside]
        return [RoomId(name) for name in (await self._tools.interner.room_names(nids)).values()]

    async def _clear(
        self, task: Task, room_id: RoomId, user_nid: int, senders: list[UserId], failed: dict[str, str]
    ) -> None:
        room_nid = await self._tools.interner.find_room(room_id)
        if room_nid is None:
            return
        wishes = task.wishes
        after_ms, before_ms = wishes["after_ts"], wishes["before_ts"]
        span = Span(
            room_nid, user_nid, -1 if after_ms is None else after_ms, END if before_ms is None else before_ms
        )
        left, high = wishes["limit"], END
        content = {} if wishes["reason"] is None else {"reason": wishes["reason"]}
        while left > 0:
            sent, low = await self._tools.database.read(load_sent, span, high, left)
            left -= len(sent)
            for one in sent:
                if not one.is_redacted:
                    problem = await self._redact(room_id, EventId(one.event_id), senders, content)
                    if problem is not None and len(failed) < _FAILED_MOST:
                        failed[one.event_id] = problem
            if low is None:
                return
            high = low

    async def _redact(
        self, room_id: RoomId, event_id: EventId, senders: list[UserId], content: dict[str, Any]
    ) -> str | None:
        """Why an event could not be redacted; None: it is."""
        problem = None
        for sender_id in senders:
            try:
                await self._sender.send_once(redaction(room_id, sender_id, event_id, dict(content)), _nothing)
            except Malformed as error:
                problem = str(error)
            except MatrixError as error:
                if error.passes:
                    raise
                problem = error.error
            else:
                return None
        return problem


def _nothing(_tx: WriteTx, _event_id: str) -> None:
    """Nothing is stored with the event."""
