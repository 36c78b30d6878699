"""TransactionReceiver: what other servers send, into the rooms. The answer leaves after everything in it is stored.

For each room of a transaction: is this server in it, does its access control list let the sender in, checks 1 to 3, and
one turn of the room's actor. What is complete is placed; of what something is missing is staged in the same commit, and
the gap filler goes after it. The sender may relay events of others: who made an event is what its signatures say.

MUSTs: 1. an event is acknowledged when it is in its room, refused, or staged, never before; 2. a transaction that comes
again is answered as the first time, and does nothing (``answers.py``), but for one without events: each EDU may come
twice; 3. nobody's flood makes others wait: bounded are the transactions of a server, its rooms at once, and what waits of
it (429, and it comes again). Of servers that are not in the room little waits, and takes nobody else's place (an error
for the event, and it does not come again).

# spec: server-server-api#transactions
# spec: server-server-api#pdus
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.python.failure import Failure

from federation.edus import Edu
from federation.errors import Malformed
from federation.event import Event, stored_bytes
from federation.hashes import compute_event_id
from federation.ids import EventId, RoomId, ServerName, parse_event_id, parse_room_id
from federation.verdict import Drop, Reject
from federation.versions import ROOM_VERSIONS, RoomRules
from homeserver.db.threads import Database
from homeserver.db.tx import Tx, WriteTx
from homeserver.http.errors import limit_exceeded
from homeserver.rooms.arrivals import Arrival, Arrived, Missing, Placed, arrive
from homeserver.rooms.federated.acls import ServerAcls
from homeserver.rooms.federated.answers import RecentAnswers
from homeserver.rooms.federated.branches import tell_of_ours
from homeserver.rooms.federated.checking import Checked, EventChecker, KeysMissing
from homeserver.rooms.federated.edus import EduDispatcher, must_be_kept, parse_edus
from homeserver.rooms.federated.filling import GapFiller
from homeserver.rooms.federated.policing import Policing, lacks_signature
from homeserver.rooms.federated.staged import Copy, Staged, copy_of
from homeserver.rooms.hold import AnsweredAlready
from homeserver.rooms.registry import RoomRegistry
from homeserver.rooms.turn import Turn
from homeserver.runtime.clock import Clock, unless_over
from homeserver.runtime.tasks import all_of
from homeserver.store.staging import (
    StagedRow,
    find_answer,
    put_answer,
    put_first_answer,
    put_staged,
    remove_staged,
    replace_staged,
)
from homeserver.store.work import Worker
from homeserver.stream.index import MembershipIndex

# An honest server sends one after the other; a second one overlaps when the first was thought lost.
TRANSACTIONS_AT_ONCE = 4
WAITERS_MOST = 4
ROOMS_AT_ONCE = 8
# Events that come while this server joins their room wait for that, and after so long come again.
JOIN_WAIT_S = 20.0
RETRY_AFTER_MS = 5_000
# Of a server whose transaction was not as new as it looked, so long each is looked for first, and of so many servers.
CAREFUL_S = 600.0
CAREFUL_MOST = 1_000
_NOT_HERE = "This server is not in that room"
_NOT_ALLOWED = "Your server is not allowed in that room"
_NOTHING = '{"pdus":{}}'
_NO_PLACE = "Your server is not in that room as far as this one knows, and too much waits there already"

_encode = msgspec.json.Encoder().encode

Joining = Callable[[RoomId], Coroutine[Any, Any, bool]]
"""Whether somebody of ours was joining a room; it is over when the answer is there (``remote.py``)."""
IsInside = Callable[[str, int], Awaitable[bool]]
"""Whether a server is in a room, as far as anybody says."""
HearOutside = Callable[[ServerName, Sequence[Any]], Awaitable[Sequence[EventId]]]
"""Events of a room that this server is not in: those that meant something nevertheless (``outsiders.py``)."""


@dataclass(slots=True)
class _Transaction:
    """One that is being worked through."""

    origin: ServerName
    txn_id: str
    results: dict[str, dict[str, str]] = field(default_factory=dict)
    in_one_commit: bool = False  # the answer is looked for and stored with the events of its only room
    is_new: bool = False  # it was looked for
    is_kept: bool = False  # the answer is stored
    says_more: bool = False  # than that events were taken
    stored: str | None = None  # the answer of the first time

    @property
    def must_be_kept(self) -> bool:
        """Whether the same events would be answered otherwise when they come again."""
        return self.says_more or any(self.results.values())

    def answer(self) -> str:
        return self.stored or _encode({"pdus": self.results}).decode()

    def find(self, tx: Tx) -> str | None:
        """A unit of work: the answer of the first time."""
        return find_answer(tx, self.origin, self.txn_id)


@dataclass(slots=True)
class _Share:
    """What one server has under way."""

    transactions: int = 0
    rooms: DeferredSemaphore = field(default_factory=lambda: DeferredSemaphore(ROOMS_AT_ONCE))


class TransactionReceiver:
    """See the module."""

    def __init__(
        self,
        rooms: RoomRegistry,
        database: Database,
        worker: Worker,
        index: MembershipIndex,
        checker: EventChecker,
        acls: ServerAcls,
        edus: EduDispatcher,
        policing: Policing,
        staged: Staged,
        filler: GapFiller,
        is_inside: IsInside,
        clock: Clock,
        joining: Joining,
        hear_outside: HearOutside,
    ) -> None:
        self._rooms = rooms
        self._database = database
        self._worker = worker
        self._index = index
        self._checker = checker
        self._acls = acls
        self._edus = edus
        self._policing = policing
        self._staged = staged
        self._filler = filler
        self._is_inside = is_inside
        self._clock = clock
        self._joining = joining
        self._hear_outside = hear_outside
        self._running: dict[tuple[ServerName, str], list[Deferred[str]]] = {}
        self._shares: dict[ServerName, _Share] = {}
        self._careful: dict[ServerName, float] = {}  # until when, oldest first
        self._answers = RecentAnswers(clock)

    async def receive(self, origin: ServerName, txn_id: str, pdus: Sequence[Any], edus: Sequence[Any]) -> str:
        """Take a transaction in; the JSON of the answer. Raises 429 M_LIMIT_EXCEEDED where there is no room for it."""
        if not pdus:
            return await self._take_alone(origin, edus)
        answered = self._answers.find(origin, txn_id)
        if answered is not None:
            return answered
        key = (origin, txn_id)
        waiters = self._running.get(key)
        if waiters is not None:
            if len(waiters) >= WAITERS_MOST:
                raise limit_exceeded(RETRY_AFTER_MS)
            waiter: Deferred[str] = Deferred()
            waiters.append(waiter)
            return await waiter
        share = self._enter(origin)
        waiters = self._running[key] = []
        answer: str | None = None
        try:
            answer = await self._receive(origin, txn_id, pdus, edus, share)
            self._answers.note(origin, txn_id, answer)
            return answer
        finally:
            del self._running[key]
            self._leave(origin, share)
            for waiter in waiters:
                # Whose first try failed comes again.
                if answer is None:
                    waiter.errback(Failure(limit_exceeded(RETRY_AFTER_MS)))
                else:
                    waiter.callback(answer)

    async def _take_alone(self, origin: ServerName, edus: Sequence[Any]) -> str:
        """EDUs without events. Once more does no harm, so nothing need be remembered.

        # COMPAT(servers whose ids of transactions are made of what is in them, or begin anew with each start: the same EDU
        # under the same id may tell of something new)
        """
        share = self._enter(origin)
        try:
            await self._edus.dispatch(origin, parse_edus(edus, origin))
        finally:
            self._leave(origin, share)
        return _NOTHING

    def _enter(self, origin: ServerName) -> _Share:
        share = self._shares.setdefault(origin, _Share())
        if share.transactions >= TRANSACTIONS_AT_ONCE:
            raise limit_exceeded(RETRY_AFTER_MS)
        share.transactions += 1
        return share

    def _leave(self, origin: ServerName, share: _Share) -> None:
        share.transactions -= 1
        if not share.transactions:
            del self._shares[origin]

    async def _receive(
        self, origin: ServerName, txn_id: str, pdus: Sequence[Any], edus: Sequence[Any], share: _Share
    ) -> str:
        parsed = parse_edus(edus, origin)
        transaction = _Transaction(origin, txn_id)
        kept = any(must_be_kept(edu) for edu in parsed)
        by_room = _by_room(pdus)
        transaction.in_one_commit = len(by_room) == 1 and not kept
        if transaction.in_one_commit:
            ((room_id, its_pdus),) = by_room.items()
            await share.rooms.acquire()
            try:
                await self._take_room(transaction, room_id, its_pdus)
            finally:
                share.rooms.release()
        elif await self._is_new(transaction):
            await self._take_rooms(transaction, by_room, share)
        if transaction.stored is not None:
            return transaction.stored
        await self._take_edus(origin, parsed)
        answer = transaction.answer()
        if kept or (transaction.must_be_kept and not transaction.is_kept):
            await self._worker.work(put_answer, origin, txn_id, answer, self._clock.now_ms())
        return answer

    async def _is_new(self, transaction: _Transaction) -> bool:
        """Whether a transaction was not answered before: asked before anything comes of it."""
        if not transaction.is_new and transaction.stored is None:
            transaction.stored = await self._database.read(transaction.find)
            transaction.is_new = transaction.stored is None
        return transaction.is_new

    async def _take_edus(self, origin: ServerName, edus: Sequence[Edu]) -> None:
        if edus:
            await self._edus.dispatch(origin, edus)

    async def _take_rooms(
        self, transaction: _Transaction, by_room: dict[RoomId, list[Any]], share: _Share
    ) -> None:
        """Rooms side by side; when one has no answer, the others are finished first."""

        def begin(room_id: RoomId, pdus: list[Any]) -> Deferred[None]:
            return Deferred.fromCoroutine(self._take_room(transaction, room_id, pdus))

        waiting = [share.rooms.run(begin, room_id, pdus) for room_id, pdus in by_room.items()]
        await all_of(waiting)

    # --- one room ------------------------------------------------------------------------------------

    async def _take_room(self, transaction: _Transaction, room_id: RoomId, pdus: list[Any]) -> None:
        found = await self._find_room(room_id)
        if found is None and await self._wait_for_join(room_id):
            found = await self._find_room(room_id)
        if found is None:
            if await self._is_new(transaction):
                await self._hear(transaction, room_id, pdus)
            return
        room_nid, rules = found
        if not await self._acls.allows(room_id, transaction.origin):
            if await self._is_new(transaction):
                _refuse(transaction, pdus, rules, _NOT_ALLOWED)
            return
        checked = await self._check(transaction, pdus, rules, room_id)
        if checked:
            await self._take_events(transaction, room_id, room_nid, checked)
        else:
            await self._is_new(transaction)

    async def _find_room(self, room_id: RoomId) -> tuple[int, RoomRules] | None:
        """A room that somebody of ours is in."""
        interner = self._rooms.tools.interner
        room_nid = interner.known_room(room_id) or await interner.find_room(room_id)
        if room_nid is None or not self._index.local_members(room_nid):
            return None
        version = await interner.room_version(room_nid)
        rules = ROOM_VERSIONS.get(version) if version is not None else None
        return None if rules is None else (room_nid, rules)

    async def _wait_for_join(self, room_id: RoomId) -> bool:
        """What others send as soon as they have seen our join is not to be lost."""
        waiting = Deferred.fromCoroutine(self._joining(room_id))
        try:
            with unless_over(self._clock, JOIN_WAIT_S, waiting.cancel):
                return await waiting
        except CancelledError:
            raise limit_exceeded(RETRY_AFTER_MS) from None

    async def _hear(self, transaction: _Transaction, room_id: RoomId, pdus: list[Any]) -> None:
        """Of a room that this server is not in, only what ends an invite or a knock means something."""
        transaction.says_more = True
        for event_id in await self._hear_outside(transaction.origin, pdus):
            transaction.results[event_id] = {}
        interner = self._rooms.tools.interner
        room_nid = await interner.find_room(room_id)
        version = await interner.room_version(room_nid) if room_nid is not None else None
        _refuse(transaction, pdus, ROOM_VERSIONS.get(version or ""), _NOT_HERE)

    async def _check(
        self, transaction: _Transaction, pdus: list[Any], rules: RoomRules, room_id: RoomId
    ) -> list[Event | KeysMissing]:
        """Checks 1 to 3; who fails has their result."""
        parsed = await self._checker.parse(pdus, rules, room_id)
        for pdu, one in zip(pdus, parsed, strict=True):
            if isinstance(one, Drop):
                _refuse(transaction, [pdu], rules, one.reason)
        events = {one.event_id: one for one in parsed if isinstance(one, Event)}
        verified: list[Checked] = await self._checker.verify(list(events.values()), fetch=False)
        found: list[Event | KeysMissing] = []
        for event, done in zip(events.values(), verified, strict=True):
            if isinstance(done, Drop):
                transaction.results[event.event_id] = {"error": done.reason}
            else:
                transaction.results[event.event_id] = {}
                found.append(done)
        return found

    async def _take_events(
        self, transaction: _Transaction, room_id: RoomId, room_nid: int, checked: list[Event | KeysMissing]
    ) -> None:
        actor = await self._rooms.find(room_id)
        taking = _Taking(
            transaction, room_nid, checked, self._policing, self._staged, self._is_inside, self._clock
        )
        taking.presumes = self._careful.get(transaction.origin, 0.0) <= self._clock.monotonic()
        try:
            await actor.run(taking.run)
        except AnsweredAlready as found:
            transaction.stored = found.answer
            # Where the first time's answer from the database was lost, nobody has seen to what it left waiting.
            self._filler.wake(room_nid, transaction.origin)
            return
        except BaseException:
            taking.undo()
            raise
        finally:
            if taking.presumed_wrongly:
                self._doubt(transaction.origin)
        self._staged.discard(room_nid, taking.done)
        for origin in sorted(taking.origins):
            self._filler.wake(room_nid, ServerName(origin))
        if taking.has_placed:
            self._filler.note_news(room_nid)
        if taking.is_full:
            # What was placed is stored, and will be known when the sender comes again.
            raise limit_exceeded(RETRY_AFTER_MS)

    def _doubt(self, origin: ServerName) -> None:
        """A commit that fails costs others who are in it: no server makes many of them fail."""
        self._careful.pop(origin, None)
        if len(self._careful) >= CAREFUL_MOST:
            del self._careful[next(iter(self._careful))]
        self._careful[origin] = self._clock.monotonic() + CAREFUL_S


class _Taking:
    """One turn of a room: its events of one transaction."""

    def __init__(
        self,
        transaction: _Transaction,
        room_nid: int,
        checked: Sequence[Event | KeysMissing],
        policing: Policing,
        staged: Staged,
        is_inside: IsInside,
        clock: Clock,
    ) -> None:
        self._transaction = transaction
        self._room_nid = room_nid
        self._checked = checked
        self._policing = policing
        self._staged = staged
        self._is_inside = is_inside
        self._clock = clock
        self._reserved: list[str] = []  # taken into memory, and not yet on the disk
        self._replaced: dict[str, Copy] = {}  # what was kept of others; better copies are not yet on the disk
        self.done: list[str] = []  # staged before, and placed now
        self.origins: set[str] = set()  # whose events there wait
        self.has_placed = False
        self.is_full = False
        self.presumes = False  # what looks new is taken for that, and the commit makes sure
        self.presumed_wrongly = False
        self._presumed = False

    async def run(self, turn: Turn) -> None:
        """The job. It may run twice: nothing of the first time counts then."""
        self.undo()
        self.done, self.is_full = [], False
        self.presumed_wrongly = self._presumed and turn.attempt > 0
        unsure = [one.event for one in self._checked if isinstance(one, KeysMissing)]
        waiting: list[Event] = []
        events = [one for one in self._checked if isinstance(one, Event)]
        server = await self._policing.server_of(turn)
        if server is not None:
            # Who lacks the policy server's signature waits for it: the gap filler asks.
            waiting += [event for event in events if lacks_signature(event, server)]
            events = [event for event in events if not lacks_signature(event, server)]
        # A whole copy that waits gets the place, and no redacted one: the filler sees to it.
        worse = {one.event_id for one in events if self._staged.has_better(self._room_nid, one)}
        waiting += [event for event in events if event.event_id in worse]
        events = [event for event in events if event.event_id not in worse]
        transaction = self._transaction
        earlier = None if transaction.is_new else transaction.find
        presuming = (
            self.presumes
            and transaction.in_one_commit
            and not (turn.attempt or unsure or waiting or transaction.is_new)
        )
        arrivals = [Arrival(event) for event in events]
        arrived = await arrive(turn, arrivals, earlier=earlier, presuming=presuming)
        await tell_of_ours(turn, events, arrived)
        self._presumed = turn.unseen is not None
        if not self._presumed:
            transaction.is_new = True
        for event, one in zip(events, arrived, strict=True):
            if isinstance(one, Missing):
                waiting.append(event)
            else:
                self._note(event, one)
        self.has_placed = bool(turn.placements)
        verified = [(event, copy_of(event)) for event in waiting]
        rows = await self._stage([*((event, Copy.UNVERIFIED) for event in unsure), *verified])
        # An id covers neither signatures nor what redaction takes away: who relays an event with others of these must
        # not keep the real ones out.
        better = self._restage(verified)
        room_nid, done = self._room_nid, self.done
        if rows:
            turn.extra.append(lambda tx: put_staged(tx, rows))
        if better:
            turn.extra.append(lambda tx: replace_staged(tx, better))
        if done:
            turn.extra.append(lambda tx: remove_staged(tx, room_nid, done))
        if transaction.in_one_commit and transaction.must_be_kept and not self.is_full:
            transaction.is_kept = True
            put = put_answer if transaction.is_new else put_first_answer
            turn.extra.append(_keeping(transaction, self._clock.now_ms(), put))

    def _note(self, event: Event, arrived: Arrived) -> None:
        if isinstance(arrived, Placed) and isinstance(arrived.verdict, Reject | Drop):
            # spec: server-server-api#rejection (no reason to answer with an error as a whole)
            self._transaction.results[event.event_id] = {"error": arrived.verdict.reason}
        if self._staged.origin_of(self._room_nid, event.event_id) is not None:
            self.done.append(event.event_id)

    def undo(self) -> None:
        """The commit for which memory noted this was not made."""
        self._staged.discard(self._room_nid, self._reserved)
        for event_id, copy in self._replaced.items():
            self._staged.note(self._room_nid, event_id, copy)
        self._reserved, self._replaced = [], {}

    async def _stage(self, waiting: Sequence[tuple[Event, Copy]]) -> list[StagedRow]:
        now_ms, origin, room_nid = self._clock.now_ms(), self._transaction.origin, self._room_nid
        results = self._transaction.results
        stranger = bool(waiting) and not await self._is_inside(origin, room_nid)
        rows: list[StagedRow] = []
        for event, copy in waiting:
            known = self._staged.origin_of(room_nid, event.event_id)
            if known is not None:
                self.origins.add(known)
            elif self._staged.add(room_nid, event.event_id, origin, copy, stranger=stranger):
                self._reserved.append(event.event_id)
                self.origins.add(origin)
                rows.append(self._row(event, origin, now_ms))
                results[event.event_id] = {}
            elif stranger:
                results[event.event_id] = {"error": _NO_PLACE}
            else:
                self.is_full = True
        return rows

    def _restage(self, verified: Sequence[tuple[Event, Copy]]) -> list[StagedRow]:
        """Rows for events of which a worse copy was kept than is here now."""
        now_ms = self._clock.now_ms()
        rows: list[StagedRow] = []
        for event, copy in verified:
            kept = self._staged.find(self._room_nid, event.event_id)
            if kept is not None and copy > kept.copy:
                self._replaced[event.event_id] = kept.copy
                self._staged.note(self._room_nid, event.event_id, copy)
                rows.append(self._row(event, kept.origin, now_ms))
        return rows

    def _row(self, event: Event, origin: str, now_ms: int) -> StagedRow:
        return StagedRow(
            self._room_nid, event.event_id, origin, stored_bytes(event).decode(), now_ms, 0, now_ms
        )


def _keeping(
    transaction: _Transaction, now_ms: int, put: Callable[[Tx, str, str, str, int], None]
) -> Callable[[WriteTx], None]:
    answer = transaction.answer()
    return lambda tx: put(tx, transaction.origin, transaction.txn_id, answer, now_ms)


def _by_room(pdus: Sequence[Any]) -> dict[RoomId, list[Any]]:
    """The events of each room; what names no room has no place, and not even a name to report."""
    found: dict[RoomId, list[Any]] = {}
    for pdu in pdus:
        room_id = pdu.get("room_id") if type(pdu) is dict else None
        if type(room_id) is str:
            try:
                found.setdefault(parse_room_id(room_id), []).append(pdu)
            except Malformed:
                continue
    return found


def _refuse(transaction: _Transaction, pdus: Sequence[Any], rules: RoomRules | None, reason: str) -> None:
    """Results for events that are not taken, as far as they can be named."""
    for pdu in pdus:
        try:
            event_id = compute_event_id(pdu, rules) if rules is not None else parse_event_id(pdu["event_id"])
        except (Malformed, TypeError, ValueError, KeyError, AttributeError, OverflowError, RecursionError):
            continue
        if len(event_id) <= 255 and "\0" not in event_id:
            transaction.results.setdefault(event_id, {"error": reason})
