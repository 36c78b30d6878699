"""Redactions that take along what relates to their target: edits, the messages of a thread, the answers to a poll.

1. The target is redacted first, and the answer goes out; the rest follows. What is to follow is stored with the first
   redaction, so a restart goes on with it.
2. What its sender may not redact is left alone. Of several senders who asked for the same, none stands in another's way:
   one after the other is tried.
3. What relates to the target and comes later is redacted too, for some days. It alone is looked at then: what may not be
   redacted can be much, and is looked at once. All is looked at again where something was missed.
4. Nothing is redacted a second time, and of what relates to one target in one way, one event is looked at after the other.

spec: https://github.com/matrix-org/matrix-spec-proposals/pull/3912
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from federation.builder import Draft
from federation.ids import EventId, RoomId, UserId
from homeserver.db.errors import DatabaseUnavailable
from homeserver.db.tx import WriteTx
from homeserver.http.errors import MatrixError, forbidden, invalid_param
from homeserver.rooms.registry import RoomRegistry
from homeserver.rooms.send import Sender, redaction
from homeserver.rooms.types import Requester
from homeserver.runtime.clock import Clock
from homeserver.runtime.tasks import TaskGroup
from homeserver.store.changes import Change, Kind
from homeserver.store.related_redactions import ANY, Watched, load_to_redact, load_watched, watch
from homeserver.store.relation import relation_of

# LIMIT(kinds of one request; what is kept in memory, and for how long what comes later is redacted)
KINDS_MOST = 20
WATCHED_MOST = 10_000
# LIMIT(in whose names the same is redacted, the latest: none but who could redact the target gets in)
SENDERS_MOST = 20
KEPT_S = 7 * 86_400
# LIMIT(what has come and waits to be looked at, below one target: where it is more, everything is looked at)
NEWS_MOST = 1_000
_AT_ONCE = 100
# History that was brought later stands before everything.
_FIRST = -(2**62)


@dataclass(slots=True)
class _Work:
    """What is to be looked at below one target."""

    watched: tuple[Watched, ...] = ()  # by sender, the one who asked last at the end
    whole: bool = True  # everything that is there
    news: list[str] = field(default_factory=list)  # what has come since
    missed: bool = False  # something could not be looked at: with the next news, everything is
    running: bool = False


class RelatedRedactions:
    """``apply`` is subscribed to the log."""

    def __init__(self, rooms: RoomRegistry, sender: Sender, tasks: TaskGroup, clock: Clock) -> None:
        self._rooms = rooms
        self._sender = sender
        self._tasks = tasks
        self._clock = clock
        self._watched: dict[tuple[int, str, str], _Work] = {}

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
            self._begin(self._watch(found))
        return event_id

    async def load(self) -> None:
        """What an earlier process knew."""
        database = self._rooms.tools.database
        for found in reversed(await database.read(load_watched, self._clock.now_ms(), WATCHED_MOST)):
            self._watch(found)

    def start(self) -> None:
        """Go on with what an earlier process has left."""
        for work in list(self._watched.values()):
            self._begin(work)

    kinds = frozenset({Kind.EVENT})  # what ``apply`` looks at

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow the log."""
        if not self._watched or self._tasks.stopped:
            return
        for change in changes:
            if change.kind == Kind.EVENT and change.payload is not None:
                event = change.payload.event
                rel_type, target_id = relation_of(event.content) or ("", "")
                for kind in (rel_type, ANY):
                    work = self._watched.get((change.topic, target_id, kind))
                    if work is not None and self._senders(work):
                        self._note(work, event.event_id)

    def _watch(self, found: Watched) -> _Work:
        key = (found.room_nid, found.target_id, found.rel_type)
        work = self._watched[key] = self._watched.pop(key, _Work())
        others = [one for one in work.watched if one.sender_id != found.sender_id]
        work.watched, work.whole = (*others, found)[-SENDERS_MOST:], True
        if len(self._watched) > WATCHED_MOST:
            del self._watched[next(iter(self._watched))]
        return work

    def _senders(self, work: _Work) -> list[UserId]:
        """In whose name it is tried: whose time is not over."""
        now_ms = self._clock.now_ms()
        return [UserId(one.sender_id) for one in work.watched if one.until_ts_ms > now_ms]

    def _note(self, work: _Work, event_id: str) -> None:
        if len(work.news) < NEWS_MOST:
            work.news.append(event_id)
        else:
            work.whole = True
        if work.missed and not work.running:
            work.whole = True
        self._begin(work)

    def _begin(self, work: _Work) -> None:
        if not work.running:
            work.running, work.missed = True, False
            self._tasks.spawn("redact what relates", self._run(work))

    async def _run(self, work: _Work) -> None:
        try:
            while work.whole or work.news:
                if work.whole:
                    work.whole = False
                    work.news.clear()  # they are stored, and so among all
                    await self._redact_all(work)
                else:
                    await self._redact(work, work.news.pop(0))
        except DatabaseUnavailable:
            work.missed = True
        finally:
            work.running = False

    async def _redact_all(self, work: _Work) -> None:
        database, after = self._rooms.tools.database, _FIRST
        while True:
            found = await database.read(load_to_redact, work.watched[0], after, _AT_ONCE)
            for _, event_id in found:
                await self._redact(work, event_id)
            if len(found) < _AT_ONCE:
                return
            after = found[-1][0]

    async def _redact(self, work: _Work, event_id: str) -> None:
        room_id = RoomId(work.watched[0].room_id)
        for sender_id in self._senders(work):
            try:
                await self._sender.redact_unless_done(redaction(room_id, sender_id, EventId(event_id), {}))
            except MatrixError as error:
                # Not allowed, or gone: it is left alone.
                work.missed |= error.passes
            else:
                return
