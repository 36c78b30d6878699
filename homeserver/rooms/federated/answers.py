"""What other servers were told about their transactions, for when one comes again.

Of most there is nothing to store: that every event was taken is what they are told once more when the same events come
again, and nothing comes of that. What else an answer says (``store/staging.py``) is in the tables for a day. Here is all
of it for the same time, as far as memory allows: who asks again does so soon.
"""

from __future__ import annotations

from federation.ids import ServerName
from homeserver.runtime.clock import Clock
from homeserver.store.cache import ByteLru
from homeserver.stream.chores import TRANSACTIONS_KEPT_S

# LIMIT(memory: some thousands of answers)
_BUDGET_BYTES = 2 * 1024 * 1024
_ENTRY_BYTES = 500


class RecentAnswers:
    """Answers by origin and transaction id."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: ByteLru[tuple[ServerName, str], tuple[float, str]] = ByteLru(
            _BUDGET_BYTES, lambda found: _ENTRY_BYTES + len(found[1])
        )

    def find(self, origin: ServerName, txn_id: str) -> str | None:
        """What a transaction was answered, if that is remembered."""
        found = self._known.get((origin, txn_id))
        return (
            found[1]
            if found is not None and found[0] > self._clock.monotonic() - TRANSACTIONS_KEPT_S
            else None
        )

    def note(self, origin: ServerName, txn_id: str, answer: str) -> None:
        """All that a transaction brought is stored, and this is the answer."""
        self._known.put((origin, txn_id), (self._clock.monotonic(), answer))
