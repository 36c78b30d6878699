"""One actor per active room: its inbox, its head, and the order of everything in it.

Rules:
1. Jobs run one after the other, in the order of ``run``. A job MUST NOT await the network; it may await the database.
2. A job's events are built on the head that the job before it left, stored or not (speculation), so the room's pace is
   not the disk's.
3. When a bundle cannot be stored, the head is thrown away. Every bundle after it fails too (it is ``void``), whether it
   moves the head or not: its states and numbers may be of what is not stored. Their jobs run once more on the head that
   the database has, before anything newer. Transaction ids are stored with the events, so a job that was stored after
   all finds its answer.
4. The inbox is bounded: a room that is sent more than it can take answers 429.
5. What a job says that places nothing may rest on what is on its way to the disk: it is told when that has arrived, and
   runs again where it has not.
6. Of a job that needs a policy server's signature nothing is placed: it is asked for outside, and the job runs anew. It
   MUST build the same events then: one that draws what is in them anew is asked for again, and ends at ``SIGNED_MOST``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from federation.auth.power import PowerLevels
from federation.auth.select import StateKey
from federation.event import Event
from federation.versions import ROOM_VERSIONS
from homeserver.db.errors import Conflict, DatabaseUnavailable, IntegrityViolation
from homeserver.db.tx import Tx
from homeserver.http.errors import MatrixError, limit_exceeded, not_found
from homeserver.rooms.committer import Committer
from homeserver.rooms.turn import Policing, RoomTools, SignatureNeeded, Turn, WarmState
from homeserver.store.events import load_head, load_rows
from homeserver.store.parsed import EventCache, load_events
from homeserver.store.partial import is_partial
from homeserver.store.placement import Bundle, Extremity, Placement, RoomHead
from homeserver.store.state import BaseCache, Snapshot, empty_snapshot, load_snapshots

T = TypeVar("T")

INBOX_MOST = 1_000
# LIMIT(signatures that a policy server is asked for by one job, one after the other)
SIGNED_MOST = 100
_RETRY_AFTER_MS = 1_000


@dataclass(slots=True)
class _Job(Generic[T]):
    """Something to do to the room, and who waits for it."""

    function: Callable[[Turn], Awaitable[T]]
    result: Deferred[T]
    attempt: int = 0
    signed: list[Event] = field(default_factory=list)  # by the room's policy server, for the next try
    asked: int = 0  # how often it was


_Told = tuple[_Job[Any], Any]
"""A job that placed nothing, and its answer."""


class RoomActor:
    """See the rules above. Lives in the reactor thread."""

    def __init__(
        self,
        room_nid: int,
        room_id: str,
        version: str,
        tools: RoomTools,
        committer: Committer,
        policing: Policing | None = None,
    ) -> None:
        self.room_nid = room_nid
        self.room_id = room_id
        self.version = version
        self.last_used_s = 0.0
        self._tools = tools
        self._committer = committer
        self._policing = policing
        self._asking = 0  # jobs for which the policy server is asked
        self._inbox: deque[_Job[Any]] = deque()
        self._again: list[_Job[Any]] = []  # undone by a failed commit, oldest first
        self._head: RoomHead | None = None
        self._warm: WarmState = {}
        self._flying: dict[str, Placement] = {}  # on the way to the disk, by event id
        self._resolved: dict[frozenset[int], Snapshot] = {}
        self._power: PowerLevels | None = None
        self._running = False
        self._in_flight: deque[Bundle] = deque()  # oldest first, in which order they come back
        self._after_last: list[_Told] = []  # wait for what was submitted last
        self._broken = False  # the head is wrong: nothing runs until what is in flight has come back

    @property
    def waiting(self) -> int:
        """Jobs in the inbox."""
        return len(self._inbox)

    @property
    def idle(self) -> bool:
        """Whether it may be dropped."""
        return not (self._running or self._in_flight or self._inbox or self._again or self._asking)

    def glance(self, key: StateKey) -> tuple[bool, Event | None]:
        """Whether it is plain without a turn what the room's state has at a key (nothing is under way), and that."""
        if self._head is None or self._broken or not self.idle or key not in self._warm:
            return False, None
        found = self._warm[key]
        return True, None if found is None else found[1]

    def run(self, function: Callable[[Turn], Awaitable[T]]) -> Deferred[T]:
        """Do something to the room; fires with the function's answer when its events are stored."""
        job: _Job[T] = _Job(function, Deferred())
        if len(self._inbox) >= INBOX_MOST:
            job.result.errback(Failure(limit_exceeded(_RETRY_AFTER_MS)))
            return job.result
        self.last_used_s = self._tools.clock.monotonic()
        self._inbox.append(job)
        if not self._running:
            self._drain()
        return job.result

    def begin(self) -> None:
        """The room is new: its head is empty, and the database need not be asked."""
        if self._head is None and self.idle:
            self._head = _empty_head(self)

    # --- running jobs ------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Start the coroutine that empties the inbox; it ends by itself when there is nothing to do."""
        self._running = True
        Deferred.fromCoroutine(self._work()).addErrback(self._crashed)

    async def _work(self) -> None:
        try:
            while not self._blocked():
                if self._broken:
                    self._forget_head()
                    self._inbox.extendleft(reversed(self._again))
                    self._again.clear()
                    if not self._inbox:
                        break
                await self._do(self._inbox.popleft())
        finally:
            self._running = False

    def _blocked(self) -> bool:
        if self._broken:
            return bool(self._in_flight)
        return not self._inbox or (self._committer.congested and bool(self._in_flight))

    def _forget_head(self) -> None:
        self._broken = False
        self._head = None
        self._warm = {}
        self._power = None
        self._flying = {}
        self._resolved = {}  # what is in there may not be stored

    def _crashed(self, failure: Failure) -> None:
        # ``_do`` turns every failure into an answer; what comes here is a fault in this module itself.
        self._forget_head()
        waiting, self._inbox = self._inbox, deque()
        for job in waiting:
            job.result.errback(failure)

    async def _do(self, job: _Job[Any]) -> None:
        turn: Turn | None = None
        given_way = self._tools.interner.given_way
        try:
            if self._head is None:
                self._head = await self._tools.database.read(
                    _load_head, self, self._tools.bases, self._tools.events
                )
            turn = Turn(
                self._tools,
                self._head,
                self._warm,
                self._power,
                job.attempt,
                self._flying,
                self._resolved,
                self._policing,
                job.signed,
            )
            answer = await job.function(turn)
        except Exception as error:  # noqa: BLE001 (passed on to whoever asked for the job)
            if turn is not None and (turn.placements or turn.snapshots or turn.head is not self._head):
                self._warm = {}  # it speaks of events that were not placed after all, or of a part of the head
                self._power = None
                self._resolved = {}
            if turn is not None and isinstance(error, SignatureNeeded):
                job.signed = turn.used
                Deferred.fromCoroutine(self._ask_for_signature(job, error))
            else:
                job.result.errback(Failure())
            return
        if not turn.placements and not turn.extra:
            self._power = turn.power
            if turn.snapshots:
                self._resolved = {}
            if self._broken:
                # What it saw may be what could not be stored meanwhile: on the database's head it may say another thing.
                self._again.append(job)
            elif self._in_flight:
                self._after_last.append((job, answer))
            else:
                job.result.callback(answer)
            return
        # Else what failed came back while the job was running, or a name has another number now.
        is_sound = not self._broken and given_way == self._tools.interner.given_way
        self._submit(job, turn, answer, is_sound=is_sound)

    async def _ask_for_signature(self, job: _Job[Any], needed: SignatureNeeded) -> None:
        """Outside of turns, while the room goes on; the job runs again with what was signed."""
        assert self._policing is not None
        self._asking += 1
        try:
            if job.asked >= SIGNED_MOST:
                raise MatrixError(503, "M_UNKNOWN", "The room's policy server was asked too often for this")
            job.asked += 1
            job.signed.append(await self._policing.sign(needed))
        except Exception:  # noqa: BLE001 (passed on to whoever asked for the job)
            job.result.errback(Failure())
            return
        finally:
            self._asking -= 1
        self.last_used_s = self._tools.clock.monotonic()
        self._inbox.append(job)
        if not self._running:
            self._drain()

    def _submit(self, job: _Job[Any], turn: Turn, answer: Any, *, is_sound: bool) -> None:
        before = self._head
        assert before is not None
        self._head, self._power = turn.head, turn.power
        head = turn.head if turn.head is not before else None
        bundle = Bundle(
            self.room_nid,
            before.version,
            head,
            turn.placements,
            turn.extra,
            turn.snapshots,
            turn.ends,
            turn.unseen or (),
            void=not is_sound,
        )
        self._in_flight.append(bundle)
        for placed in turn.placements:
            self._flying[placed.event.event_id] = placed
        told: list[_Told] = []
        self._after_last = told
        stored = self._committer.submit(bundle)
        stored.addCallbacks(self._stored, self._failed, (job, answer, told), {}, (job, told), {})

    def _stored(self, placements: list[Placement], job: _Job[Any], answer: Any, told: list[_Told]) -> None:
        self._in_flight.popleft()
        for placed in placements:
            if self._flying.get(placed.event.event_id) is placed:
                del self._flying[placed.event.event_id]
        self._resume()
        job.result.callback(answer)
        for other, its_answer in told:
            other.result.callback(its_answer)

    def _failed(self, failure: Failure, job: _Job[Any], told: list[_Told]) -> None:
        self._in_flight.popleft()
        self._broken = True
        for later in self._in_flight:
            later.void = True
        tried_again = bool(failure.check(Conflict, IntegrityViolation)) and job.attempt == 0
        if tried_again:
            job.attempt = 1
            self._again.append(job)
        # They rest on what is not stored; on the head that the database has they may say something else.
        self._again += [other for other, _ in told]
        if not tried_again:
            if failure.check(Conflict, IntegrityViolation):
                # Twice in a row: another process is at this room, or the database disagrees with itself.
                failure = Failure(DatabaseUnavailable(f"not stored: {failure.value}"))
            # Before the next job runs, which may be of the same caller and rest on this one.
            job.result.errback(failure)
        self._resume()

    def _resume(self) -> None:
        if not self._running and not self._blocked():
            self._drain()


