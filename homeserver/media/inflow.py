"""A file that another server sends, on its way to the disk.

The network does not wait for the disk: what has come and is not written yet is held in memory, and bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from homeserver.media.files import Spool
from homeserver.media.multipart import TooLongError
from homeserver.media.storage import MediaStore
from homeserver.media.types import RunInThread

PIECE_BYTES: Final = 262_144
# LIMIT(a disk that is slower than the network for longer than this cannot take the file)
MAX_HELD_BYTES: Final = 16 * 1024 * 1024


class DiskTooSlowError(OSError):
    """More came than can be held."""


class Inflow:
    """One file. ``write`` takes bytes at any time; ``finish`` or ``discard`` ends it."""

    def __init__(
        self,
        storage: MediaStore,
        run_in_thread: RunInThread,
        max_bytes: int,
        written: Callable[[Spool], None] = lambda _: None,
    ) -> None:
        self._storage = storage
        self._written = written  # told of the file whenever more of it is on the disk
        self._run = run_in_thread
        self._max_bytes = max_bytes
        self.size = 0
        self._pieces: list[bytes] = []
        self._held = 0
        self._spool: Spool | None = None
        self._busy = False
        self._writing: Deferred[None] | None = None
        self._problem: Failure | None = None
        self._discarded = False

    def write(self, data: bytes) -> None:
        """More of the file. Raises TooLongError, or OSError where the disk does not take it."""
        if self._problem is not None:
            self._problem.raiseException()
        self.size += len(data)
        if self.size > self._max_bytes:
            raise TooLongError
        self._pieces.append(data)
        self._held += len(data)
        if self._held > MAX_HELD_BYTES:
            raise DiskTooSlowError("The disk is slower than the network")
        if self._held >= PIECE_BYTES and not self._busy:
            self._busy = True
            self._writing = Deferred.fromCoroutine(self._write())
            self._writing.addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        self._problem = failure

    async def _write(self) -> None:
        """What is held, until less is held than is worth a trip to a thread."""
        try:
            while self._held >= PIECE_BYTES and not self._discarded:
                await self._write_held()
        finally:
            self._busy = False

    async def _write_held(self) -> None:
        if self._spool is None:
            spool = await self._storage.begin()
            if self._discarded:
                await self._run(spool.discard)
                return
            self._spool = spool
        pieces, self._pieces, self._held = self._pieces, [], 0
        await self._run(self._spool.write, pieces)
        self._written(self._spool)

    async def finish(self) -> str:
        """All has come: see to it that it stays; the file's name."""
        if self._busy and self._writing is not None:
            await self._writing
        if self._problem is not None:
            self._problem.raiseException()
        if self._spool is None:
            name = await self._storage.store(self._pieces)
        else:
            await self._write_held()
            name = await self._storage.finish(self._spool)
        self._pieces = []
        return name

    async def discard(self) -> None:
        """Nobody wants it. May be called again, and after ``finish``."""
        self._discarded = True
        self._pieces = []
        if self._busy and self._writing is not None:
            await self._writing
        if self._spool is not None:
            await self._run(self._spool.discard)
