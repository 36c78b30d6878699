"""UploadStream: the body of a streamed request, between the connection that receives it and the handler that reads it.

The connection feeds it and is held back above the high-water mark; the handler takes chunks. The contract is
that of `request.BodyStream`; media uploads use it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from twisted.internet.defer import Deferred

from homeserver.http.errors import ClientGone


class UploadStream:
    """One reader, one writer. Errors (too large, too slow, client gone) reach the reader as exceptions."""

    __slots__ = (
        "_broken",
        "_chunks",
        "_error",
        "_finished",
        "_high_water",
        "_on_demand",
        "_waiting",
        "buffered",
    )

    def __init__(self, high_water: int, on_demand: Callable[[], None]) -> None:
        self._high_water = high_water
        # Called whenever the reader has made room or asks for the first time (100 Continue).
        self._on_demand = on_demand
        self._chunks: list[bytes] = []
        self._finished = False
        self._broken = False
        self._error: Exception | None = None
        self._waiting: Deferred[None] | None = None
        self.buffered = 0

    @property
    def is_full(self) -> bool:
        return self.buffered >= self._high_water

    @property
    def is_complete(self) -> bool:
        """Whether everything has arrived (or nothing more will)."""
        return self._finished or self._broken

    async def read_chunk(self) -> bytes | None:
        """The next bytes, or None at the end."""
        while not self._chunks:
            if self._broken:
                self._raise()
            if self._finished:
                return None
            if self._waiting is not None:
                raise RuntimeError("two readers of one upload")
            self._waiting = Deferred()
            self._on_demand()
            try:
                await self._waiting
            finally:
                self._waiting = None
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self.buffered = 0
        self._on_demand()
        return data

    def _raise(self) -> NoReturn:
        """Without keeping the exception, whose traceback leads back here: such a cycle waits for the collector."""
        try:
            raise self._error or ClientGone
        finally:
            self._error = None

    def feed(self, data: bytes) -> None:
        self._chunks.append(data)
        self.buffered += len(data)
        self._wake()

    def finish(self) -> None:
        self._finished = True
        self._wake()

    def fail(self, error: Exception) -> None:
        """Nothing more will come; what was buffered is dropped, for no reader wants half a file."""
        if self.is_complete:
            return
        self._error = error
        self._broken = True
        self._chunks.clear()
        self.buffered = 0
        self._wake()

    def _wake(self) -> None:
        waiting = self._waiting
        if waiting is not None and not waiting.called:
            waiting.callback(None)
