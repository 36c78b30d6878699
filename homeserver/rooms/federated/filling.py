"""GapFiller: staged events get what they stand on, and then their place.

One filler for each room and server that events wait of, some at once for each server and in all; it drives
``federation.flows.receive`` outside of the room's actor, and comes back into it with one bundle.

MUSTs: 1. a staged event goes when it has a place, is refused, or has been tried for hours; 2. whatever goes wrong, a
filler ends, and its events are tried again later; 3. nobody's events wait for another server's answers.

# spec: server-server-api#backfilling-and-retrieving-missing-events
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError

from federation.event import Event
from federation.flows.needs import NeedKnown, RoomNeed
from federation.flows.receive import Filled, Start, Step, authorise, receive
from federation.ids import EventId, RoomId, ServerName
from federation.policy import PolicyServer
from federation.sticky import sticky_until_ms
from federation.verdict import Drop
from federation.versions import RoomRules
from homeserver.db.errors import DatabaseError
from homeserver.db.threads import Database
from homeserver.db.tx import WriteTx
from homeserver.http.errors import MatrixError
from homeserver.rooms.actor import RoomActor
from homeserver.rooms.arrivals import Arrival, Missing, Placed, arrive
from homeserver.rooms.covered import end_covered
from homeserver.rooms.federated.branches import tell_of_ours
from homeserver.rooms.federated.checking import Checked, EventChecker, KeysMissing
from homeserver.rooms.federated.fetching import FetchRoom, RoomFetcher, nothing
from homeserver.rooms.federated.policing import Policing, lacks_signature
from homeserver.rooms.federated.staged import Staged
from homeserver.rooms.registry import RoomRegistry
from homeserver.rooms.turn import Turn
from homeserver.runtime.clock import Clock, DelayedCall, Timer, call_at
from homeserver.runtime.drive import drive
from homeserver.runtime.log import Log
from homeserver.runtime.tasks import TaskGroup
from homeserver.store.gaps import load_gaps
from homeserver.store.staging import (
    StagedRow,
    hasten_staged,
    load_due,
    load_next_due,
    load_waiting,
    postpone_staged,
    remove_copies,
    remove_staged,
)
from homeserver.store.work import Worker
from homeserver.stream.index import MembershipIndex

AT_ONCE = 64
PER_ORIGIN = 4
# Who answers slowly is asked no more after so long: what was found by then is kept, and the rest is tried again.
ASK_FOR_S = 120.0
BATCH = 50
# After each attempt in vain; there is none after the last.
WAITS_S = (5, 30, 120, 600, 1_800, 3_600, 7_200, 14_400)
LONGEST_WAIT_MS = WAITS_S[-1] * 1000
# From so many attempts on, and not before that long, a state may lack what nobody has: a busy room hastens attempts, and a
# server whose keys cannot be had just now is back soon. What stands on such a state is refused for good.
LENIENT_AFTER = 2
LENIENT_AFTER_MS = 120_000
# So often a told state that refuses an event is not believed, and others are asked; then it must do: what comes after
# such an event would have no place for ever.
BELIEVE_AFTER = 4
# So often a policy server that does not answer is asked again; then the event counts as not recommended.
PATIENT_UNTIL = 3
# A busy room does not make hopeless events be tried with each message: not that often, and not for ever.
HASTEN_EVERY_S = 10.0
HASTEN_UNTIL = 4
_TROUBLE_MS = 15_000
# Far below what is known, a server that walks back from an event stops: it may not know of our newest ones.
_DEPTH_SLACK = 100

_Group = tuple[int, ServerName]
Servers = Callable[[int], Awaitable[Collection[str]]]
_decode = msgspec.json.Decoder(dict[str, Any]).decode


@dataclass(frozen=True, slots=True)
class _Whereabouts:
    """Where a room is: its rules, its newest events, how deep the least deep of them is, who polices it."""

    rules: RoomRules
    extremities: tuple[EventId, ...]
    lowest: int
    create: EventId | None
    policy: PolicyServer | None


class _Doubt(Exception):  # noqa: N818 (the turn is taken back, and nothing is wrong)
    """A state that was told refuses an event. That would be for good, so it is not believed at once: the event waits,
    and others are asked."""


@dataclass(slots=True)
class _Outcome:
    """What becomes of the rows of one round."""

    removed: set[str]  # whichever copy of them waits
    postponed: dict[int, list[str]]  # by attempts so far
    ended: list[StagedRow]  # dropped or given up: of these only the copy that was judged goes
    given_up: int = 0
    gone: Sequence[str] = ()  # those of ``ended`` that went
    has_placed: bool = False


class GapFiller:
    """See the module."""

    def __init__(
        self,
        rooms: RoomRegistry,
        database: Database,
        worker: Worker,
        index: MembershipIndex,
        staged: Staged,
        fetcher: RoomFetcher,
        checker: EventChecker,
        policing: Policing,
        servers: Servers,
        clock: Clock,
        tasks: TaskGroup,
        log: Log,
    ) -> None:
        self._rooms = rooms
        self._database = database
        self._worker = worker
        self._index = index
        self._staged = staged
        self._fetcher = fetcher
        self._checker = checker
        self._policing = policing
        self._servers = servers
        self._clock = clock
        self._tasks = tasks
        self._log = log
        self._queues: dict[ServerName, deque[int]] = {}  # rooms that wait for a place, by server
        self._running: set[_Group] = set()
        self._again: set[_Group] = set()  # woken while they run
        self._timers: dict[_Group, Timer] = {}
        self._hastened_s: dict[int, float] = {}
        self._hastening: dict[int, DelayedCall] = {}
        self._stopped = False

    # --- whose turn it is ----------------------------------------------------------------------------

    async def start(self) -> None:
        """Go on with what an earlier process left."""
        waiting = await self._database.read(load_waiting)
        self._staged.fill(waiting)
        for group in sorted({(row.room_nid, ServerName(row.origin)) for row in waiting}):
            self.wake(*group)

    def stop(self) -> None:
        """Begin nothing more."""
        self._stopped = True
        for timer in (*self._timers.values(), *self._hastening.values()):
            if timer.active():
                timer.cancel()
        self._timers.clear()
        self._hastening.clear()
        self._fetcher.stop()

    @property
    def waiting(self) -> int:
        """Events that wait."""
        return len(self._staged)

    def wake(self, room_nid: int, origin: ServerName) -> None:
        """See what of this server's events in this room can be placed now."""
        group = (room_nid, origin)
        timer = self._timers.pop(group, None)
        if timer is not None and timer.active():
            timer.cancel()
        if self._stopped:
            return
        if group in self._running:
            self._again.add(group)
            return
        queue = self._queues.setdefault(origin, deque())
        if room_nid not in queue:
            queue.append(room_nid)
        self._begin()

    def _begin(self) -> None:
        """Start as many as may run; servers take turns."""
        while len(self._running) < AT_ONCE and not self._stopped:
            running: dict[ServerName, int] = {}
            for _, origin in self._running:
                running[origin] = running.get(origin, 0) + 1
            origin_next = next((one for one in self._queues if running.get(one, 0) < PER_ORIGIN), None)
            if origin_next is None:
                return
            queue = self._queues.pop(origin_next)
            group = (queue.popleft(), origin_next)
            if queue:
                self._queues[origin_next] = queue  # behind all others now
            self._running.add(group)
            self._tasks.spawn("fill a gap", self._run(group))

    async def _run(self, group: _Group) -> None:
        room_nid, origin = group
        try:
            await self._fill(room_nid, origin)
            due_ts_ms = await self._database.read(load_next_due, room_nid, origin)
            if due_ts_ms is not None:
                self._set_timer(group, due_ts_ms)
        except Exception as error:
            # What waits must not wait for ever.
            self._set_timer(group, self._clock.now_ms() + _TROUBLE_MS)
            if not isinstance(error, DatabaseError | MatrixError):
                raise
            self._log.warning("events wait: their room does not answer", problem=str(error))
        finally:
            self._running.discard(group)
            if group in self._again:
                self._again.discard(group)
                self.wake(*group)
            else:
                self._begin()

    def _set_timer(self, group: _Group, due_ms: int) -> None:
        if not self._stopped and group not in self._timers:
            # Never at once: what is due and was not tried must not turn in a circle.
            due_ms = max(due_ms, self._clock.now_ms() + 100)
            self._timers[group] = call_at(self._clock, due_ms, self.wake, *group, longest_ms=LONGEST_WAIT_MS)

    def note_news(self, room_nid: int) -> None:
        """Events of a room were placed: those that wait there may be able to follow. Now and then."""
        if self._stopped or room_nid in self._hastening or not self._staged.origins_in(room_nid):
            return
        wait_s = self._hastened_s.get(room_nid, 0.0) + HASTEN_EVERY_S - self._clock.monotonic()
        self._hastening[room_nid] = self._clock.callLater(max(wait_s, 0.0), self._hasten, room_nid)

    def _hasten(self, room_nid: int) -> None:
        del self._hastening[room_nid]
        for old in [one for one in self._hastened_s if not self._staged.origins_in(one)]:
            del self._hastened_s[old]
        self._hastened_s[room_nid] = self._clock.monotonic()
        self._tasks.spawn("try a room's events again", self._try_again(room_nid))

    async def _try_again(self, room_nid: int) -> None:
        try:
            await self._worker.work(hasten_staged, room_nid, self._clock.now_ms(), HASTEN_UNTIL)
        except DatabaseError as error:
            # They are tried when they are due.
            self._log.warning("events wait: the database does not answer", problem=str(error))
            return
        for origin in sorted(self._staged.origins_in(room_nid)):
            self.wake(room_nid, ServerName(origin))

    # --- one room and server -------------------------------------------------------------------------

    async def _fill(self, room_nid: int, origin: ServerName) -> None:
        """Round by round; each takes every one of its events out of the rows that are due."""
        while not self._stopped:
            now_ms = self._clock.now_ms()
            latest_ms = now_ms + LONGEST_WAIT_MS
            rows = await self._database.read(load_due, room_nid, origin, now_ms, latest_ms, BATCH)
            if not rows:
                return
            try:
                await self._round(room_nid, origin, rows)
            except (DatabaseError, CancelledError):
                raise
            except Exception:
                # So that a fault of ours ends like everything else: after some attempts.
                await self._write(room_nid, _judge(rows, (), [row.event_id for row in rows]))
                raise

    async def _round(self, room_nid: int, origin: ServerName, rows: Sequence[StagedRow]) -> None:
        interner = self._rooms.tools.interner
        room_id = (await interner.room_names([room_nid])).get(room_nid)
        if room_id is None or not self._index.local_members(room_nid):
            # Nobody of ours is there any more: who comes back joins anew.
            await self._write(room_nid, _judge(rows, [row.event_id for row in rows], ()))
            return
        actor = await self._rooms.find(room_id)
        place = await actor.run(self._look)
        checked = await self._check(rows, place.rules, room_id)
        events = [one for one in checked.values() if isinstance(one, Event)]
        for one in events:
            self._staged.learn(room_nid, one)
        dropped = [event_id for event_id, one in checked.items() if isinstance(one, Drop)]
        late = [event_id for event_id, one in checked.items() if isinstance(one, KeysMissing)]
        filled = Filled((), (), {})
        if events:
            now_ms = self._clock.now_ms()
            lenient = any(
                row.attempts >= LENIENT_AFTER and now_ms - row.received_ts_ms >= LENIENT_AFTER_MS
                for row in rows
            )
            servers = await self._order(room_nid, origin, rows)
            room = FetchRoom(room_nid, RoomId(room_id), place.rules, servers)

            until_s = self._clock.monotonic() + ASK_FOR_S

            async def answer(need: RoomNeed) -> Any:
                if self._clock.monotonic() > until_s and not isinstance(need, NeedKnown):
                    return nothing(need)
                return await self._fetcher.answer(room, need)

            aside = await self._find_aside(room_nid, place.lowest, events)
            start = _start(place, [one for one in events if one not in aside], lenient)
            filled = await drive(receive(start), answer)
            if aside:
                filled = _both(filled, await drive(authorise(_start(place, aside, lenient)), answer))
        if place.policy is not None:
            patient = min(row.attempts for row in rows) < PATIENT_UNTIL
            filled = await self._have_signed(filled, place.policy, patient)
        outcome = await self._place(actor, rows, filled, dropped, late)
        self._finish(room_nid, outcome)
        if outcome.has_placed:
            await actor.run(end_covered)

    async def _find_aside(self, room_nid: int, lowest: int, events: Sequence[Event]) -> list[Event]:
        """The sticky events that are older than where history is missing: most likely what is missing there.

        So it is with those that a server is sent when it comes into a room. As ends of the room they would set its past
        beside its present, and a resolution of the two may bring the past back.

        # spec: https://github.com/matrix-org/matrix-spec-proposals/pull/4354
        """
        now_ms = self._clock.now_ms()
        found = [one for one in events if one.state_key is None and one.redacts is None]
        found = [one for one in found if sticky_until_ms(one.json, now_ms) > now_ms]
        gaps = await self._database.read(load_gaps, room_nid, -1, 1) if found else []
        return [one for one in found if gaps and one.depth < min(lowest, gaps[0].depth)]

    async def _have_signed(self, filled: Filled, server: PolicyServer, patient: bool) -> Filled:
        """Ask the room's policy server for what lacks its signature. Who is not patient goes on without.

        # spec: server-server-api#validating-policy-server-signatures
        """
        steps: list[Step] = []
        missing, is_there = dict(filled.missing), True
        for step in filled.steps:
            signed: Event | None = step.event
            if lacks_signature(step.event, server):
                signed = await self._policing.try_to_sign(step.event, server) if is_there else None
                is_there = signed is not None
            if signed is None and patient:
                # What stands on it waits too: it finds it missing.
                missing[step.event.event_id] = "the policy server does not answer"
            else:
                steps.append(replace(step, event=signed or step.event))
        return Filled(filled.outliers, tuple(steps), missing)

    async def _look(self, turn: Turn) -> _Whereabouts:
        newest = turn.head.extremities
        lowest = min((one.depth for one in newest), default=0)
        create = await turn.state("m.room.create")
        return _Whereabouts(
            turn.head.rules,
            tuple(one.reference.event_id for one in newest),
            lowest,
            None if create is None else create.event_id,
            await self._policing.server_of(turn),
        )

    async def _check(self, rows: Sequence[StagedRow], rules: RoomRules, room_id: str) -> dict[str, Checked]:
        """Keys are waited for here."""
        parsed = await self._checker.parse([_decode(row.json) for row in rows], rules, room_id)
        verified = iter(
            await self._checker.verify([one for one in parsed if isinstance(one, Event)], fetch=True)
        )
        return {
            row.event_id: next(verified) if isinstance(one, Event) else one
            for row, one in zip(rows, parsed, strict=True)
        }

    async def _order(
        self, room_nid: int, origin: ServerName, rows: Sequence[StagedRow]
    ) -> tuple[ServerName, ...]:
        """Who is asked: the sender first and others of the room after it; the next time others first.

        So whoever relays an event cannot alone decide what we believe to be before it.
        """
        own = self._rooms.tools.signer.server_name
        others = sorted(ServerName(one) for one in await self._servers(room_nid) if one not in (origin, own))
        attempts = max(row.attempts for row in rows)
        first = attempts * 3 % len(others) if others else 0
        others = [*others[first:], *others[:first]]
        return (origin, *others) if attempts % 2 == 0 else (*others[:2], origin, *others[2:])

    async def _place(
        self,
        actor: RoomActor,
        rows: Sequence[StagedRow],
        filled: Filled,
        dropped: Sequence[str],
        late: Sequence[str],
    ) -> _Outcome:
        believed = max(row.attempts for row in rows) >= BELIEVE_AFTER
        hearsay = set() if believed else _hearsay(filled.steps)
        doubted: set[str] = set()

        async def job(turn: Turn) -> _Outcome:
            staged, room_nid = self._staged, actor.room_nid
            # Anybody may have sent or told a redacted copy of an event of which a whole one waits. Stored as an outlier it
            # would take that one's place too; what needs it waits until that is placed or given up.
            outliers = [one for one in filled.outliers if not staged.has_better(room_nid, one)]
            worse = {one.event.event_id for one in filled.steps if staged.has_better(room_nid, one.event)}
            steps = [step for step in filled.steps if step.event.event_id not in doubted | worse]
            arrivals = [_arrival(step) for step in steps]
            arrived = await arrive(turn, arrivals, outliers)
            await tell_of_ours(turn, [step.event for step in steps], arrived)
            missing = {*late, *filled.missing, *doubted, *worse}
            placed: list[str] = []
            for step, one in zip(steps, arrived, strict=True):
                event_id = step.event.event_id
                if event_id in hearsay and isinstance(one, Placed) and one.by_state:
                    doubted.add(event_id)
                (missing.add if isinstance(one, Missing) else placed.append)(event_id)
            if not doubted <= missing:
                raise _Doubt
            done = [
                row.event_id for row in rows if row.event_id not in missing and row.event_id not in dropped
            ]
            outcome = _judge(rows, done, missing, dropped)
            # What others sent and what came on the way waits no longer either.
            outcome.removed.update(one for one in placed if staged.find(room_nid, one) is not None)
            outcome.has_placed = bool(turn.placements)
            turn.extra.append(lambda tx: _write(tx, room_nid, outcome, self._due(outcome)))
            return outcome

        while True:
            try:
                return await actor.run(job)
            except _Doubt:
                continue  # each time at least one step is left out, so this ends

    def _due(self, outcome: _Outcome) -> dict[int, int]:
        now_ms = self._clock.now_ms()
        return {attempts: now_ms + WAITS_S[attempts] * 1000 for attempts in outcome.postponed}

    async def _write(self, room_nid: int, outcome: _Outcome) -> None:
        await self._worker.work(_write, room_nid, outcome, self._due(outcome))
        self._finish(room_nid, outcome)

    def _finish(self, room_nid: int, outcome: _Outcome) -> None:
        """It is stored."""
        self._staged.discard(room_nid, sorted(outcome.removed))
        self._staged.discard(room_nid, outcome.gone)
        if outcome.given_up:
            self._log.warning("gave up on events of a room", events=outcome.given_up)
        if outcome.has_placed:
            self.note_news(room_nid)


