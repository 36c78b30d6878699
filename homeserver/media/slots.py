"""A bounded number of things at once, and of those for one and the same server: a slow one must not hold up all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from twisted.internet.defer import Deferred


class Full(Exception):  # noqa: N818 (a fact, and nobody's error)
    """As many wait already as may."""


class Slots:
    """Places by name. First come, first served, except that a name with all of its places taken is passed over."""

    def __init__(self, places: int, places_each: int, most_waiting: int) -> None:
        self._places = places
        self._places_each = places_each
        self._most_waiting = most_waiting
        self._taken: dict[str, int] = {}
        self._waiting: list[tuple[str, Deferred[None]]] = []

    @asynccontextmanager
    async def place(self, name: str) -> AsyncIterator[None]:
        """A place for as long as the block runs. Raises Full."""
        if not self._take(name):
            if len(self._waiting) >= self._most_waiting:
                raise Full
            await self._wait(name)
        try:
            yield
        finally:
            self._release(name)

    def _take(self, name: str) -> bool:
        if sum(self._taken.values()) >= self._places or self._taken.get(name, 0) >= self._places_each:
            return False
        self._taken[name] = self._taken.get(name, 0) + 1
        return True

    async def _wait(self, name: str) -> None:
        waiting: Deferred[None] = Deferred()
        one = (name, waiting)
        self._waiting.append(one)
        try:
            await waiting
        finally:
            if one in self._waiting:
                self._waiting.remove(one)

    def _release(self, name: str) -> None:
        self._taken[name] -= 1
        if not self._taken[name]:
            del self._taken[name]
        for one in list(self._waiting):
            if self._take(one[0]):
                self._waiting.remove(one)
                one[1].callback(None)
                return
