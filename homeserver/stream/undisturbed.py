"""What is kept in memory of the tables, and follows the log: a read that a change overtook must not be kept.

Whoever follows the log calls ``overtake`` for each change, and reads through ``read``; what it gives is current in any case
for who asked before the change came, and may be kept only if it says so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Readings(Generic[K]):
    """The reads on their way, by what they are of. Several of the same share a mark: the first one back uses it up."""

    def __init__(self) -> None:
        self._marks: dict[K, object] = {}

    async def read(self, key: K, reading: Awaitable[T]) -> tuple[T, bool]:
        """What a read gives, and whether it may be kept: nothing of its key changed since the first such read began."""
        mark = self._marks.setdefault(key, object())
        try:
            found = await reading
            return found, self._marks.get(key) is mark
        finally:
            if self._marks.get(key) is mark:
                del self._marks[key]

    def overtake(self, key: K) -> None:
        """Something of this changed: no read that is on its way is kept."""
        self._marks.pop(key, None)
