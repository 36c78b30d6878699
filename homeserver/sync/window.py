"""What the log holds between a token and now, by topic: gathered once for all who wait at the same place.

A hundred members of a room who wait with the same token and are woken by one message look at one ``Window``; what it
takes to tell them is built once, too (``shared``).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from homeserver.store.account_data import AccountDataChanged
from homeserver.store.changes import Kind
from homeserver.store.placement import Placement
from homeserver.store.receipts import ReceiptChange
from homeserver.stream.log import ChangeLog

# LIMIT(beyond so many changes the tables answer as fast, and the grouped changes are worth no memory)
MAX_CHANGES = 5_000
_KEPT = 32


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
    """The changes in ``(since, upto]``."""

    __slots__ = ("shared", "since", "topics", "upto")

    def __init__(self, since: int, upto: int, topics: dict[int, Topic]) -> None:
        self.since = since
        self.upto = upto
        self.topics = topics
        self.shared: dict[Any, Any] = {}  # of sync/shared.py: answers that are the same for many


class Windows:
    """The windows that were asked for lately."""

    def __init__(self, log: ChangeLog) -> None:
        self._log = log
        self._kept: OrderedDict[tuple[int, int], Window] = OrderedDict()

    def find(self, since: int) -> Window | None:
        """The window from a token up to now; None where the log does not reach back, or too much happened."""
        upto = self._log.position
        window = self._kept.get((since, upto))
        if window is None:
            window = self._make(since, upto)
            if window is not None:
                self._kept[(since, upto)] = window
                if len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
        return window

    def _make(self, since: int, upto: int) -> Window | None:
        changes = self._log.since(since, MAX_CHANGES)
        if changes is None:
            return None
        topics: dict[int, Topic] = {}
        for change in changes:
            topic = topics.get(change.topic)
            if topic is None:
                topic = topics[change.topic] = Topic()
            kind, payload = change.kind, change.payload
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
            elif kind == Kind.OUTSIDE:
                # It is the user's alone, but the room is to be looked at.
                topics.setdefault(change.ref, Topic())
            elif kind == Kind.TRUNCATED or kind == Kind.STATE_MOVED:
                topic.complete = False
        return Window(since, upto, topics)


def _is_bare(placed: Placement) -> bool:
    """Whether only the tables know what it did: another process committed it, it stands on a fork, or is redacted."""
    return placed.state_after.nid == 0 or not placed.linear or placed.redacted_by != 0
