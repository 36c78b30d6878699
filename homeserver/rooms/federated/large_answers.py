"""Answers that hold whole rooms: how much of them is in memory at a time, all joins together.

One answer may be half a gigabyte, and anybody may join rooms of servers that send as much to exhaust memory. Beyond half
of the budget only answers of the usual size go on: so a few large ones do not keep everybody else from joining.
"""

from __future__ import annotations

from collections.abc import Hashable

from homeserver.http.transport import AnswerTooLarge

BUDGET = 1024 * 1024 * 1024
USUAL = 64 * 1024 * 1024


class LargeAnswers:
    """Counts what is held for each purpose; ``release`` when it is over."""

    def __init__(self, budget: int = BUDGET, usual: int = USUAL) -> None:
        self._budget = budget
        self._usual = usual
        self._held: dict[Hashable, int] = {}
        self.bytes = 0

    def begin(self, purpose: Hashable) -> Body:
        """A body that is to arrive; what was held for this purpose before is over."""
        self.release(purpose)
        return Body(self, purpose)

    def take(self, purpose: Hashable, size: int) -> None:
        """Count more of it; raises ``AnswerTooLarge`` where there is no room."""
        held = self._held.get(purpose, 0) + size
        total = self.bytes + size
        if total > self._budget or (held > self._usual and total > self._budget // 2):
            raise AnswerTooLarge("too much of large rooms is in memory")
        self._held[purpose] = held
        self.bytes = total

    def release(self, purpose: Hashable) -> None:
        """Nothing of it is in memory any more."""
        self.bytes -= self._held.pop(purpose, 0)


class Body:
    """One body as it comes in; ``receive`` is for ``PeerClient.ask_raw``."""

    def __init__(self, answers: LargeAnswers, purpose: Hashable) -> None:
        self._answers = answers
        self._purpose = purpose
        self._parts: list[bytes] = []
        self.size = 0  # of what has come

    def receive(self, data: bytes) -> None:
        """The next piece."""
        self._answers.take(self._purpose, len(data))
        self._parts.append(data)
        self.size += len(data)

    def whole(self) -> bytes:
        """All of it, once."""
        parts, self._parts = self._parts, []
        return b"".join(parts)
