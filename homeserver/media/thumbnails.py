"""Thumbnails: made on demand by a worker process, in a few sizes, and kept on the disk.

1. Decoders of pictures never run in this process.
2. Work is bounded: one picture at a time, a short queue, and what could not be made is not tried again soon.
3. Nobody gets a thumbnail that is larger than the picture.
spec: client-server-api#thumbnails
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from twisted.internet.defer import Deferred, DeferredLock
from twisted.python.failure import Failure

from homeserver.http.errors import MatrixError, limit_exceeded, too_large
from homeserver.media.pictures import Picture, PictureWorker
from homeserver.media.storage import MediaStore
from homeserver.media.types import CROP_SIDES, SCALE_SIZES, MediaFile, RunInThread, thumbnail_name
from homeserver.runtime.clock import Clock, DelayedCall
from homeserver.runtime.log import Log

Method = Literal["crop", "scale"]

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
        """The name among the thumbnails of one file."""
        return thumbnail_name(self.method, self.width, self.height, animated=self.animated)

    @property
    def effort(self) -> tuple[bool, bool]:
        """What fails for one size fails for all of the same effort; a large or moving one may fail alone."""
        return max(self.width, self.height) > SCALE_SIZES[-1][0], self.animated


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A picture to send, of this type: bytes, or a file (``path``), or the file itself that is asked about."""

    content_type: str
    variant: str
    path: Path | None = None
    data: bytes = b""
    is_original: bool = False


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
        storage: MediaStore,
        run_in_thread: RunInThread,
        clock: Clock,
        log: Log,
        max_pixels: int,
    ) -> None:
        self._storage = storage
        self._run = run_in_thread
        self._clock = clock
        self._log = log
        self._worker = PictureWorker(max_pixels)
        self._turn = DeferredLock()
        self._wanted: dict[tuple[str, ThumbnailSize], list[Deferred[Picture]]] = {}
        self._idle: DelayedCall | None = None
        # Of pictures that need no thumbnail in a size, or can have none in any: there are thousands of sizes, and a
        # failure may take long. Oldest first.
        self._known: dict[tuple[str, ThumbnailSize | tuple[bool, bool]], Picture] = {}

    async def get(self, file: MediaFile, size: ThumbnailSize) -> Thumbnail:
        """The thumbnail of a file, or the file itself where it is small already; FileNotFoundError where that is lost."""
        if not file.content_type.lower().startswith("image/"):
            raise _unsupported()
        known = self._known_of(file, size)
        if known is None:
            found = await self._storage.find_thumbnail(file.sha256, size.name)
            if found is not None:
                return Thumbnail(f"image/{found.suffix[1:]}", size.name, found)
            known = await self._make(file, size)
        if known.verdict == "made":
            return Thumbnail(known.content_type, size.name, data=known.data)
        if known.verdict == "original":
            return Thumbnail(known.content_type, "", is_original=True)
        if known.verdict == "too_large":
            raise too_large("The picture is too large to make a thumbnail")
        if known.verdict == "lost":
            raise FileNotFoundError(file.sha256)
        if known.verdict == "stopped":
            raise MatrixError(503, "M_UNKNOWN", "Thumbnails cannot be made at the moment")
        raise _unsupported()

    async def measure(self, name: str, size: int) -> tuple[str, int, int] | None:
        """Type, width and height of a file that is a picture which can be opened. Callers bound how many wait."""
        async with self._storage.hold(name, size) as path:
            await self._turn.acquire()
            try:
                self._stay()
                picture: Picture = await self._run(self._worker.make, path, 0, 0, "measure", animated=False)
            finally:
                self._turn.release()
        if picture.verdict != "measured":
            return None
        return picture.content_type, picture.width, picture.height

    def _make(self, file: MediaFile, size: ThumbnailSize) -> Deferred[Picture]:
        """Wait for a thumbnail that is being made, or will be. Whoever stops waiting does not stop the work: a
        thread cannot be called back, and the next job must not meet this one at the worker."""
        key = (file.sha256, size)
        waiter: Deferred[Picture] = Deferred()
        if key in self._wanted:
            self._wanted[key].append(waiter)
            return waiter
        if len(self._wanted) >= MAX_WAITING:
            raise _too_many()
        waiters = self._wanted[key] = [waiter]
        work = Deferred.fromCoroutine(self._make_in_turn(file, size, waiters))

        def tell(result: Picture | Failure) -> None:
            del self._wanted[key]
            for one in waiters:
                if not one.called:
                    one.callback(result)

        work.addBoth(tell)
        return waiter

    async def _make_in_turn(
        self, file: MediaFile, size: ThumbnailSize, waiters: Sequence[Deferred[Picture]]
    ) -> Picture:
        try:
            # Before the turn: it may have to come from afar, and others are at hand.
            async with self._storage.hold(file.sha256, file.size) as path:
                await self._turn.acquire()
                try:
                    picture = await self._work(path, file, size, waiters)
                finally:
                    self._turn.release()
        except FileNotFoundError:
            return Picture("lost")
        except OSError as error:
            self._log.error("a picture cannot be read", problem=str(error))
            return Picture("stopped")
        if picture.verdict == "made":
            await self._keep(file, size, picture)
        return picture

    async def _work(
        self, path: Path, file: MediaFile, size: ThumbnailSize, waiters: Sequence[Deferred[Picture]]
    ) -> Picture:
        if all(one.called for one in waiters):
            # Everybody has gone meanwhile.
            return Picture("stopped")
        known = self._known_of(file, size)
        if known is not None:
            # Found out meanwhile, for another size.
            return known
        self._stay()
        try:
            picture: Picture = await self._run(
                self._worker.make, path, size.width, size.height, size.method, animated=size.animated
            )
        except OSError as error:
            self._log.error("the worker for thumbnails cannot be started", problem=str(error))
            return Picture("stopped")
        # Within the turn: the next job may be for the same file.
        self._remember(file, size, picture)
        return picture

    async def _keep(self, file: MediaFile, size: ThumbnailSize, picture: Picture) -> None:
        variant = f"{size.name}.{picture.content_type.removeprefix('image/')}"
        try:
            await self._storage.keep_thumbnail(file.sha256, variant, picture.data)
        except OSError as error:
            # It can be sent all the same, and made again.
            self._log.warning("a thumbnail could not be kept", problem=str(error))

    def _known_of(self, file: MediaFile, size: ThumbnailSize) -> Picture | None:
        return self._known.get((file.sha256, size.effort)) or self._known.get((file.sha256, size))

    def _remember(self, file: MediaFile, size: ThumbnailSize, picture: Picture) -> None:
        if picture.verdict in ("made", "lost", "stopped"):
            return
        while len(self._known) >= MAX_REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[file.sha256, size if picture.verdict == "original" else size.effort] = picture

    # --- the process ---

    def _stay(self) -> None:
        """Let the process wait for more, but not for ever: it has a memory of its own."""
        if self._idle is not None and self._idle.active():
            self._idle.reset(IDLE_S)
        else:
            self._idle = self._clock.callLater(IDLE_S, self._rest)

    def _rest(self) -> None:
        if self._wanted:
            self._stay()
        else:
            self._worker.end()

    def stop(self) -> None:
        """No more thumbnails; whoever waits for one is told so."""
        if self._idle is not None and self._idle.active():
            self._idle.cancel()
        self._worker.close()
        if not self._wanted:
            self._worker.end()


def _too_many() -> MatrixError:
    error = limit_exceeded(5000)
    error.error = "Too many thumbnails are being made"
    return error


def _unsupported() -> MatrixError:
    # spec: client-server-api#get_matrixclientv1mediathumbnailservernamemediaid (400)
    return MatrixError(400, "M_UNKNOWN", "There can be no thumbnail of this file")
