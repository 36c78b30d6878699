"""The transaction queue of one destination, as a machine without clock or network.

The shell enqueues what should go there, asks `next`, sends what it gets, reports with `done`, and sets one timer to
`wake_at`. Rules it can rely on:

1. At most one transaction is in flight, and a retried one is byte for byte the one that failed, under its own id.
2. Memory is bounded: beyond `max_pending_pdus` the machine forgets references and says from which position on the
   shell must read them again (`refill_after`, `refill`). No PDU is ever lost; ephemeral EDUs may be.
3. PDUs leave in the order of their positions. `caught_up_to` never passes one that was not delivered.

# spec: server-server-api#transactions
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from itertools import islice
from typing import Final, NamedTuple

from federation.ids import EventId, ServerName

MAX_PDUS: Final = 50
MAX_EDUS: Final = 100
# LIMIT(with 50 PDUs of 64 KiB beside them, a transaction stays below what other servers accept as a body)
MAX_EDU_BYTES_IN_ALL: Final = 2 * 1024 * 1024
DEFAULT_MAX_PENDING_PDUS: Final = 500
DEFAULT_MAX_PENDING_EDUS: Final = 1000


class PduRef(NamedTuple):
    """One event for this destination: its position in the log and its id. The bytes stay in the store."""

    pos: int
    event_id: EventId


@dataclass(frozen=True, slots=True)
class OutgoingEdu:
    """One EDU, serialised."""

    body: bytes
    """Canonical JSON of the whole EDU: `edu_type` and `content`."""
    coalesce_key: str | None = None
    """A later EDU with the same key replaces an earlier one that is still waiting (typing, presence, receipts)."""
    durable_pos: int | None = None
    """Set where the sender must know about the delivery (to-device, device lists): never shed, reported back."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """What goes out in one `PUT /send/{txnId}`."""

    txn_id: str
    destination: ServerName
    pdus: tuple[PduRef, ...]
    edus: tuple[OutgoingEdu, ...]


class Outcome(Enum):
    """How a transaction ended."""

    DELIVERED = auto()
    RETRY_LATER = auto()
    """No answer, a server error, a rate limit: back off and send the same again."""
    GIVE_UP = auto()
    """The destination will never take this transaction: drop it and go on."""


class Destination:
    """One remote server's queue. `txn_prefix` must differ between starts of the process."""

    __slots__ = (
        "_behind_after",
        "_caught_up_to",
        "_edus",
        "_failures",
        "_head_pos",
        "_in_flight",
        "_keyed",
        "_max_pending_edus",
        "_max_pending_pdus",
        "_next_txn",
        "_next_unkeyed",
        "_pdus",
        "_retry_at_ms",
        "_retry_max_ms",
        "_retry_min_ms",
        "_sending",
        "_txn_prefix",
        "server_name",
    )

    def __init__(
        self,
        server_name: ServerName,
        *,
        txn_prefix: str,
        caught_up_to: int,
        retry_min_ms: int = 10_000,
        retry_max_ms: int = 3_600_000,
        max_pending_pdus: int = DEFAULT_MAX_PENDING_PDUS,
        max_pending_edus: int = DEFAULT_MAX_PENDING_EDUS,
        failures: int = 0,
        retry_at_ms: int | None = None,
    ) -> None:
        self.server_name = server_name
        self._txn_prefix = txn_prefix
        self._next_txn = 0
        self._retry_min_ms = retry_min_ms
        self._retry_max_ms = retry_max_ms
        self._max_pending_pdus = max_pending_pdus
        self._max_pending_edus = max_pending_edus
        self._pdus: deque[PduRef] = deque()
        # Insertion-ordered: the key is the coalescing key or a number of its own.
        self._edus: dict[str | int, OutgoingEdu] = {}
        self._next_unkeyed = 0
        self._sending: Transaction | None = None
        self._in_flight = False
        # As an earlier process left them.
        self._failures = failures
        self._retry_at_ms = retry_at_ms
        self._caught_up_to = caught_up_to
        self._head_pos = caught_up_to
        self._behind_after: int | None = None

    # -- what comes in ---------------------------------------------------------------------------------------

    def enqueue(self, ref: PduRef) -> None:
        """Add one event. Positions ascend; one that was already seen is ignored."""
        if ref.pos <= self._head_pos:
            return
        previous = self._head_pos
        self._head_pos = ref.pos
        if self._behind_after is not None:
            return
        if len(self._pdus) >= self._max_pending_pdus:
            self._behind_after = self._pdus[-1].pos if self._pdus else previous
            return
        self._pdus.append(ref)

    def enqueue_edu(self, edu: OutgoingEdu) -> bool:
        """Add one EDU; False when it was shed because too many wait (never a durable one: bound those outside)."""
        if edu.coalesce_key is not None and edu.durable_pos is None:
            # A replacement takes the last place: it is newer than all that waits.
            self._edus.pop(edu.coalesce_key, None)
            key: str | int = edu.coalesce_key
        else:
            key = self._next_unkeyed
            self._next_unkeyed += 1
        if len(self._edus) >= self._max_pending_edus and edu.durable_pos is None:
            return False
        self._edus[key] = edu
        return True

    def mark_behind(self, head_pos: int) -> None:
        """At start: events up to this position may be missing there; read them from the store by `refill_after`."""
        if head_pos > self._head_pos:
            if self._behind_after is None:
                self._behind_after = self._pdus[-1].pos if self._pdus else self._head_pos
            self._head_pos = head_pos

    def refill_after(self) -> int | None:
        """After which position the shell should read up to 50 references, or None if nothing is wanted now."""
        return self._behind_after if len(self._pdus) < MAX_PDUS else None

    def refill(self, refs: Iterable[PduRef], through_pos: int) -> None:
        """Answer to `refill_after`: all references for this destination after it, up to and with `through_pos`."""
        if self._behind_after is None:
            return
        for ref in refs:
            if self._behind_after < ref.pos <= through_pos:
                self._pdus.append(ref)
        self._behind_after = None if through_pos >= self._head_pos else max(through_pos, self._behind_after)
        self._settle()

    # -- what goes out ---------------------------------------------------------------------------------------

    def next(self, now_ms: int) -> Transaction | None:
        """The transaction to send now; None while one is in flight, while backing off, or with nothing to say."""
        if self._in_flight or (self._retry_at_ms is not None and now_ms < self._retry_at_ms):
            return None
        if self._sending is None:
            if not self._pdus and not self._edus:
                return None
            pdus = tuple(self._pdus.popleft() for _ in range(min(MAX_PDUS, len(self._pdus))))
            edus = self._take_edus()
            self._sending = Transaction(f"{self._txn_prefix}{self._next_txn}", self.server_name, pdus, edus)
            self._next_txn += 1
        self._in_flight = True
        return self._sending

    def _take_edus(self) -> tuple[OutgoingEdu, ...]:
        """As many waiting EDUs as one transaction may carry; a large one goes alone."""
        taken: list[OutgoingEdu] = []
        size = 0
        for key in list(islice(self._edus, MAX_EDUS)):
            size += len(self._edus[key].body)
            if taken and size > MAX_EDU_BYTES_IN_ALL:
                break
            taken.append(self._edus.pop(key))
        return tuple(taken)

    def done(
        self,
        txn_id: str,
        outcome: Outcome,
        now_ms: int,
        *,
        jitter: float = 0.0,
        retry_after_ms: int | None = None,
    ) -> Transaction | None:
        """Report how it ended. Returns the transaction when it left the queue, so that its EDUs can be ticked off.

        `jitter` in [0, 1) spreads retries over the upper half of the wait; `retry_after_ms` is the remote's wish.
        """
        transaction = self._sending
        if transaction is None or not self._in_flight or transaction.txn_id != txn_id:
            return None
        self._in_flight = False
        if outcome is Outcome.RETRY_LATER:
            wait_ms = min(self._retry_min_ms << min(self._failures, 40), self._retry_max_ms)
            self._failures += 1
            # The first wait is as configured; from then on destinations must not come back in step.
            if self._failures > 1:
                wait_ms -= int(wait_ms * jitter / 2)
            if retry_after_ms is not None:
                wait_ms = max(wait_ms, min(retry_after_ms, self._retry_max_ms))
            self._retry_at_ms = now_ms + wait_ms
            return None
        self._sending = None
        self._failures = 0
        self._retry_at_ms = None
        if transaction.pdus:
            self._caught_up_to = max(self._caught_up_to, transaction.pdus[-1].pos)
        self._settle()
        return transaction

    def heard_from(self, not_before_ms: int | None = None) -> None:
        """The remote server spoke to us, so it is up: try again at once, or at that time if it was to be later."""
        if self._retry_at_ms is not None:
            self._retry_at_ms = None if not_before_ms is None else min(self._retry_at_ms, not_before_ms)

    def limit_retries(self, retry_min_ms: int, retry_max_ms: int, now_ms: int) -> None:
        """The limits have changed: they hold for the wait that has begun as well."""
        self._retry_min_ms = retry_min_ms
        self._retry_max_ms = retry_max_ms
        if self._retry_at_ms is not None:
            self._retry_at_ms = min(self._retry_at_ms, now_ms + retry_max_ms)

    def shed(self) -> None:
        """Forget the references that wait, to read them again when the server is back: it may stay away for long."""
        if self._pdus:
            before = self._sending.pdus[-1].pos if self._sending is not None and self._sending.pdus else None
            self._behind_after = self._caught_up_to if before is None else before
            self._pdus.clear()

    def forget_ephemeral(self) -> None:
        """Drop what would be stale by the time a server that is down comes back."""
        self._edus = {key: edu for key, edu in self._edus.items() if edu.durable_pos is not None}

    # -- what one may know -----------------------------------------------------------------------------------

    def wake_at(self, now_ms: int) -> int | None:
        """When to call `next` (and `refill_after`) again; None: only after another call into this machine."""
        if self._in_flight:
            return None
        if self._sending is None and not self._pdus and not self._edus and self._behind_after is None:
            return None
        return now_ms if self._retry_at_ms is None else max(now_ms, self._retry_at_ms)

    def caught_up_to(self) -> int:
        """Every event for this destination up to this position was delivered or given up. Store it now and then."""
        return self._caught_up_to

    @property
    def failures(self) -> int:
        """How many attempts in a row have failed."""
        return self._failures

    @property
    def retry_at_ms(self) -> int | None:
        """Until when it backs off."""
        return self._retry_at_ms

    @property
    def head_pos(self) -> int:
        """The newest position that it was told of; `refill` must not go beyond."""
        return self._head_pos

    @property
    def is_retrying(self) -> bool:
        """A transaction has failed and will be sent again before anything else."""
        return self._sending is not None and not self._in_flight

    @property
    def owes_pdus(self) -> bool:
        """An event waits, is in flight, or is still to be read: `caught_up_to` must outlast the process."""
        in_flight = self._sending is not None and bool(self._sending.pdus)
        return in_flight or bool(self._pdus) or self._behind_after is not None

    @property
    def is_idle(self) -> bool:
        """Nothing waits, nothing is in flight: the shell may forget this object after storing its position."""
        return self._sending is None and not self._pdus and not self._edus and self._behind_after is None

    def _settle(self) -> None:
        """With no PDU waiting or in flight, everything seen so far counts as delivered."""
        if self._pdus or (self._sending is not None and self._sending.pdus):
            return
        settled = self._head_pos if self._behind_after is None else self._behind_after
        self._caught_up_to = max(self._caught_up_to, settled)
