"""What one user has not read of one room: the positions of what notifies, by thread.

Counts are told from these; what is read, redacted or too old leaves them.

# spec: client-server-api#receiving-notifications
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from twisted.internet.defer import Deferred

from homeserver.push.backlog import Found
from homeserver.store.receipts import MAIN, UNTHREADED

MOST = 1_000
_MARKS_MOST = 1_000


@dataclass(frozen=True, slots=True)
class Tally:
    """How many unread notifications, and how many of them are highlighted."""

    notification_count: int = 0
    highlight_count: int = 0


@dataclass(frozen=True, slots=True)
class Counts(Tally):
    """Those of a room's main timeline, and of each thread by its root's event id."""

    threads: Mapping[str, Tally] = field(default_factory=lambda: MappingProxyType({}))


class _Scope:
    """The main timeline or a thread: positions of what notifies, in order."""

    __slots__ = ("highlights", "notified")

    def __init__(self) -> None:
        self.notified = array("q")
        self.highlights = array("q")

    def read_upto(self, pos: int) -> None:
        for positions in (self.notified, self.highlights):
            if positions and positions[0] <= pos:
                del positions[: bisect_right(positions, pos)]

    def drop(self, pos: int) -> None:
        for positions in (self.notified, self.highlights):
            if pos in positions:
                positions.remove(pos)

    def tally(self) -> Tally:
        return Tally(len(self.notified), len(self.highlights))


class Entry:
    """What one user has not read of one room."""

    __slots__ = ("_marks", "_scopes", "counts", "display_name", "upto", "waiting")

    def __init__(self) -> None:
        self.upto = -1  # -1: not loaded yet
        self.display_name: str | None = None
        self.counts: Counts | None = None
        self.waiting: list[Deferred[None]] = []
        self._marks: dict[str, int] = {}  # thread -> read up to; UNTHREADED: everything
        self._scopes: dict[str, _Scope] = {}

    def mark(self, thread: str, pos: int) -> None:
        """The user has read a thread (or everything) up to a position."""
        marks = self._marks
        if pos <= marks.get(thread, 0):
            return
        marks[thread] = pos
        for name in [name for name in self._scopes if thread in (UNTHREADED, name)]:
            self._scopes[name].read_upto(pos)
            if not self._scopes[name].notified:
                del self._scopes[name]
        if thread == UNTHREADED or len(marks) > _MARKS_MOST:
            everything = marks.get(UNTHREADED, 0)
            kept = sorted((one for one in marks.items() if one[1] > everything), key=lambda one: one[1])
            self._marks = {UNTHREADED: everything, **dict(kept[-_MARKS_MOST // 2 :])}
        self.counts = None

    def add(self, thread: str, pos: int, highlight: bool) -> None:
        """An event notifies, unless it was read already."""
        if self.has_read(thread, pos):
            return
        scope = self._scopes.get(thread)
        if scope is None:
            scope = self._scopes[thread] = _Scope()
        scope.notified.append(pos)
        if highlight:
            scope.highlights.append(pos)
        if len(scope.notified) > MOST:
            scope.read_upto(scope.notified[0])
        self.counts = None

    def fill(self, found: Found) -> None:
        """Take in what the database holds; what came meanwhile is in here already."""
        for mark in found.marks:
            self.mark(mark.thread, mark.pos)
        for pos, thread in found.own:
            self.mark(thread, pos)
        for pos, thread, highlight in found.notifying:
            self.add(thread, pos, highlight)

    def drop(self, pos: int) -> None:
        """An event was redacted."""
        for name, scope in list(self._scopes.items()):
            scope.drop(pos)
            if not scope.notified:
                del self._scopes[name]
        self.counts = None

    def has_read(self, thread: str, pos: int) -> bool:
        """Whether a thread has been read up to a position."""
        return pos <= max(self._marks.get(UNTHREADED, 0), self._marks.get(thread, 0))

    def has(self, pos: int) -> bool:
        """Whether what stands there is among what is unread."""
        return any(pos in scope.notified for scope in self._scopes.values())

    def oldest(self) -> int:
        """The position of the oldest unread notification; beyond all where there is none."""
        return min((scope.notified[0] for scope in self._scopes.values()), default=1 << 62)

    def tell(self) -> Counts:
        """The counts as they are."""
        if self.counts is None:
            main = self._scopes.get(MAIN)
            first = main.tally() if main is not None else Tally()
            threads = {name: scope.tally() for name, scope in self._scopes.items() if name != MAIN}
            self.counts = Counts(first.notification_count, first.highlight_count, threads)
        return self.counts
