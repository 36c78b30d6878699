"""Followers: readers of the log that may be slow, may fail, and go on after a restart where they were.

A follower is a name and a function that handles changes in order. It keeps its own cursor:

1. At least once: the cursor is moved after ``handle`` has returned and stored some seconds later, so after a crash a
   follower sees its last changes again. ``handle`` MUST be idempotent (by position).
2. In order, one call at a time per follower; followers do not wait for each other.
3. What raises is tried again, later and later, and never skipped. ``lag`` tells how far behind a follower is.
4. Changes that a follower has not read are not trimmed (``trim_changes``), however long it takes.
5. A new follower begins at the newest change, or with ``from_start`` at the oldest one that there is.
6. One that says which ``kinds`` of change concern it is given those alone. Nothing runs for a commit without any: its
   ``passed``, if it has one, is told how far it is, in order with what it handles.
7. They begin when those are answered who waited for the commit: nobody waits for a follower.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from twisted.internet.defer import Deferred, DeferredLock
from twisted.python.failure import Failure

from homeserver.db.errors import DatabaseError
from homeserver.db.threads import Database
from homeserver.db.tx import Tx, WriteTx
from homeserver.runtime.clock import Clock, DelayedCall
from homeserver.runtime.entropy import Entropy
from homeserver.runtime.log import Log
from homeserver.runtime.metrics import Metrics, NullMetrics
from homeserver.store.changes import Change, first_kept, load_changes, load_cursors, store_cursors
from homeserver.store.foreign import with_payloads
from homeserver.store.work import Worker
from homeserver.stream.log import ChangeLog

BATCH_MOST = 500
STORE_AFTER_S = 5.0
SHORTEST_WAIT_S = 1.0
LONGEST_WAIT_S = 300.0

Handle = Callable[[Sequence[Change]], Awaitable[None]]
Unit = Callable[[WriteTx], None]


class StoppingError(Exception):
    """A handler was interrupted because the server stops: the next process goes on from the cursor."""


class Memory(Protocol):
    """What a follower knows of the changes before its cursor, and would lose with the process."""

    def unsaved(self) -> Unit | None:
        """Stores it in the transaction that stores the cursor; None: there is nothing to store."""

    def saved(self) -> None:
        """What ``unsaved`` gave last is on the disk."""


@dataclass(frozen=True, slots=True)
class Follower:
    """Who follows the log."""

    name: str  # stored: it never changes
    handle: Handle
    from_start: bool = False
    memory: Memory | None = None
    kinds: frozenset[int] | None = None  # None: every change
    passed: Callable[[int], None] | None = None  # quick: it has been given everything up to this position


@dataclass(slots=True)
class _Following:
    """How far one follower is."""

    follower: Follower
    pos: int
    stored_pos: int
    failures: int = 0
    running: bool = False
    retry: DelayedCall | None = None
    ended: list[Deferred[None]] = field(default_factory=list)


class Followers:
    """All followers of this process."""

    def __init__(
        self,
        database: Database,
        worker: Worker,
        changes: ChangeLog,
        clock: Clock,
        entropy: Entropy,
        log: Log,
    ) -> None:
        self._database = database
        self._worker = worker
        self._changes = changes
        self._clock = clock
        self._entropy = entropy
        self._log = log
        self._metrics: Metrics = NullMetrics()
        self._following: dict[str, _Following] = {}
        self._storing: DelayedCall | None = None
        self._beginning: DelayedCall | None = None
        self._newest: list[Change] = []  # since followers last began
        self._lock = DeferredLock()  # one store at a time
        self._stopped = False
        changes.subscribe(self._apply)

    async def start(self, followers: Sequence[Follower]) -> None:
        """Load the cursors and go on from there. Once, before the log moves."""
        cursors, oldest = await self._database.read(_load_cursors)
        for follower in followers:
            stored = cursors.get(follower.name)
            pos = stored
            if pos is None:
                pos = max(oldest - 1, 0) if follower.from_start else self._changes.position
            one = _Following(follower, pos, -1 if stored is None else stored)
            self._following[follower.name] = one
            self._measure(one)
        # At once for the new ones: from now on nothing that they have not read is trimmed.
        await self._store()
        self._begin()

    def watch(self, metrics: Metrics) -> None:
        """Tell from now on how far each follower is behind."""
        self._metrics = metrics
        for one in self._following.values():
            self._measure(one)

    def _measure(self, one: _Following) -> None:
        self._metrics.watch("follower_lag", partial(self._lag_of, one), follower=one.follower.name)

    def lag(self, name: str) -> int:
        """How many positions a follower is behind."""
        return self._lag_of(self._following[name])

    @property
    def settled(self) -> bool:
        """Whether every follower has read everything."""
        return not any(one.running or self._lag_of(one) for one in self._following.values())

    def busy(self) -> list[str]:
        """The followers that handle something now."""
        return [name for name, one in self._following.items() if one.running]

    async def stop(self) -> None:
        """Wait for what is being handled, and remember how far everybody is."""
        if self._beginning is not None:
            self._beginning.cancel()
            self._begin()
        self._stopped = True
        if self._storing is not None and self._storing.active():
            self._storing.cancel()
        for one in self._following.values():
            if one.retry is not None and one.retry.active():
                one.retry.cancel()
            if one.running:
                ended: Deferred[None] = Deferred()
                one.ended.append(ended)
                await ended
        await self._store()

    def _lag_of(self, one: _Following) -> int:
        return self._changes.position - one.pos

    # --- following ---------------------------------------------------------------------------------

    def _apply(self, changes: Sequence[Change]) -> None:
        """The log has moved: followers go on at the end of the reactor's turn."""
        if self._stopped:
            return
        self._newest += changes
        if self._beginning is None:
            self._beginning = self._clock.callLater(0, self._begin)

    def _begin(self) -> None:
        self._beginning = None
        newest, self._newest = self._newest, []
        kinds = {change.kind for change in newest}
        for one in self._following.values():
            if one.running or one.retry is not None:
                continue
            concerned = one.follower.kinds
            if concerned is not None and concerned.isdisjoint(kinds) and _is_next(one, newest):
                self._pass(one, newest[-1].pos)
            else:
                self._run(one, newest)

    def _run(self, one: _Following, newest: Sequence[Change] = ()) -> None:
        if one.pos < self._changes.position:
            one.running = True
            Deferred.fromCoroutine(self._follow(one, newest)).addBoth(self._ended, one)

    async def _follow(self, one: _Following, newest: Sequence[Change]) -> None:
        while one.pos < self._changes.position and not self._stopped:
            if _is_next(one, newest) and len(newest) <= BATCH_MOST:
                changes, upto = newest, newest[-1].pos
            else:
                changes, upto = await self._next(one.pos)
            kinds = one.follower.kinds
            if kinds is not None:
                changes = [change for change in changes if change.kind in kinds]
            if changes:
                await one.follower.handle(changes)
            one.failures = 0
            self._pass(one, upto)

    def _pass(self, one: _Following, upto: int) -> None:
        one.pos = upto
        if one.follower.passed is not None:
            one.follower.passed(upto)
        self.store_soon()

    async def _next(self, pos: int) -> tuple[Sequence[Change], int]:
        """The next changes, and the position after them."""
        recent = self._changes.since(pos)
        upto = self._changes.position
        if recent is None:
            recent = await self._database.read(_load_next, pos, upto)
        recent = recent[:BATCH_MOST]
        return recent, recent[-1].pos if recent else upto

    def _ended(self, outcome: object, one: _Following) -> None:
        one.running = False
        stopping = isinstance(outcome, Failure) and outcome.check(StoppingError) is not None
        if outcome is not None and not stopping and not self._stopped:
            one.failures += 1
            longest_s = min(SHORTEST_WAIT_S * 2.0 ** min(one.failures - 1, 20), LONGEST_WAIT_S)
            wait_s = self._entropy.jitter(longest_s / 2, longest_s)
            self._log.error(
                "follower failed, will go on",
                follower=one.follower.name,
                pos=one.pos,
                wait_s=wait_s,
                exc_info=outcome,
            )
            one.retry = self._clock.callLater(wait_s, self._retry, one)
        waiting, one.ended = one.ended, []
        for ended in waiting:
            ended.callback(None)

    def _retry(self, one: _Following) -> None:
        one.retry = None
        self._run(one)

    # --- cursors -----------------------------------------------------------------------------------

    def store_soon(self) -> None:
        """Store cursors and memories in some seconds."""
        if self._storing is None and not self._stopped:
            self._storing = self._clock.callLater(STORE_AFTER_S, self._store_later)

    def _store_later(self) -> None:
        self._storing = None
        Deferred.fromCoroutine(self._store())

    async def _store(self) -> None:
        async with self._lock:
            await self._store_moved()

    async def _store_moved(self) -> None:
        moved = [one for one in self._following.values() if one.pos != one.stored_pos]
        cursors = [(one.follower.name, one.pos) for one in moved]
        memories = [
            one.follower.memory for one in self._following.values() if one.follower.memory is not None
        ]
        units = [unit for memory in memories if (unit := memory.unsaved()) is not None]
        if not cursors and not units:
            return
        try:
            await self._worker.work(_store_all, cursors, units)
        except DatabaseError as error:
            # The followers see some changes again after a restart, which is what rule 1 says.
            self._log.warning("cursors could not be stored", error=str(error))
            self.store_soon()
            return
        for one, (_, pos) in zip(moved, cursors, strict=True):
            one.stored_pos = pos
        for memory in memories:
            memory.saved()


def _is_next(one: _Following, newest: Sequence[Change]) -> bool:
    """Whether these are the next changes of a follower: nearly always, since hardly one is ever behind."""
    return bool(newest) and newest[0].pos == one.pos + 1


def _load_cursors(tx: Tx) -> tuple[dict[str, int], int]:
    return load_cursors(tx), first_kept(tx)


def _store_all(tx: WriteTx, cursors: Sequence[tuple[str, int]], units: Sequence[Unit]) -> None:
    for unit in units:
        unit(tx)
    store_cursors(tx, cursors)


def _load_next(tx: Tx, pos: int, upto: int) -> list[Change]:
    # The database may be ahead of the log: what comes after ``upto`` is handled when the log says it.
    found = [change for change in load_changes(tx, pos, BATCH_MOST) if change.pos <= upto]
    return with_payloads(tx, found)