def _empty_head(actor: RoomActor) -> RoomHead:
    rules = ROOM_VERSIONS[actor.version]
    return RoomHead(actor.room_nid, actor.room_id, rules, 0, (), empty_snapshot(actor.room_nid), 0)


def _load_head(tx: Tx, actor: RoomActor, bases: BaseCache, cache: EventCache) -> RoomHead:
    row = load_head(tx, actor.room_nid)
    if row is None:
        return _empty_head(actor)
    rules = ROOM_VERSIONS[actor.version]
    nids = msgspec.json.decode(row.extremities, type=list[int])
    found = load_events(tx, nids, cache)
    if any(nid not in found for nid in nids):
        raise not_found("The room's newest events are missing")
    after = {one.nid: one.state_after or one.state_before or 0 for one in load_rows(tx, nids).values()}
    states = load_snapshots(tx, sorted({row.snapshot_nid, *after.values()}), bases)
    extremities = tuple(
        Extremity(nid, found[nid].reference(), found[nid].depth, states[after[nid]]) for nid in nids
    )
    snapshot = states[row.snapshot_nid]
    partial = is_partial(tx, actor.room_nid)
    return RoomHead(
        actor.room_nid, actor.room_id, rules, row.version, extremities, snapshot, row.depth, partial
    )
