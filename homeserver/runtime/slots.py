"""A bounded number of things at once, and of those for one and the same server: a slow one must not hold up all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from twisted.internet.defer import Deferred


class Full(Exception):  # noqa: N818 (a fact, and nobody's error)
    """As many wait already as may."""


class Slots:
    """Places by name. First come, first served, except that a name with all of its places taken is passed over."""

    def __init__(
        self, places: int, places_each: int, most_waiting: int, most_waiting_each: int | None = None
    ) -> None:
        self._places = places
        self._places_each = places_each
        self._most_waiting = most_waiting
        self._most_waiting_each = most_waiting if most_waiting_each is None else most_waiting_each
        self._taken: dict[str, int] = {}
        self._in_all = 0
        self._waiting: list[tuple[str, Deferred[None]]] = []
        self._freed = False
        self._handing_on = False

    @asynccontextmanager
    async def place(self, name: str) -> AsyncIterator[None]:
        """A place for as long as the block runs. Raises Full."""
        await self.take(name)
        try:
            yield
        finally:
            self.release(name)

    async def take(self, name: str) -> None:
        """A place until ``release``, where no block lasts as long as it is needed. Raises Full."""
        if not self._take(name):
            of_name = sum(1 for one, _ in self._waiting if one == name)
            if len(self._waiting) >= self._most_waiting or of_name >= self._most_waiting_each:
                raise Full
            await self._wait(name)

    def _take(self, name: str) -> bool:
        if self._in_all >= self._places or self._taken.get(name, 0) >= self._places_each:
            return False
        self._taken[name] = self._taken.get(name, 0) + 1
        self._in_all += 1
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

    def release(self, name: str) -> None:
        """Give a place back."""
        self._in_all -= 1
        self._taken[name] -= 1
        if not self._taken[name]:
            del self._taken[name]
        self._freed = True
        if self._handing_on:
            return  # in the middle of it: as many as end at once would be the depth of the stack
        self._handing_on = True
        try:
            while self._freed:
                self._freed = False
                self._hand_on()
        finally:
            self._handing_on = False

    def _hand_on(self) -> None:
        for one in list(self._waiting):
            if self._in_all >= self._places:
                return
            if not one[1].called and self._take(one[0]):
                self._waiting.remove(one)
                one[1].callback(None)
