"""Where files are for good: the seam between the content repository and a folder, a bucket, or what may come.

1. A file has the name of its SHA-256. `finish` and `store` give the name out when the file is there to stay.
2. Whoever wants the bytes holds the file: a path on this machine, good for as long as the block runs.
3. What goes wrong is an OSError: FileNotFoundError where the file is lost, others where it cannot be had now.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

from homeserver.media.coming import Coming
from homeserver.media.files import MediaFiles, Spool
from homeserver.media.types import RunInThread
from homeserver.runtime.clock import Clock

TOKEN_LENGTH = 32


class MediaStore(Protocol):
    """See the module."""

    async def begin(self) -> Spool:
        """A file that is to come; whoever got it finishes or discards it."""

    async def finish(self, spool: Spool) -> str:
        """All has come; the file's name."""

    async def store(self, pieces: Sequence[bytes]) -> str:
        """A whole file in one go; its name."""

    def hold(self, name: str, size: int | None) -> AbstractAsyncContextManager[Path]:
        """The file on this machine. The path may turn out to lead nowhere when it is opened: then the file is lost."""

    def follow(self, name: str, size: int | None) -> AbstractAsyncContextManager[Coming | None]:
        """A file that is still on its way to this machine, to be opened inside the block; None: `hold` has it at once."""

    # --- thumbnails: made again when lost ---

    async def find_thumbnail(self, name: str, variant: str) -> Path | None:
        """A thumbnail that was made before; ``variant`` is without the ending."""

    def hold_thumbnail(self, name: str, path: Path) -> AbstractAsyncContextManager[Path]:
        """For one that was found just now."""

    async def keep_thumbnail(self, name: str, variant: str, data: bytes) -> bool:
        """Keep one, unless its size is invented and the file has many of these already; whether it was kept."""

    # --- the sweep ---

    async def shelves(self) -> list[str]:
        """The first two digits of all names there may be."""

    async def older_than(self, shelf: str, before_s: float) -> list[str]:
        """The names on a shelf of what was put there before then."""

    async def remove(self, names: Sequence[str], before_s: float) -> int:
        """Remove files that are still from before then, with their thumbnails; how many files went."""

    async def remove_abandoned(self, before_s: float) -> int:
        """Remove what began to come in before then and never arrived."""

    async def prepare(self) -> None:
        """At the start of the server, which does not wait for it: whether files can be kept. Raises OSError."""

    def stop(self) -> None:
        """Break off what is under way."""


class FolderStore:
    """A folder of this machine."""

    def __init__(
        self, files: MediaFiles, run_in_thread: RunInThread, clock: Clock, new_id: Callable[[int], str]
    ) -> None:
        self.files = files
        self._run = run_in_thread
        self._clock = clock
        self._new_id = new_id

    async def begin(self) -> Spool:
        """See MediaStore."""
        spool: Spool = await self._run(self.files.begin, self._new_id(TOKEN_LENGTH))
        return spool

    async def finish(self, spool: Spool) -> str:
        """See MediaStore."""
        name: str = await self._run(self.files.finish, spool, self._clock.seconds())
        return name

    async def store(self, pieces: Sequence[bytes]) -> str:
        """See MediaStore: one trip to a thread."""
        token = self._new_id(TOKEN_LENGTH)
        name: str = await self._run(self.files.store, token, pieces, self._clock.seconds())
        return name

    @asynccontextmanager
    async def hold(self, name: str, size: int | None) -> AsyncIterator[Path]:  # noqa: ARG002
        """See MediaStore. Only the sweep removes files, and none that an address leads to."""
        yield self.files.path_of(name)

    @asynccontextmanager
    async def follow(self, name: str, size: int | None) -> AsyncIterator[Coming | None]:  # noqa: ARG002
        """See MediaStore."""
        yield None

    async def find_thumbnail(self, name: str, variant: str) -> Path | None:
        """See MediaStore."""
        found: Path | None = await self._run(self.files.find_thumbnail, name, variant)
        return found

    @asynccontextmanager
    async def hold_thumbnail(self, name: str, path: Path) -> AsyncIterator[Path]:  # noqa: ARG002
        """See MediaStore."""
        yield path

    async def keep_thumbnail(self, name: str, variant: str, data: bytes) -> bool:
        """See MediaStore."""
        token = self._new_id(TOKEN_LENGTH)
        kept: bool = await self._run(self.files.keep_thumbnail, name, variant, token, data)
        return kept

    async def shelves(self) -> list[str]:
        """See MediaStore."""
        found: list[str] = await self._run(self.files.shelves)
        return found

    async def older_than(self, shelf: str, before_s: float) -> list[str]:
        """See MediaStore."""
        found: list[str] = await self._run(self.files.older_than, shelf, before_s)
        return found

    async def remove(self, names: Sequence[str], before_s: float) -> int:
        """See MediaStore."""
        removed: int = await self._run(self.files.remove, names, before_s)
        return removed

    async def remove_abandoned(self, before_s: float) -> int:
        """See MediaStore."""
        removed: int = await self._run(self.files.remove_abandoned, before_s)
        return removed

    async def prepare(self) -> None:
        """See MediaStore: the first file shows it."""

    def stop(self) -> None:
        """See MediaStore: whatever a thread has begun it ends."""
