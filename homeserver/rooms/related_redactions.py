"""Redactions that take along what relates to their target: edits, the messages of a thread, the answers to a poll.

1. The target is redacted first, and the answer goes out; the rest follows. What is to follow is stored with the first
   redaction, so a restart goes on with it.
2. What its sender may not redact is left alone.
3. What relates to the target and comes later is redacted too, for some days.

spec: https://github.com/matrix-org/matrix-spec-proposals/pull/3912
"""

from __future__ import annotations

from collections.abc import Sequence

from federation.builder import Draft
from federation.ids import EventId, RoomId, UserId
from homeserver.db.tx import WriteTx
from homeserver.http.errors import MatrixError, forbidden, invalid_param
from homeserver.rooms.registry import RoomRegistry
from homeserver.rooms.send import Sender, redaction
from homeserver.rooms.types import Requester
from homeserver.runtime.clock import Clock
from homeserver.runtime.tasks import TaskGroup
from homeserver.store.changes import Change, Kind
from homeserver.store.placement import Placement
from homeserver.store.related_redactions import ANY, Watched, load_to_redact, load_watched, watch
from homeserver.store.relation import relation_of

# LIMIT(kinds of one request; what is kept in memory, and for how long what comes later is redacted)
KINDS_MOST = 20
WATCHED_MOST = 10_000
KEPT_S = 7 * 86_400
_AT_ONCE = 100
# History that was brought later stands before everything.
_FIRST = -(2**62)


class RelatedRedactions:
    """``apply`` is subscribed to the log."""

    def __init__(self, rooms: RoomRegistry, sender: Sender, tasks: TaskGroup, clock: Clock) -> None:
        self._rooms = rooms
        self._sender = sender
        self._tasks = tasks
        self._clock = clock
        self._watched: dict[tuple[int, str, str], Watched] = {}

    async def redact(
        self,
        requester: Requester,
        draft: Draft,
        txn_id: str,
        rel_types: Sequence[str],
        *,
        is_admin: bool = False,
    ) -> str:
        """Redact an event, and what relates to it in these ways; the id of the first redaction."""
        if len(rel_types) > KINDS_MOST or any(not one or len(one) > 255 or "\0" in one for one in rel_types):
            raise invalid_param(f"Name at most {KINDS_MOST} relation types")
        assert draft.room_id is not None and draft.redacts is not None
        room_nid = await self._rooms.tools.interner.find_room(draft.room_id)
        if room_nid is None:
            raise forbidden("You are not in this room")
        now_ms = self._clock.now_ms()
        until_ms, target_id = now_ms + KEPT_S * 1000, draft.redacts
        kinds = [ANY] if ANY in rel_types else list(dict.fromkeys(rel_types))

        def finish(tx: WriteTx, _: str) -> None:
            watch(tx, target_id, room_nid, kinds, requester.user_nid, now_ms, until_ms)

        event_id = await self._sender.send(
            requester, draft, txn_id, "redact", finish=finish, is_admin=is_admin
        )
        for one in kinds:
            found = Watched(target_id, room_nid, draft.room_id, one, requester.user_id, until_ms)
            self._watch(found)
            self._tasks.spawn("redact what relates", self._redact_all(found))
        return event_id

    async def load(self) -> None:
        """What an earlier process knew."""
        database = self._rooms.tools.database
        for found in reversed(await database.read(load_watched, self._clock.now_ms(), WATCHED_MOST)):
            self._watch(found)

    def start(self) -> None:
        """Go on with what an earlier process has left."""
        for found in list(self._watched.values()):
            self._tasks.spawn("redact what relates", self._redact_all(found))

    kinds = frozenset({Kind.EVENT})  # what ``apply`` looks at

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow the log."""
        if not self._watched or self._tasks.stopped:
            return
        for change in changes:
            if change.kind == Kind.EVENT and change.payload is not None:
                target_id, rel_type = _relation(change.payload)
                for kind in (rel_type, ANY):
                    found = self._watched.get((change.topic, target_id, kind))
                    if found is not None and found.until_ts_ms > self._clock.now_ms():
                        self._tasks.spawn("redact what relates", self._redact_all(found))

    def _watch(self, found: Watched) -> None:
        self._watched[(found.room_nid, found.target_id, found.rel_type)] = found
        if len(self._watched) > WATCHED_MOST:
            del self._watched[next(iter(self._watched))]

    async def _redact_all(self, watched: Watched) -> None:
        database, after = self._rooms.tools.database, _FIRST
        while True:
            found = await database.read(load_to_redact, watched, after, _AT_ONCE)
            for _, event_id in found:
                draft = redaction(RoomId(watched.room_id), UserId(watched.sender_id), EventId(event_id), {})
                try:
                    await self._sender.send_once(draft, _nothing)
                except MatrixError:
                    continue  # not allowed, or gone: it is left alone
            if len(found) < _AT_ONCE:
                return
            after = found[-1][0]


def _nothing(_: WriteTx, __: str) -> None:
    """Nothing is stored with these redactions."""


def _relation(placed: Placement) -> tuple[str, str]:
    rel_type, target_id = relation_of(placed.event.content) or ("", "")
    return target_id, rel_type
