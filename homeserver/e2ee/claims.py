"""Claims of one-time keys that come at the same time are one unit of work: so they take some statements, not some each.

While one unit is being written, the next is gathered. A key is given out when it is stored that it is gone.

# spec: client-server-api#one-time-and-fallback-keys
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from homeserver.store.key_claims import Claimed, Wanted, claim_keys
from homeserver.store.work import Worker

# Keys that are taken at a time: nobody else waits for the rest of a large request.
AT_ONCE = 200

Answer = list[Claimed | None]


class ClaimDesk:
    """Gathers claims for the writer."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._waiting: deque[tuple[Sequence[Wanted], Deferred[Answer]]] = deque()
        self._busy = False

    async def take(self, wanted: Sequence[Wanted]) -> Answer:
        """A key for each that has one, in the same order."""
        found: Answer = []
        for start in range(0, len(wanted), AT_ONCE):
            found += await self._take_some(wanted[start : start + AT_ONCE])
        return found

    def _take_some(self, wanted: Sequence[Wanted]) -> Deferred[Answer]:
        result: Deferred[Answer] = Deferred()
        self._waiting.append((wanted, result))
        if not self._busy:
            self._begin()
        return result

    def _begin(self) -> None:
        self._busy = True
        batch: list[tuple[Sequence[Wanted], Deferred[Answer]]] = []
        count = 0
        while self._waiting and (not batch or count + len(self._waiting[0][0]) <= AT_ONCE):
            batch.append(self._waiting.popleft())
            count += len(batch[-1][0])
        working = self._worker.work(claim_keys, [one for wanted, _ in batch for one in wanted])
        working.addBoth(self._finish, batch)

    def _finish(
        self, outcome: Answer | Failure, batch: Sequence[tuple[Sequence[Wanted], Deferred[Answer]]]
    ) -> None:
        self._busy = False
        if self._waiting:
            self._begin()
        start = 0
        for wanted, result in batch:
            if isinstance(outcome, Failure):
                result.errback(outcome)
            else:
                result.callback(outcome[start : start + len(wanted)])
            start += len(wanted)
