"""Claims of one-time keys that come at the same time are one unit of work: so they take some statements, not some each.

Whatever is claimed before a transaction begins is in it. A key is given out when it is stored that it is gone.

# spec: client-server-api#one-time-and-fallback-keys
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from homeserver.store.key_claims import Claimed, Wanted, claim_keys
from homeserver.store.work import GatheringWorker

# Keys that are taken at a time: nobody else waits for the rest of a large request.
AT_ONCE = 200

Answer = list[Claimed | None]


@dataclass(frozen=True, slots=True)
class _Claim:
    """What somebody wants, and waits for."""

    wanted: Sequence[Wanted]
    result: Deferred[Answer]


class ClaimDesk:
    """Gathers claims for the writer."""

    def __init__(self, worker: GatheringWorker) -> None:
        self._worker = worker
        self._waiting: deque[_Claim] = deque()
        self._asked = False  # a transaction will take of those that wait
        self._left = False  # the one that has begun did not take all

    async def take(self, wanted: Sequence[Wanted]) -> Answer:
        """A key for each that has one, in the same order."""
        found: Answer = []
        for start in range(0, len(wanted), AT_ONCE):
            found += await self._take_some(wanted[start : start + AT_ONCE])
        return found

    def _take_some(self, wanted: Sequence[Wanted]) -> Deferred[Answer]:
        claim = _Claim(wanted, Deferred())
        self._waiting.append(claim)
        if not self._asked:
            self._ask()
        return claim.result

    def _ask(self) -> None:
        self._asked = True
        batch: list[_Claim] = []
        working = self._worker.work_on(partial(self._gather, batch), claim_keys)
        working.addBoth(self._answer, batch)

    def _gather(self, batch: list[_Claim]) -> list[Wanted]:
        """The transaction begins: what is to be in it. What is too much is asked for again when it is over."""
        found: list[Wanted] = []
        while self._waiting and (not batch or len(found) + len(self._waiting[0].wanted) <= AT_ONCE):
            batch.append(self._waiting.popleft())
            found += batch[-1].wanted
        self._asked = self._left = bool(self._waiting)
        return found

    def _answer(self, outcome: Answer | Failure, batch: list[_Claim]) -> None:
        if isinstance(outcome, Failure) and not batch:
            # It failed before it began: so did those who would have been in it, or they would wait for ever.
            self._gather(batch)
        if self._left:
            self._left = False
            self._ask()
        start = 0
        for claim in batch:
            if isinstance(outcome, Failure):
                claim.result.errback(outcome)
            else:
                claim.result.callback(outcome[start : start + len(claim.wanted)])
            start += len(claim.wanted)
