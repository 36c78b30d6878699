"""Thumbnails: made on demand by a worker process, in a few sizes, and kept on the disk.

1. Decoders of pictures never run in this process.
2. Work is bounded: one picture at a time, a short queue, and what could not be made is not tried again soon.
3. Nobody gets a thumbnail that is larger than the picture.
spec: client-server-api#thumbnails
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from twisted.internet.defer import DeferredLock

from homeserver.http.errors import MatrixError, not_found, too_large
from homeserver.media.files import MediaFiles
from homeserver.media.pictures import Picture, PictureWorker
from homeserver.media.types import MediaFile, RunInThread
from homeserver.runtime.clock import Clock, DelayedCall
from homeserver.runtime.entropy import Entropy
from homeserver.runtime.log import Log

Method = Literal["crop", "scale"]

# spec: client-server-api#thumbnails (the sizes to have, and the next ones up, for dense screens)
SCALE_SIZES: Final = ((96, 96), (320, 240), (640, 480), (800, 600), (1600, 1200))
CROP_SIDES: Final = (32, 96, 320, 640, 1024)
MAX_SIDE: Final = 8192
MAX_WAITING: Final = 64
MAX_REMEMBERED: Final = 4096
IDLE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class ThumbnailSize:
    """What to make."""

    width: int
    height: int
    method: Method
    animated: bool

    @property
    def name(self) -> str:
        """The name among the thumbnails of one file. (What is made is never animated, so that does not count.)"""
        return f"{self.method}-{self.width}x{self.height}"


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A picture to send: bytes, or a file (``path``), of this type."""

    content_type: str
    variant: str
    path: Path | None = None
    data: bytes = b""


def next_size(width: int, height: int, method: Method, *, animated: bool) -> ThumbnailSize:
    """The smallest usual size that is not smaller than what was asked for; beyond these, exactly that."""
    if method == "scale":
        for usual_width, usual_height in SCALE_SIZES:
            if width <= usual_width and height <= usual_height:
                return ThumbnailSize(usual_width, usual_height, method, animated)
        return ThumbnailSize(min(width, MAX_SIDE), min(height, MAX_SIDE), method, animated)
    longest = max(width, height)
    side = next((usual for usual in CROP_SIDES if longest <= usual), min(longest, MAX_SIDE))
    # The shape is what was asked for.
    return ThumbnailSize(
        max(1, -(-width * side // longest)), max(1, -(-height * side // longest)), method, animated
    )


class Thumbnails:
    """Makes, keeps and finds thumbnails."""

    def __init__(
        self,
        files: MediaFiles,
        run_in_thread: RunInThread,
        clock: Clock,
        entropy: Entropy,
        log: Log,
        max_pixels: int,
    ) -> None:
        self._files = files
        self._run = run_in_thread
        self._clock = clock
        self._entropy = entropy
        self._log = log
        self._worker = PictureWorker(max_pixels)
        self._turn = DeferredLock()
        self._waiting = 0
        self._idle: DelayedCall | None = None
        # Of pictures that need no thumbnail, or can have none. Oldest first.
        self._known: dict[tuple[str, ThumbnailSize], Picture] = {}

    async def get(self, file: MediaFile, size: ThumbnailSize) -> Thumbnail:
        """The thumbnail of a file, or the file itself where it is small already."""
        if not file.content_type.lower().startswith("image/"):
            raise _unsupported()
        known = self._known.get((file.sha256, size))
        if known is None:
            found: Path | None = await self._run(self._files.find_thumbnail, file.sha256, size.name)
            if found is not None:
                return Thumbnail(f"image/{found.suffix[1:]}", size.name, found)
            known = await self._make(file, size)
        if known.verdict == "made":
            return Thumbnail(known.content_type, size.name, data=known.data)
        if known.verdict == "original":
            return Thumbnail(known.content_type, "", self._files.path_of(file.sha256))
        if known.verdict == "too_large":
            raise too_large("The picture is too large to make a thumbnail")
        if known.verdict == "lost":
            raise not_found("The file is lost")
        raise _unsupported()

    async def _make(self, file: MediaFile, size: ThumbnailSize) -> Picture:
        if self._waiting >= MAX_WAITING:
            raise MatrixError(
                429, "M_LIMIT_EXCEEDED", "Too many thumbnails are being made", headers=((b"Retry-After", b"5"),),
                retry_after_ms=5000,
            )  # fmt: skip
        self._waiting += 1
        try:
            await self._turn.acquire()
            try:
                return await self._make_in_turn(file, size)
            finally:
                self._turn.release()
        finally:
            self._waiting -= 1

    async def _make_in_turn(self, file: MediaFile, size: ThumbnailSize) -> Picture:
        key = (file.sha256, size)
        # Somebody before us in the queue may have wanted the same.
        if key in self._known:
            return self._known[key]
        found: Path | None = await self._run(self._files.find_thumbnail, file.sha256, size.name)
        if found is not None:
            data: bytes = await self._run(found.read_bytes)
            return Picture("made", f"image/{found.suffix[1:]}", data)
        self._stay()
        path = self._files.path_of(file.sha256)
        picture: Picture = await self._run(
            self._worker.make, path, size.width, size.height, size.method, animated=size.animated
        )
        self._stay()
        if picture.verdict == "made":
            await self._keep(file, size, picture)
        elif picture.verdict != "lost":
            self._remember(key, picture)
        return picture

    async def _keep(self, file: MediaFile, size: ThumbnailSize, picture: Picture) -> None:
        variant = f"{size.name}.{picture.content_type.removeprefix('image/')}"
        token = self._entropy.id(32)
        try:
            await self._run(self._files.keep_thumbnail, file.sha256, variant, token, picture.data)
        except OSError as error:
            # It can be sent all the same, and made again.
            self._log.warning("a thumbnail could not be kept", problem=str(error))

    def _remember(self, key: tuple[str, ThumbnailSize], picture: Picture) -> None:
        while len(self._known) >= MAX_REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[key] = picture

    # --- the process ---

    def _stay(self) -> None:
        """Let the process wait for more, but not for ever: it has a memory of its own."""
        if self._idle is not None and self._idle.active():
            self._idle.reset(IDLE_S)
        else:
            self._idle = self._clock.callLater(IDLE_S, self._rest)

    def _rest(self) -> None:
        if self._waiting:
            self._stay()
        else:
            self._worker.end()

    def stop(self) -> None:
        """No more thumbnails; whoever waits for one is told that it is lost."""
        if self._idle is not None and self._idle.active():
            self._idle.cancel()
        self._worker.close()
        if not self._waiting:
            self._worker.end()


def _unsupported() -> MatrixError:
    # spec: client-server-api#get_matrixclientv1mediathumbnailservernamemediaid (400)
    return MatrixError(400, "M_UNKNOWN", "There can be no thumbnail of this file")
