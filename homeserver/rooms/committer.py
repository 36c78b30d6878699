"""The one writer: everything durable goes through here, many rooms and much other work in one transaction.

Rules:
1. A batch is written when the writer is idle, at the end of the reactor turn in which its first item came: no timer,
   no added latency when quiet, and batches that grow by themselves when busy. What waits when a batch is on the disk
   is begun before those are told who waited for that one: the disk works while they are answered.
2. A Deferred that this module hands out fires with success only after the commit, and after the changes were handed
   to the log. Nothing leaves the process before that.
3. A batch that fails for what is in it is written again item by item, each in a transaction of its own, so the item
   at fault fails alone. A database that cannot answer fails them all: nobody is told that something was stored.
   A fault of ours before the transaction is one more failure: what comes after it is written all the same.
4. Bundles of one room are written in the order of ``submit``. One that is void by then (its actor has been told that one
   before it failed) is not written, and fails with ``Conflict``.
5. Positions are taken as if no other process had taken any since the newest one that is known here. Where that is wrong, or
   the batch gave way to another process that waited for it, it fails and is written again on what the database says.
6. The statements of a batch run in the reactor's thread where they are few (``SHORT_WEIGHT`` events, and units that are
   marked as short): to hand each of them over would cost more than it takes. Its commit never does.
7. Where another process has bound a name for which a number of ours is to be written, all that waits fails: whoever
   comes again is given the number that counts.
8. At most ``BATCH_EVENTS`` events go in one batch; at ``WAITING_MOST`` waiting ones ``congested`` says so, and rooms
   stop taking from their inboxes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from homeserver.db.errors import Conflict, DatabaseError, DatabaseUnavailable, IntegrityViolation
from homeserver.db.threads import Database
from homeserver.db.tx import Tx, WriteTx
from homeserver.store.changes import (
    INSERT_CHANGES,
    Change,
    Kind,
    load_position,
    take_next_positions,
    take_positions,
)
from homeserver.store.commit import span_of, write_events, write_positions
from homeserver.store.foreign import load_foreign
from homeserver.store.ids import LEASE_SIZE, Interner, Nids, lease_nids, load_rivals
from homeserver.store.placement import Bundle, Placement
from homeserver.store.work import is_short

P = ParamSpec("P")
T = TypeVar("T")
G = TypeVar("G")

BATCH_EVENTS = 500
SHORT_WEIGHT = 64
WAITING_MOST = 10_000


class Scheduler(Protocol):
    """The part of a clock that this module needs."""

    def monotonic(self) -> float: ...

    def callLater(  # noqa: N802 (Twisted's name)
        self, delay: float, function: Callable[..., object], /, *args: Any, **kwargs: Any
    ) -> Any: ...


@dataclass(slots=True)
class _Item:
    """A bundle or a unit of work, and who waits for it."""

    result: Deferred[Any]
    bundle: Bundle | None = None
    unit: Callable[..., Any] | None = None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    gather: Callable[[], Any] | None = None  # the argument, when the transaction begins
    outdated: bool = False  # it may hold a number that is nobody's

    @property
    def is_short(self) -> bool:
        return self.unit is None or is_short(self.unit)

    @property
    def is_void(self) -> bool:
        return self.outdated or (self.bundle is not None and self.bundle.void)

    @property
    def weight(self) -> int:
        return max(1, len(self.bundle.placements)) if self.bundle is not None else 1


class _RefusedError(Exception):
    """A unit that is alone in its transaction raised, and took that back with it. ``args[0]`` is the Failure."""


@dataclass(slots=True)
class _Written:
    """What one transaction did, told to the reactor thread."""

    outcomes: list[Any]  # per item: its result, or a Failure of a unit that raised
    changes: list[Change]
    lease: range | None
    names: Sequence[Any]


class Committer:
    """Collects items and writes them in batches; see the rules above."""

    def __init__(
        self,
        database: Database,
        interner: Interner,
        nids: Nids,
        publish: Callable[[list[Change]], None],
        scheduler: Scheduler,
        position: int = 0,
    ) -> None:
        self._database = database
        self._interner = interner
        self._nids = nids
        self._publish = publish
        self._scheduler = scheduler
        self._position = position  # of the newest change that was published
        self._waiting: deque[_Item] = deque()
        self._batch: list[_Item] = []  # that is being written
        self._weight = 0
        self._busy = False
        self._started_s = 0.0
        self._scheduled = False
        self._idle: list[Deferred[None]] = []
        self.batches = 0
        self.events = 0
        # Metrics, set by whoever has them: (events, seconds) of a batch that is on the disk; a batch rolled back.
        self.observe: Callable[[int, float], None] | None = None
        self.observe_failure: Callable[[], None] | None = None

    # --- what others call ------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Events and units of work that wait for the next transaction."""
        return self._weight

    @property
    def congested(self) -> bool:
        """So much waits that rooms should stop taking more."""
        return self._weight >= WAITING_MOST

    def submit(self, bundle: Bundle) -> Deferred[list[Placement]]:
        """Store a bundle; fires with its placements, positions set."""
        return self._add(_Item(Deferred(), bundle=bundle))

    def work(
        self, unit: Callable[Concatenate[WriteTx, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]:
        """Run a unit of work in the next transaction; see ``homeserver.store.work``."""
        return self._add(_Item(Deferred(), unit=unit, args=args, kwargs=kwargs))

    def work_on(self, gather: Callable[[], G], unit: Callable[[WriteTx, G], T]) -> Deferred[T]:
        """As ``work``, on what ``gather()`` says when the transaction begins; see ``homeserver.store.work``."""
        return self._add(_Item(Deferred(), unit=unit, gather=gather))

    def look(self) -> None:
        """See whether another process has committed something; called now and then while nothing else does."""
        if not self._busy and not self._waiting:
            self.work(_nothing).addErrback(lambda failure: failure.trap(DatabaseError))

    def drained(self) -> Deferred[None]:
        """Fires when nothing waits and nothing is being written."""
        result: Deferred[None] = Deferred()
        if not self._busy and not self._waiting:
            result.callback(None)
        else:
            self._idle.append(result)
        return result

    # --- batching --------------------------------------------------------------------------------

    def _add(self, item: _Item) -> Deferred[Any]:
        self._waiting.append(item)
        self._weight += item.weight
        if not self._busy and not self._scheduled:
            self._scheduled = True
            self._scheduler.callLater(0, self._flush)
        return item.result

    def _flush(self) -> None:
        self._scheduled = False
        if self._busy:
            return
        batch = self._batch = self._next_batch()
        if not batch:
            self._tell_idle()
            return
        self._busy = True
        self._write(batch, self._done)

    def _next_batch(self) -> list[_Item]:
        """What is to be written next; nothing where nothing waits."""
        batch: list[_Item] = []
        weight = 0
        while self._waiting and (not batch or weight + self._waiting[0].weight <= BATCH_EVENTS):
            item = self._waiting.popleft()
            self._weight -= item.weight
            if item.gather is not None:
                # Before anything is said of it: who gathers learns by this for whom the answer is, a failure too.
                item.args = (item.gather(),)
            if item.is_void:
                self._fail([item], _void())
                continue
            weight += item.weight
            batch.append(item)
        return batch

    def _write(
        self, batch: list[_Item], done: Callable[[list[_Item], Any], None], *, presuming: bool = True
    ) -> None:
        """``presuming``: the newest position is taken for what it was here, so that nobody waits to be told it."""
        self._started_s = self._scheduler.monotonic()
        names: Sequence[Any] = ()

        def told(outcome: _Written | Failure) -> None:
            if presuming and isinstance(outcome, Failure) and outcome.check(Conflict):
                # Another process may have taken positions: then it is to be heard what happened there.
                self._write(batch, done, presuming=False)
            elif isinstance(outcome, Failure) and outcome.check(IntegrityViolation) and names:
                # It may have bound a name.
                looking = self._database.read(load_rivals, names)
                looking.addErrback(lambda _: ())
                looking.addCallback(lambda rivals: done(batch, self._give_way(rivals) if rivals else outcome))
            else:
                done(batch, outcome)

        short = sum(item.weight for item in batch) <= SHORT_WEIGHT and all(item.is_short for item in batch)
        write = self._database.write_short if short else self._database.write
        try:
            names = self._interner.unsaved()
            result = write(_write_batch, batch, names, self._nids.low, self._position, presuming)
        except Exception:  # noqa: BLE001 (passed on to whoever waits: a writer that stays busy would never write again)
            # Later: those who wait for the batch before it are told first.
            self._scheduler.callLater(0, told, Failure())
        else:
            result.addBoth(told)

    def _give_way(self, rivals: Sequence[tuple[Any, int]]) -> Failure:
        self._interner.give_way(rivals)
        for item in (*self._batch, *self._waiting):
            item.outdated = True
        return _void()

    def _done(self, batch: list[_Item], outcome: _Written | Failure) -> None:
        if isinstance(outcome, Failure) and len(batch) > 1 and not outcome.check(DatabaseUnavailable):
            self._write_singly(batch)
            return
        self._busy = False
        try:
            self._finish(batch, outcome)
        finally:
            if not self._busy:
                self._flush()

    def _write_singly(self, batch: list[_Item]) -> None:
        first, rest = batch[0], batch[1:]

        def done(one: list[_Item], outcome: _Written | Failure) -> None:
            try:
                self._finish(one, outcome)
            finally:
                if rest:
                    self._scheduler.callLater(0, self._write_singly, rest)
                else:
                    self._busy = False
                    self._flush()

        if first.is_void:  # by one before it in its batch
            done([first], _void())
        else:
            self._write([first], done)

    def _finish(self, batch: list[_Item], outcome: _Written | Failure) -> None:
        if isinstance(outcome, Failure):
            self._fail(batch, outcome)
            return
        self._keep(outcome, batch)
        if self._waiting and not self._busy and self._database.answers_later:
            self._flush()
        self._tell(batch, outcome)

    def _fail(self, batch: list[_Item], outcome: Failure) -> None:
        if isinstance(outcome.value, _RefusedError):
            batch[0].result.errback(outcome.value.args[0])
            return
        if self.observe_failure is not None:
            self.observe_failure()
        for item in batch:
            item.result.errback(Failure(_plain(outcome.value or DatabaseError("unknown"), item)))

    def _keep(self, outcome: _Written, batch: list[_Item]) -> None:
        """It is on the disk: what the next transaction builds on."""
        self.batches += 1
        if outcome.lease is not None:
            self._nids.add(outcome.lease)
        self._interner.saved(outcome.names)
        if outcome.changes:
            self._position = outcome.changes[-1].pos
        events = sum(item.weight for item in batch if item.bundle is not None)
        self.events += events
        if self.observe is not None:
            self.observe(events, self._scheduler.monotonic() - self._started_s)

    def _tell(self, batch: list[_Item], outcome: _Written) -> None:
        try:
            if outcome.changes:
                self._publish(outcome.changes)
        finally:
            # It is stored, whatever a follower makes of it: those who wait for that must hear of it.
            for item, result in zip(batch, outcome.outcomes, strict=True):
                if isinstance(result, Failure):
                    item.result.errback(result)
                else:
                    item.result.callback(result)

    def _tell_idle(self) -> None:
        waiting, self._idle = self._idle, []
        for result in waiting:
            result.callback(None)


def _void() -> Failure:
    return Failure(Conflict("what this was built on is not what is stored"))


def _nothing(tx: WriteTx) -> None:
    """The unit of work that only looks."""


def _plain(error: BaseException, item: _Item) -> BaseException:
    # Each waiter gets an exception of its own: a shared one would collect every waiter's traceback.
    if isinstance(error, Conflict) and item.unit is not None:
        # Twice in a row. A room's turn can be built anew; a unit of work has nothing else to be built on.
        return DatabaseUnavailable(f"not stored: {error}")
    return type(error)(*error.args) if isinstance(error, DatabaseError) else error


def _write_batch(
    tx: Tx, batch: list[_Item], names: Sequence[Any], wants_lease: bool, known: int, presuming: bool
) -> _Written:
    write = WriteTx(tx)
    for rows, values in names:
        tx.insert(rows, values)
    lease = lease_nids(tx, LEASE_SIZE) if wants_lease else None
    bundles = [item.bundle for item in batch if item.bundle is not None]
    placements = write_events(tx, bundles) if bundles else []
    outcomes: list[Any] = []
    for item in batch:
        if item.bundle is not None:
            for extra in item.bundle.extra:
                extra(write)
            outcomes.append(item.bundle.placements)
        else:
            outcomes.append(_run_unit(write, item, alone=len(batch) == 1))
    changes = _take_places(write, placements, known, presuming)
    return _Written(outcomes, changes, lease, names)


def _run_unit(write: WriteTx, item: _Item, *, alone: bool) -> Any:
    """``alone``: the transaction is the unit's savepoint; nothing else is in it but what can be written again."""
    assert item.unit is not None
    claimed = len(write.claims)
    if not alone:
        write.script("SAVEPOINT unit")
    try:
        result = item.unit(write, *item.args, **item.kwargs)
    except DatabaseError:
        raise
    except Exception as error:
        if _is_from_driver(error):
            raise
        if alone:
            raise _RefusedError(Failure()) from None
        del write.claims[claimed:]
        write.script("ROLLBACK TO SAVEPOINT unit")
        write.script("RELEASE SAVEPOINT unit")
        return Failure()
    if not alone:
        write.script("RELEASE SAVEPOINT unit")
    return result


def _is_from_driver(error: Exception) -> bool:
    return type(error).__module__.split(".", 1)[0] in ("sqlite3", "psycopg2")


def _take_places(write: WriteTx, placements: list[Placement], known: int, presuming: bool) -> list[Change]:
    """Positions for what the batch did, and before it what other processes did since the position ``known``."""
    span = span_of(placements)
    count = span + len(write.claims)
    if not count:
        last = load_position(write)
    elif presuming:
        last = take_next_positions(write, count, known)
    else:
        last = take_positions(write, count)
    first = last - count + 1
    foreign = load_foreign(write, known, first - 1) if first - 1 > known else []
    if not count:
        return foreign
    if placements:
        write_positions(write, placements, first)
    changes = [Change(one.pos, Kind.EVENT, one.room_nid, one.nid, one) for one in placements]
    for pos, claim in enumerate(write.claims, first + span):
        if claim.write is not None:
            claim.write(write, pos)
        changes.append(Change(pos, claim.kind, claim.topic, claim.ref, claim.payload))
    write.insert(INSERT_CHANGES, [change[:4] for change in changes])
    return foreign + changes
