"""From a stored file to an HTTP answer: headers, ranges, conditions, and the bytes piece by piece.

spec: client-server-api#serving-inline-content
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import BinaryIO, Final
from urllib.parse import quote

from homeserver.http.errors import MatrixError
from homeserver.http.outgoing import INLINE_BODY_BYTES
from homeserver.http.request import Request
from homeserver.http.response import BrokenOff, Response
from homeserver.media.coming import Coming, Following
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
    follow: Following | None = None
    """The file while it comes, where it may have to come first."""
    lost: Callable[[OSError], None] = lambda _: None
    """Told why there is no more of a file that had begun to come."""


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


class FollowingBody(FileBody):
    """The same of a file that is still coming: the last piece waits until it is whole, and what it should be."""

    __slots__ = ("_coming", "_lost")

    def __init__(
        self,
        run_in_thread: RunInThread,
        file: BinaryIO,
        part: tuple[int, int],
        coming: Coming,
        lost: Callable[[OSError], None],
    ) -> None:
        super().__init__(run_in_thread, file, *part)
        self._coming = coming
        self._lost = lost  # told why there will be no more

    async def __anext__(self) -> bytes:
        try:
            if self._left > PIECE_BYTES:
                await self._coming.reach(self._offset + PIECE_BYTES)
            elif self._left > 0:
                await self._coming.whole()
        except OSError as error:
            self._lost(error)
            raise BrokenOff from None
        return await super().__anext__()


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
    opened = await _open(served, served.file, run_in_thread, lambda _: None)
    body, length = opened.body, len(before) + opened.length + len(after)
    if isinstance(body, bytes):
        return Response(200, before + body + after, content_type=content_type)
    return Response(200, PartsBody(before, body, after), content_type=content_type, length=length)


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

    def part(size: int) -> tuple[int, int] | None:
        return wanted_range(request, served.etag, size)

    if served.file is None:
        size = len(served.data)
        found = part(size)
        offset, length = found or (0, size)
        opened = Opened(served.data[offset : offset + length], size, found, length)
    else:
        opened = await _open(served, served.file, run_in_thread, part)
    status = 200
    if opened.part is not None:
        status, (offset, length) = 206, opened.part
        headers.append((b"Content-Range", b"bytes %d-%d/%d" % (offset, offset + length - 1, opened.size)))
    if isinstance(opened.body, bytes):
        return Response(status, opened.body, headers, content_type=content_type)
    return Response(status, opened.body, headers, content_type=content_type, length=opened.length)


@dataclass(frozen=True, slots=True)
class Opened:
    """What of a file is sent. ``part``: offset and length where it is not all of it."""

    body: bytes | FileBody
    size: int
    part: tuple[int, int] | None
    length: int


async def _open(
    served: Served, file: Holding, run_in_thread: RunInThread, part: Callable[[int], tuple[int, int] | None]
) -> Opened:
    """A file, or the part of it that is wanted. Raises FileNotFoundError where it is gone."""
    if served.size is not None and served.follow is not None:
        found = part(served.size)
        offset, length = found or (0, served.size)
        # What fits into the last piece has to wait for all of the file anyway.
        if length > PIECE_BYTES:
            async with served.follow() as coming:
                if coming is not None:
                    await coming.reach(offset + PIECE_BYTES)
                    try:
                        opened = await run_in_thread(coming.open)
                    except FileNotFoundError:
                        await (
                            coming.whole()
                        )  # raises why it was taken away, where that is why it is not there
                        raise
                    body = FollowingBody(run_in_thread, opened, (offset, length), coming, served.lost)
                    return Opened(body, served.size, found, length)
    async with file() as path:
        size: int = await run_in_thread(_size_of, path) if served.size is None else served.size
        found = part(size)
        offset, length = found or (0, size)
        if length <= INLINE_BODY_BYTES:
            data: bytes = await run_in_thread(_read_small, path, offset, length)
            return Opened(data, size, found, length)
        # An open file stays readable when its name goes.
        stream = FileBody(run_in_thread, await run_in_thread(open_file, path), offset, length)
        return Opened(stream, size, found, length)


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
