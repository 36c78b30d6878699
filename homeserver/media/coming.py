"""A file on its way into a folder: readers go along behind it, and each is told when there is more.

1. What a reader sees before the end may be anything. So the last piece of an answer waits for ``whole``: who has all of
   an answer has the file that it should be, and to everybody else it has broken off.
2. Readers hold nobody up: what comes is written at its own pace, and each reads it back at theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import BinaryIO

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from homeserver.media.files import Spool, open_file


class Coming:
    """See the module. ``path``: where the file will be when it is whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._spool: Spool | None = None
        self._size = 0
        self._is_whole = False
        self._problem: Failure | None = None
        self._waiting: list[tuple[int | None, Deferred[None]]] = []

    # --- for whoever brings it ---

    def note(self, spool: Spool) -> None:
        """More was written."""
        self._spool, self._size = spool, spool.size
        self._release()

    def end(self, problem: Failure | None) -> None:
        """It is whole and what it should be, or it will not be."""
        self._is_whole, self._problem = problem is None, problem
        self._release()

    def _release(self) -> None:
        waiting, self._waiting = self._waiting, []
        for upto, one in waiting:
            if one.called:
                continue  # who waited has gone
            if self._problem is not None:
                one.errback(self._problem)
            elif self._has(upto):
                one.callback(None)
            else:
                self._waiting.append((upto, one))

    def _has(self, upto: int | None) -> bool:
        return self._is_whole or (upto is not None and self._size >= upto)

    # --- for readers ---

    async def reach(self, upto: int) -> None:
        """Wait until so many bytes of it can be read. Raises what it came to grief by (OSError)."""
        await self._until(upto)

    async def whole(self) -> None:
        """Wait until all is there and has been checked. Raises what it came to grief by (OSError)."""
        await self._until(None)

    async def _until(self, upto: int | None) -> None:
        if self._problem is not None:
            self._problem.raiseException()
        if not self._has(upto):
            waiting: Deferred[None] = Deferred()
            self._waiting.append((upto, waiting))
            await waiting

    def open(self) -> BinaryIO:
        """The file, wherever it has got to. Blocks; an open file stays readable when it moves or goes."""
        if self._spool is not None and not self._is_whole:
            try:
                return open_file(self._spool.path)
            except FileNotFoundError:
                pass  # it has moved to its place just now
        return open_file(self._path)


Following = Callable[[], AbstractAsyncContextManager[Coming | None]]
"""A file while it comes; None: it is on this machine already. Raises OSError."""
