"""Memory for immutable facts by their number: least recently used out first, bounded by bytes.

Only what can never change may be kept here (architecture, section 8), so nothing is ever invalidated. Reader threads
and the reactor share these caches; one lock guards each, held for a dict operation.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from threading import Lock
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class ByteLru(Generic[K, V]):
    """A mapping that forgets. ``size(value)`` estimates the bytes that a value holds."""

    def __init__(self, budget: int, size: Callable[[V], int]) -> None:
        self.budget = budget
        self.bytes = 0
        self.hits = 0
        self.misses = 0
        self._size = size
        self._values: dict[K, V] = {}
        self._lock = Lock()

    def get(self, key: K) -> V | None:
        """The value, now the most recently used."""
        with self._lock:
            value = self._values.pop(key, None)
            if value is None:
                self.misses += 1
                return None
            self._values[key] = value
            self.hits += 1
            return value

    def get_many(self, keys: Iterable[K]) -> list[V | None]:
        """The values of some keys, in order, under one lock."""
        values = self._values
        found: list[V | None] = []
        with self._lock:
            for key in keys:
                value = values.pop(key, None)
                if value is None:
                    self.misses += 1
                else:
                    values[key] = value
                    self.hits += 1
                found.append(value)
        return found

    def put(self, key: K, value: V) -> None:
        """Keep a value; the oldest go where it does not fit."""
        with self._lock:
            old = self._values.pop(key, None)
            if old is not None:
                self.bytes -= self._size(old)
            self._values[key] = value
            self.bytes += self._size(value)
            while self.bytes > self.budget and self._values:
                oldest = next(iter(self._values))
                self.bytes -= self._size(self._values.pop(oldest))

    def drop(self, key: K) -> None:
        """Forget one (a purge, never an update)."""
        with self._lock:
            value = self._values.pop(key, None)
            if value is not None:
                self.bytes -= self._size(value)

    def __len__(self) -> int:
        return len(self._values)
