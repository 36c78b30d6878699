"""What one application service is still to be told, in memory: a machine without clock or network.

1. Everything up to ``told`` was confirmed. While it keeps up, what came since is in ``queue``; once it does not (it failed,
   or the queue is full) it is ``behind``, nothing is kept, and what it is owed is read from the tables when it is back.
2. One transaction is open at a time (``pending``), the same until it is confirmed.
3. One that is refused for its size is given up, for nothing of it was taken, and what was in it is told from the tables by
   smaller ones, in the same order. What cannot be made smaller is tried again like all that fails, for nothing is passed
   over: a single event is below every sensible limit, and when the limit is raised nothing is missing.
4. What is of the moment is told as it is then, and only to who is there: it is dropped at the second failure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import islice

from homeserver.appservices.bundles import BYTES_MOST
from homeserver.appservices.interest import Interest
from homeserver.appservices.registry import Appservice
from homeserver.store.appservices import Owed, Pending, Progress

# LIMIT(what waits in memory for one application service)
QUEUE_MOST = 2_000
# LIMIT(rooms, users and devices of which something of the moment waits, for each application service)
MOMENTS_MOST = 5_000
RETRY_MIN_MS = 1_000
RETRY_MAX_MS = 300_000
# One that speaks to us and does not answer is not tried more often than this.
WAKE_AGAIN_MS = 2_000
# From this failure on what is only of the moment is dropped: it would be stale.
STALE_AFTER = 2
# So many in a row must be taken before larger ones are tried again, or a limit that lasts would refuse every second one.
TAKEN_UNTIL_LARGER = 64

Keys = tuple[frozenset[int], frozenset[int], frozenset[int]]
_NO_KEYS: Keys = (frozenset(), frozenset(), frozenset())


class Outbox:
    """See the module. ``passed``: everything up to there was looked at for it."""

    def __init__(self, service: Appservice) -> None:
        self.service = service
        self.interest = Interest(service)
        self.told = 0
        self.passed = 0
        self.before = (0, False)  # a change, and whether its room concerned the service before it
        self.queue: deque[Owed] = deque()
        self.behind = False
        self.backlog: deque[Owed] = deque()  # while it is behind: what was read and is not told yet
        self.looked = 0  # up to where that is all
        # The newest that was not kept: it is ahead of ``passed`` while the follower is in the middle of it.
        self.missed = 0
        self.pending: Pending | None = None
        self.is_kept = False  # the open transaction has a row
        self.is_least = False  # the open transaction cannot be made smaller
        self.bytes_most = BYTES_MOST  # of the next one
        self.taken_since = 0  # transactions with a row since one was refused, or larger ones were allowed
        self.owed_last = False  # the newest transaction told what is owed
        self.confirmed: set[str] = set()  # transactions whose rows are of no use any more
        self.failures = 0
        self.retry_at_ms = 0
        self.attempt_ms = 0
        self.busy = False
        self.over: Pending | None = None  # confirmed, and its messages to devices are still to be dropped
        self.typing: dict[int, tuple[str, ...]] = {}  # rooms -> who typed there when it was told last
        self.presence: set[int] = set()
        self.devices: set[int] = set()
        self.changed: set[int] = set()
        self.left: set[int] = set()
        self.untold_typing: set[int] = set()
        # What of the moment is in the open transaction; of rooms, what was told of them before.
        self._taken: Keys = _NO_KEYS
        self._taken_presence: frozenset[int] = frozenset()
        self._taken_typing: dict[int, tuple[str, ...]] = {}

    def restore(self, progress: Progress, pending: Pending | None, cursor: int, latest_ms: int) -> None:
        """Go on as an earlier process was; ``cursor``: how far the follower is."""
        self.told, self.failures = progress.caught_up_to, progress.failures
        self.retry_at_ms = min(progress.retry_at_ts_ms, latest_ms)
        self.passed = max(cursor, self.told)
        if pending is not None:
            self.pending, self.is_kept = pending, True
        self.behind = self.covered < cursor

    @property
    def covered(self) -> int:
        """Up to where everything is confirmed, or in the open transaction."""
        return self.told if self.pending is None else max(self.told, self.pending.upto)

    def add(self, one: Owed) -> None:
        """Something that concerns it. What comes again, after a restart or a failure, is passed over."""
        if one.pos <= self.covered or (self.queue and one.pos <= self.queue[-1].pos):
            return
        if self.behind or self.failures or len(self.queue) >= QUEUE_MOST:
            self.fall_behind()
            self.missed = max(self.missed, one.pos)
        else:
            self.queue.append(one)

    def fall_behind(self) -> None:
        """Keep nothing: it is read from the tables."""
        self.behind = True
        if self.queue:
            self.missed = max(self.missed, self.queue[-1].pos)
            self.queue.clear()

    def peek(self, most: int) -> list[Owed]:
        """The oldest of what waits."""
        return list(islice(self.queue, most))

    def take(self, upto: int) -> None:
        """What waited up to a position is in the open transaction now."""
        for waiting in (self.queue, self.backlog):
            while waiting and waiting[0].pos <= upto:
                waiting.popleft()

    @property
    def has_keys(self) -> bool:
        return bool(self.devices or self.changed or self.left)

    @property
    def is_narrow(self) -> bool:
        """Whether one was too large: what is of the moment then goes by itself, in turn with what is owed."""
        return self.bytes_most < BYTES_MOST

    @property
    def has_moments(self) -> bool:
        return bool(self.untold_typing or self.presence or self.has_keys)

    @property
    def has_news(self) -> bool:
        """Whether there is anything to do for it."""
        return self.is_owed or self.has_moments

    @property
    def is_owed(self) -> bool:
        """Whether there is more than what is of the moment: but for what the follower is in the middle of."""
        is_open = self.pending is not None or self.over is not None
        return is_open or bool(self.queue) or (self.behind and not self.told >= self.passed < self.missed)

    def rest(self) -> None:
        """Where nothing waits, it knows everything that was looked at.

        Changes of keys have no row: after a restart they are found again by looking at what comes after ``told``.
        """
        if self.pending is None and not self.behind and not self.queue and not self.has_keys:
            self.told = max(self.told, self.passed)

    # --- how a transaction ended ---------------------------------------------------------------------------

    def succeeded(self) -> None:
        """It has the open transaction."""
        assert self.pending is not None
        self.told = max(self.told, self.pending.upto)
        if self.is_kept:
            self.taken_since += 1
            if self.taken_since >= TAKEN_UNTIL_LARGER:
                self.bytes_most, self.taken_since = min(self.bytes_most * 2, BYTES_MOST), 0
        if self.is_kept and self.pending.delivered:
            self.over = self.pending
        elif self.is_kept:
            self.confirmed.add(self.pending.txn_id)
        self.pending, self.is_kept = None, False
        self._forget_moments()
        self.failures = self.retry_at_ms = 0
        self.rest()

    def failed(self, now_ms: int, jitter: Callable[[float, float], float]) -> None:
        """It did not take the open transaction."""
        self.failures += 1
        longest = min(RETRY_MIN_MS * 2 ** min(self.failures - 1, 30), RETRY_MAX_MS)
        self.retry_at_ms = now_ms + int(jitter(longest / 2, longest))
        if not self.is_kept:
            # Only of the moment: the next transaction tells how things are then.
            self.pending = None
            self.restore_moments()
        if self.queue:
            self.fall_behind()
        if self.failures >= STALE_AFTER:
            self.untold_typing.clear()
            self.presence.clear()

    def refused(self) -> bool:
        """The open transaction is too large for it; whether a smaller one is made now, in its place."""
        assert self.pending is not None
        if self.is_least or self.bytes_most == 1:
            return False
        self.bytes_most = max(min(self.bytes_most, len(self.pending.body)) // 2, 1)
        self.taken_since = 0
        self.missed = max(self.missed, self.pending.upto)
        if self.is_kept:
            self.confirmed.add(self.pending.txn_id)
        self.pending, self.is_kept = None, False
        self.restore_moments()
        self.backlog.clear()
        self.fall_behind()
        return True

    def heard_from(self, now_ms: int) -> bool:
        """It spoke to us: a failed one is tried again soon. Whether that moved anything."""
        soonest = max(now_ms, self.attempt_ms + min(WAKE_AGAIN_MS, self.retry_at_ms - self.attempt_ms))
        if not self.failures or soonest >= self.retry_at_ms:
            return False
        self.retry_at_ms = soonest
        return True

    # --- what is of the moment -----------------------------------------------------------------------------

    def take_keys(self, most: int) -> Keys:
        """Devices whose keys came or went, users whose keys changed, users who are followed no more; so many of each."""
        devices, changed, left = (
            frozenset(islice(keys, most)) for keys in (self.devices, self.changed, self.left)
        )
        self._taken = devices, changed, left
        for keys, taken in zip((self.devices, self.changed, self.left), self._taken, strict=True):
            keys.difference_update(taken)
        return self._taken

    def take_presence(self, most: int) -> frozenset[int]:
        """Users whose presence is to be told; so many."""
        self._taken_presence = frozenset(islice(self.presence, most))
        self.presence -= self._taken_presence
        return self._taken_presence

    def take_typing(self, most: int, typing_in: Callable[[int], Sequence[str]]) -> dict[int, tuple[str, ...]]:
        """Who types now, for so many rooms of those to be told of: of each where it was told something else before."""
        looked_at = sorted(self.untold_typing)[:most]
        self.untold_typing.difference_update(looked_at)
        now = {nid: tuple(typing_in(nid)) for nid in looked_at}
        changed = {nid: users for nid, users in now.items() if self.typing.get(nid, ()) != users}
        self._taken_typing = {nid: self.typing.get(nid, ()) for nid in changed}
        self._note_typing(changed)
        return changed

    def _note_typing(self, told: Mapping[int, tuple[str, ...]]) -> None:
        for nid, users in told.items():
            if users:
                self.typing[nid] = users
            else:
                self.typing.pop(nid, None)

    def restore_moments(self) -> None:
        """What was taken last has not arrived."""
        for keys, taken in zip((self.devices, self.changed, self.left), self._taken, strict=True):
            keys.update(taken)
        self.presence |= self._taken_presence
        self.untold_typing.update(self._taken_typing)
        self._note_typing(self._taken_typing)
        self._forget_moments()

    def _forget_moments(self) -> None:
        self._taken, self._taken_presence, self._taken_typing = _NO_KEYS, frozenset(), {}

    def note(self, moments: set[int], nid: int) -> None:
        """Remember that a user, device or room is to be told of."""
        if len(moments) < MOMENTS_MOST:
            moments.add(nid)

    def progress(self) -> Progress:
        """What is stored."""
        return Progress(self.service.id, self.told, self.failures, self.retry_at_ms)
