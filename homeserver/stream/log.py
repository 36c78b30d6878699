"""The log of committed changes as this process sees it, in order, without gaps.

Rules:
1. ``publish`` is called once per commit, in the order of the commits, in the reactor thread, before anybody who waits
   for that commit is told.
2. Subscribers MUST be quick and MUST NOT raise: they keep indexes and wake waiters. Slow work is a follower's.
3. Who says which kinds of change concern them (``kinds``, beside their ``apply``) is not called for a commit without any:
   most commits are of one kind, and most subscribers look at one or two. They are given all of its changes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Collection, Sequence
from operator import attrgetter
from typing import Final

from homeserver.store.changes import Change

Subscriber = Callable[[Sequence[Change]], None]
_POSITION: Final = attrgetter("pos")
# LIMIT(memory: the newest changes as they usually are take some 90 MB, and somebody may make each of them large)
BUDGET: Final = 128 * 1024 * 1024
# What is forgotten and weighs more leaves memory at once.
_HEAVY: Final = 16_384


class ChangeLog:
    """The newest committed position, and the newest changes with their payloads.

    ``floor`` is the position up to which changes may have been forgotten: what came after it is all here.
    """

    def __init__(self, position: int, keep: int = 20_000, budget: int = BUDGET) -> None:
        self.position = position
        self.floor = position
        self._keep = keep
        self._budget = budget
        self._recent: deque[Change] = deque()
        self._weights: deque[int] = deque()  # of those
        self._weight = 0  # of all of them
        # The same by topic, oldest first. There may be some before the floor, but never more than after it.
        self._topics: dict[int, list[Change]] = {}
        self._subscribers: list[tuple[Subscriber, frozenset[int] | None]] = []

    def subscribe(self, subscriber: Subscriber, kinds: Collection[int] | None = None) -> None:
        """Call ``subscriber(changes)`` at each commit (that has one of these kinds), in the order of subscription."""
        self._subscribers.append((subscriber, None if kinds is None else frozenset(kinds)))

    def publish(self, changes: Sequence[Change]) -> None:
        """These changes are committed. What a subscriber raises (a fault of ours) is raised when all have heard of them."""
        recent, topics, weights = self._recent, self._topics, self._weights
        recent.extend(changes)
        for change in changes:
            weight = change.weight
            weights.append(weight)
            self._weight += weight
            known = topics.get(change.topic)
            if known is None:
                topics[change.topic] = [change]
            else:
                known.append(change)
        self.position = changes[-1].pos
        while len(recent) > self._keep or self._weight > self._budget:
            self._forget(recent.popleft(), weights.popleft())
        kinds = {change.kind for change in changes}
        fault: Exception | None = None
        for subscriber, concerned in self._subscribers:
            if concerned is None or not concerned.isdisjoint(kinds):
                try:
                    subscriber(changes)
                except Exception as error:  # noqa: BLE001 (it is raised below)
                    fault = fault or error
        if fault is not None:
            raise fault

    def _forget(self, oldest: Change, weight: int) -> None:
        self._weight -= weight
        self.floor = oldest.pos
        known = self._topics[oldest.topic]
        if known[-1].pos <= oldest.pos:
            del self._topics[oldest.topic]
        elif weight > _HEAVY or known[len(known) // 2].pos <= oldest.pos:
            # At least half of them go, or much does: what it costs to move the others up is paid for by those.
            del known[: bisect_right(known, oldest.pos, key=_POSITION)]

    def of_topic(self, topic: int, pos: int) -> Sequence[Change]:
        """The changes of one topic after a position that is not before the floor, oldest first."""
        known = self._topics.get(topic, ())
        return known[bisect_right(known, pos, key=_POSITION) :]

    def since(self, pos: int, most: int | None = None) -> list[Change] | None:
        """The changes after a position, oldest first; None where some are forgotten, or there are more than ``most``."""
        if pos < self.floor:
            return None
        found: list[Change] = []
        for change in reversed(self._recent):
            if change.pos <= pos:
                break
            if len(found) == most:
                return None
            found.append(change)
        found.reverse()
        return found