def _start(place: _Whereabouts, events: Sequence[Event], lenient: bool) -> Start:
    # Whoever makes an event says how deep it is: none of ours says where what others have is to be looked for.
    lowest = min([place.lowest, *(event.depth for event in events)])
    return Start(tuple(events), place.extremities, max(0, lowest - _DEPTH_SLACK), place.create, lenient)


def _both(first: Filled, second: Filled) -> Filled:
    outliers = {one.event_id: one for one in (*first.outliers, *second.outliers)}
    return Filled(
        tuple(outliers.values()), (*first.steps, *second.steps), {**first.missing, **second.missing}
    )


def _arrival(step: Step) -> Arrival:
    return Arrival(step.event, states=(step.told,) if step.told else (), aside=step.is_aside)


def _hearsay(steps: Sequence[Step]) -> set[str]:
    """The events whose state goes back to one that was told."""
    found: set[str] = set()
    for step in steps:
        if step.told or not found.isdisjoint(step.event.prev_event_ids):
            found.add(step.event.event_id)
    return found


def _judge(
    rows: Sequence[StagedRow], done: Collection[str], missing: Collection[str], dropped: Collection[str] = ()
) -> _Outcome:
    outcome = _Outcome(set(done), {}, [row for row in rows if row.event_id in dropped])
    for row in rows:
        if row.event_id in missing:
            if row.attempts >= len(WAITS_S):
                outcome.ended.append(row)
                outcome.given_up += 1
            else:
                outcome.postponed.setdefault(row.attempts, []).append(row.event_id)
    return outcome


def _write(tx: WriteTx, room_nid: int, outcome: _Outcome, due_ts_ms: dict[int, int]) -> None:
    """A unit of work."""
    if outcome.removed:
        remove_staged(tx, room_nid, sorted(outcome.removed))
    if outcome.ended:
        outcome.gone = remove_copies(tx, room_nid, outcome.ended)
    for attempts, event_ids in sorted(outcome.postponed.items()):
        postpone_staged(tx, room_nid, event_ids, attempts, due_ts_ms[attempts])
