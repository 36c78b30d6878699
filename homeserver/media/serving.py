"""From a stored file to an HTTP answer: headers, ranges, conditions, and the bytes piece by piece.

spec: client-server-api#serving-inline-content
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import BinaryIO, Final
from urllib.parse import quote

from homeserver.http.errors import MatrixError
from homeserver.http.outgoing import INLINE_BODY_BYTES
from homeserver.http.request import Request
from homeserver.http.response import Response
from homeserver.media.files import open_file, read_piece
from homeserver.media.multipart import head_of, tail_of
from homeserver.media.types import Holding, RunInThread

PIECE_BYTES: Final = 262_144

# spec: client-server-api#serving-inline-content
INLINE_TYPES: Final = frozenset(
    [
        *("text/css", "text/plain", "text/csv", "application/json", "application/ld+json"),
        *("image/jpeg", "image/gif", "image/png", "image/apng", "image/webp", "image/avif"),
        *("video/mp4", "video/webm", "video/ogg", "video/quicktime"),
        *("audio/mp4", "audio/webm", "audio/aac", "audio/mpeg", "audio/ogg", "audio/wave", "audio/wav"),
        *("audio/x-wav", "audio/x-pn-wav", "audio/flac", "audio/x-flac"),
    ]
)

# spec: client-server-api#content-repository (the recommended policy)
_POLICY: Final = (
    b"sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; "
    b"style-src 'unsafe-inline'; object-src 'self';"
)
_SAFE_HEADERS: Final = (
    (b"Content-Security-Policy", _POLICY),
    (b"Cross-Origin-Resource-Policy", b"cross-origin"),
    # Whatever a file claims to be, a browser is not to guess that it is something else.
    (b"X-Content-Type-Options", b"nosniff"),
)
PRIVATE_CACHE: Final = b"private, max-age=86400, immutable"
PUBLIC_CACHE: Final = b"public, max-age=86400, immutable"

# Names that every client reads alike between quotes; a percent sign or a backslash is read in two ways.
_PLAIN_NAME = re.compile(r"[A-Za-z0-9 !#$&'()+,.:;<=>?@\[\]^_`{|}~-]*")
_RANGE = re.compile(rb"bytes[ \t]*=[ \t]*([0-9]{0,18})[ \t]*-[ \t]*([0-9]{0,18})[ \t]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Served:
    """What is to be sent, and how it is called: a file or, without one, ``data``."""

    file: Holding | None
    size: int | None
    """None: as large as the file is."""
    content_type: str
    disposition: bytes
    etag: bytes
    cache: bytes
    data: bytes = b""


class FileBody(AsyncIterator[bytes]):
    """A part of a file, read by threads; the next piece is read when the edge asks, so a slow client costs one."""

    __slots__ = ("_file", "_left", "_lock", "_offset", "_run")

    def __init__(self, run_in_thread: RunInThread, file: BinaryIO, offset: int, length: int) -> None:
        self._run = run_in_thread
        self._file = file
        self._offset = offset
        self._left = length
        # A client that goes away must not have the file closed under a thread that reads it: the descriptor's
        # number may belong to a socket by then.
        self._lock = Lock()

    async def __anext__(self) -> bytes:
        if self._left <= 0:
            raise StopAsyncIteration
        piece: bytes = await self._run(self._read, self._offset, min(self._left, PIECE_BYTES))
        if not piece:
            raise StopAsyncIteration
        self._offset += len(piece)
        self._left -= len(piece)
        return piece

    async def aclose(self) -> None:
        """Also of a body that nobody has begun to read."""
        self._left = 0
        await self._run(self._close)

    def _read(self, offset: int, length: int) -> bytes:
        with self._lock:
            return b"" if self._file.closed else read_piece(self._file, offset, length)

    def _close(self) -> None:
        with self._lock:
            self._file.close()


class PartsBody(AsyncIterator[bytes]):
    """A file between what must stand around it."""

    __slots__ = ("_after", "_before", "_file")

    def __init__(self, before: bytes, file: FileBody, after: bytes) -> None:
        self._before = before
        self._file = file
        self._after = after

    async def __anext__(self) -> bytes:
        if self._before:
            piece, self._before = self._before, b""
            return piece
        try:
            return await self._file.__anext__()
        except StopAsyncIteration:
            if not self._after:
                raise
        piece, self._after = self._after, b""
        return piece

    async def aclose(self) -> None:
        """Also of a body that nobody has begun to read."""
        self._after = b""
        await self._file.aclose()


async def serve_parts(served: Served, run_in_thread: RunInThread, boundary: str) -> Response:
    """The answer to a server. Raises FileNotFoundError where the file is gone."""
    content_type = b"multipart/mixed; boundary=" + boundary.encode("ascii")
    before, after = head_of(boundary, served.content_type, served.disposition), tail_of(boundary)
    if served.file is None:
        return Response(200, before + served.data + after, content_type=content_type)
    async with served.file() as path:
        size: int = await run_in_thread(_size_of, path) if served.size is None else served.size
        if size <= INLINE_BODY_BYTES:
            body = await run_in_thread(_read_small, path, 0, size)
            return Response(200, before + body + after, content_type=content_type)
        file = await run_in_thread(open_file, path)
    parts = PartsBody(before, FileBody(run_in_thread, file, 0, size), after)
    return Response(200, parts, content_type=content_type, length=len(before) + size + len(after))


async def serve(request: Request, served: Served, run_in_thread: RunInThread) -> Response:
    """The answer to a GET. Raises FileNotFoundError where the file is gone."""
    headers = [
        (b"ETag", served.etag),
        (b"Cache-Control", served.cache),
        (b"Accept-Ranges", b"bytes"),
        *_SAFE_HEADERS,
        (b"Content-Disposition", served.disposition),
    ]
    condition = request.headers.get(b"if-none-match")
    if condition is not None and matches_etag(condition, served.etag):
        return Response(304, b"", headers, content_type=None)
    content_type = served.content_type.encode("ascii")
    if served.file is None:
        status, offset, length = _part(request, served, len(served.data), headers)
        return Response(status, served.data[offset : offset + length], headers, content_type=content_type)
    async with served.file() as path:
        size: int = await run_in_thread(_size_of, path) if served.size is None else served.size
        status, offset, length = _part(request, served, size, headers)
        if length <= INLINE_BODY_BYTES:
            body = await run_in_thread(_read_small, path, offset, length)
            return Response(status, body, headers, content_type=content_type)
        # An open file stays readable when its name goes.
        file = await run_in_thread(open_file, path)
    stream = FileBody(run_in_thread, file, offset, length)
    return Response(status, stream, headers, content_type=content_type, length=length)


def _part(
    request: Request, served: Served, size: int, headers: list[tuple[bytes, bytes]]
) -> tuple[int, int, int]:
    """Status, offset and length of what is sent; adds the header that says so."""
    part = wanted_range(request, served.etag, size)
    if part is None:
        return 200, 0, size
    offset, length = part
    headers.append((b"Content-Range", b"bytes %d-%d/%d" % (offset, offset + length - 1, size)))
    return 206, offset, length


def _size_of(path: Path) -> int:
    return path.stat().st_size


def _read_small(path: Path, offset: int, length: int) -> bytes:
    with open_file(path) as file:
        return read_piece(file, offset, length)


def disposition(content_type: str, file_name: str | None) -> bytes:
    """Content-Disposition: shown in the page only where that is harmless."""
    essence = content_type.partition(";")[0].strip().lower()
    kind = "inline" if essence in INLINE_TYPES else "attachment"
    if not file_name:
        return kind.encode("ascii")
    if _PLAIN_NAME.fullmatch(file_name) is not None:
        return f'{kind}; filename="{file_name}"'.encode("ascii")
    return f"{kind}; filename*=utf-8''{quote(file_name, safe='')}".encode("ascii")


def matches_etag(condition: bytes, etag: bytes) -> bool:
    """If-None-Match: any of the list, compared weakly."""
    listed = [one.strip().removeprefix(b"W/") for one in condition.split(b",")]
    return etag in listed or b"*" in listed


def wanted_range(request: Request, etag: bytes, size: int) -> tuple[int, int] | None:
    """Offset and length of a single range; None for the whole, also where several are asked for."""
    header = request.headers.get(b"range")
    if header is None:
        return None
    condition = request.headers.get(b"if-range")
    if condition is not None and condition.strip() != etag:
        return None
    found = _RANGE.fullmatch(header.strip())
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        # The last so many bytes.
        length = min(int(found[2]), size)
        start, end = size - length, size - 1
    else:
        start = int(found[1])
        end = min(int(found[2]), size - 1) if found[2] else size - 1
        if found[2] and int(found[2]) < start:
            return None
    if start >= size or end < start:
        whole = b"bytes */%d" % size
        raise MatrixError(
            416, "M_UNKNOWN", "The file has no such range", headers=((b"Content-Range", whole),)
        )
    return start, end - start + 1
