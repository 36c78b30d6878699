"""What the log holds between a token and now, by topic: gathered once for all who wait at the same place.

A hundred members of a room who wait with the same token and are woken by one message look at one ``Window``; what it
takes to tell them is built once, too (``shared``). Whoever was away while much happened elsewhere has their own topics
looked at, and not all that happened: what a sync costs does not grow with the server.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from homeserver.store.account_data import AccountDataChanged
from homeserver.store.changes import Change, Kind
from homeserver.store.placement import Placement
from homeserver.store.receipts import ReceiptChange
from homeserver.stream.log import ChangeLog

# LIMIT(beyond so many changes of one room the tables answer as fast, and the grouped changes are worth no memory)
MAX_CHANGES = 5_000
_KEPT = 32
# Of what happened at a topic, what a window tells. Thousands of messages may wait for a device: they are none of it.
_TOLD = frozenset(
    {
        Kind.EVENT,
        Kind.RECEIPT,
        Kind.ACCOUNT_DATA,
        Kind.THREAD_SUBSCRIPTION,
        Kind.TRUNCATED,
        Kind.STATE_MOVED,
    }
)


@dataclass(slots=True)
class Topic:
    """What happened at one topic, oldest first."""

    placements: list[Placement] = field(default_factory=list)
    receipts: list[ReceiptChange] = field(default_factory=list)
    account_data: list[AccountDataChanged] = field(default_factory=list)
    threads: bool = False  # of a user: subscriptions of threads changed
    complete: bool = True  # False: a change without its payload, which only the tables know
    public_receipts: list[bytes] | None = None
    private_receipts: bool = False


class Window:
    """The changes in ``(since, upto]``: of the topics of all who asked for it, and maybe of others."""

    __slots__ = ("__weakref__", "has_all", "shared", "since", "topics", "upto")

    def __init__(self, since: int, upto: int) -> None:
        self.since = since
        self.upto = upto
        self.topics: dict[int, Topic] = {}  # those where something happened
        self.has_all = False
        # Of sync/shared.py, which bounds it: answers that are the same for many.
        self.shared: dict[Any, Any] = {}


class Windows:
    """The windows that were asked for lately."""

    def __init__(self, log: ChangeLog) -> None:
        self._log = log
        self._kept: OrderedDict[tuple[int, int], Window] = OrderedDict()

    def find(self, since: int, user_nid: int, *rooms: Collection[int]) -> Window | None:
        """The window from a token up to now, with what happened to a user and in some rooms (numbers above zero).

        None where the log does not reach back.
        """
        log = self._log
        if since < log.floor:
            return None
        upto = log.position
        window = self._kept.get((since, upto))
        if window is None:
            window = self._kept[(since, upto)] = Window(since, upto)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        if not window.has_all:
            # There are no more changes than positions: the way with fewer steps.
            if upto - since <= sum(map(len, rooms)):
                self._gather(window, {change.topic for change in log.since(since) or ()})
                window.has_all = True
            else:
                self._gather(window, chain((-user_nid,), *rooms))
        return window

    def _gather(self, window: Window, topics: Iterable[int]) -> None:
        known, of_topic, since = window.topics, self._log.of_topic, window.since
        outside: set[int] = set()
        for topic in topics:
            if topic not in known:
                changes = of_topic(topic, since)
                if changes:
                    known[topic] = _group(changes)
                    if topic < 0:
                        outside.update(change.ref for change in changes if change.kind == Kind.OUTSIDE)
        if outside:
            # What another server told is the user's alone, but the room is to be looked at.
            self._gather(window, outside)
            for room_nid in outside:
                known.setdefault(room_nid, Topic())


def _group(changes: Sequence[Change]) -> Topic:
    """What happened at one topic."""
    topic = Topic()
    if changes[-1].topic > 0 and len(changes) > MAX_CHANGES:
        topic.complete = False
        return topic
    for _, kind, _, _, payload in [change for change in changes if change.kind in _TOLD]:
        if kind == Kind.EVENT:
            if payload is None or _is_bare(payload):
                topic.complete = False
            else:
                topic.placements.append(payload)
        elif kind == Kind.RECEIPT:
            if payload is None:
                topic.complete = False
            else:
                topic.receipts.append(payload)
                topic.private_receipts |= payload.kind == 1
        elif kind == Kind.ACCOUNT_DATA:
            if payload is None:
                topic.complete = False
            else:
                topic.account_data.append(payload)
        elif kind == Kind.THREAD_SUBSCRIPTION:
            topic.threads = True
        else:  # TRUNCATED, STATE_MOVED
            topic.complete = False
    return topic


def _is_bare(placed: Placement) -> bool:
    """Whether only the tables know what it did: another process committed it, it stands on a fork, or is redacted."""
    return placed.state_after.nid == 0 or not placed.linear or placed.redacted_by != 0
