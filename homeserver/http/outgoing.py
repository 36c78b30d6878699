"""Bodies on their way out: how long they are, and their pieces."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from twisted.internet.defer import Deferred

from homeserver.http.response import FileRange, Response

INLINE_BODY_BYTES: Final = 131_072
"""Up to here a body is written at once; above, what the socket has no room for goes piece by piece, so that a slow reader
costs one piece of memory in the transport and its progress can be seen."""
PIECE_BYTES: Final = 65_536


def body_length(response: Response) -> int | None:
    """The length that the head can promise, or None."""
    body = response.body
    if isinstance(body, bytes):
        return len(body)
    if isinstance(body, FileRange):
        return body.length
    return response.length


async def chunks_of(response: Response) -> AsyncIterator[bytes]:
    """The body's pieces, whatever it is."""
    body = response.body
    if isinstance(body, bytes):
        for start in range(0, len(body), PIECE_BYTES):
            yield body[start : start + PIECE_BYTES]
    elif isinstance(body, FileRange):
        body.file.seek(body.offset)
        left = body.length
        while left > 0:
            piece = body.file.read(min(left, PIECE_BYTES))
            if not piece:
                return
            left -= len(piece)
            yield piece
    else:
        async for piece in body:
            yield piece


def close_body(response: Response) -> None:
    """Release what a body holds, sent or not. May be called again."""
    body = response.body
    if isinstance(body, bytes):
        return
    if isinstance(body, FileRange):
        body.file.close()
        return
    close = getattr(body, "aclose", None)
    if close is not None:
        Deferred.fromCoroutine(_close_iterator(close)).addErrback(lambda _: None)


async def _close_iterator(close: object) -> None:
    if callable(close):
        await close()
