"""Files in a bucket, with a folder in front of it for those that are used.

1. The bucket is the truth: a name is given out when the bucket has the file. What the folder has, the bucket has too, so
   the folder may be emptied at any time.
2. What comes from the bucket is in its place only when it is whole and has the hash that is its name. Who goes along
   behind it gets the last piece of an answer no sooner (``coming.py``).
3. A file is fetched once at a time; a few go up and a few come down at once, and a bounded number waits.
4. One server to a prefix: the sweep of another one would remove what it knows nothing of. A note in the bucket says
   whose it is, and nothing is stored or removed where it is somebody else's.
5. Nobody puts a file while the sweep removes the same one: each name has one turn at a time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from twisted.internet.defer import Deferred, DeferredLock
from twisted.python.failure import Failure

from homeserver.media.at_hand import AtHand, Entry
from homeserver.media.bucket import Bucket, BucketError, NoAnswerError
from homeserver.media.coming import Coming
from homeserver.media.files import Spool
from homeserver.media.inflow import Inflow
from homeserver.media.storage import FolderStore
from homeserver.media.types import RunInThread
from homeserver.runtime.clock import Clock
from homeserver.runtime.log import Log
from homeserver.runtime.shared import Busy, Shared
from homeserver.runtime.slots import Full, Slots

OWNER_KEY: Final = "chaos-owner"
AT_ONCE: Final = 16
AT_ONCE_EACH_WAY: Final = 8
WAITING: Final = 500
# After no answer nobody else waits for one, for so long.
GIVEN_UP_S: Final = 5.0
MAX_BYTES: Final = 64 * 1024**3
_SHELVES: Final = tuple(f"{number:02x}" for number in range(256))


class BucketStore:
    """See the module."""

    def __init__(
        self,
        server_name: str,
        bucket: Bucket,
        cache: FolderStore,
        cache_bytes: int,
        run_in_thread: RunInThread,
        clock: Clock,
        log: Log,
    ) -> None:
        self._server_name = server_name
        self._bucket = bucket
        self._cache = cache
        self._at_hand = AtHand(cache_bytes)
        self._is_counted = False
        self._counting = DeferredLock()
        self._run = run_in_thread
        self._clock = clock
        self._log = log
        self._is_ours = False
        self._given_up_until_s = 0.0
        self._slots = Slots(AT_ONCE, AT_ONCE_EACH_WAY, WAITING)
        self._coming: dict[str, Coming] = {}
        self._fetches: Shared[str, None] = Shared(clock, most_running=AT_ONCE + WAITING)
        self._turns: dict[Entry, DeferredLock] = {}

    def stop(self) -> None:
        """See MediaStore."""
        self._fetches.stop()

    # --- in ---

    async def begin(self) -> Spool:
        """See MediaStore."""
        return await self._cache.begin()

    async def store(self, pieces: Sequence[bytes]) -> str:
        """See MediaStore."""
        spool = await self.begin()
        try:
            await self._run(spool.write, pieces)
            return await self.finish(spool)
        except BaseException:
            # Also when nobody waits any more, so there is nothing to wait for here either.
            self._run(spool.discard).addErrback(self._not_removed)
            raise

    async def finish(self, spool: Spool) -> str:
        """See MediaStore: into the bucket, then into the folder, where it is wanted soon."""
        name: str = await self._run(spool.close, self._clock.seconds())
        async with self._turn(name), self._going("up"):
            await self.prepare()
            await self._bucket.put(name, spool.path, spool.size)
            await self._run(self._cache.files.place, spool, name)
            self._at_hand.note((name, False), spool.size)
        await self._make_room()
        return name

    async def prepare(self) -> None:
        """See MediaStore: makes the bucket ours, or sees that it is. Raises OSError."""
        if self._is_ours:
            return
        owner = await self._bucket.get_note(OWNER_KEY)
        if owner is None:
            await self._bucket.put_note(OWNER_KEY, self._server_name)
        elif owner != self._server_name:
            raise BucketError(
                f"bucket {self._bucket.place}: {owner[:255]!r} keeps its media there; take another prefix"
            )
        self._is_ours = True

    # --- out ---

    @asynccontextmanager
    async def hold(self, name: str, size: int | None) -> AsyncIterator[Path]:
        """See MediaStore."""
        async with self.follow(name, size) as coming:
            if coming is not None:
                await coming.whole()
            self._at_hand.touch((name, False))
            yield self._cache.files.path_of(name)

    @asynccontextmanager
    async def follow(self, name: str, size: int | None) -> AsyncIterator[Coming | None]:
        """See MediaStore."""
        await self._count()
        entry, path = (name, False), self._cache.files.path_of(name)
        with self._at_hand.using(entry):
            is_here = entry in self._at_hand and await self._run(path.is_file)
            yield None if is_here else self._come(name, size)
        await self._make_room()

    def _come(self, name: str, size: int | None) -> Coming:
        """The file on its way, which begins here unless it is under way."""
        known = self._coming.get(name)
        if known is not None:
            return known
        coming = self._coming[name] = Coming(self._cache.files.path_of(name))

        def end(outcome: Failure | None) -> None:
            del self._coming[name]
            coming.end(outcome)

        try:
            self._fetches.get(name, lambda: self._fetch(name, size, coming)).addBoth(end)
        except Busy:
            del self._coming[name]
            raise BucketError("too many files are being fetched from the bucket") from None
        return coming

    async def _fetch(self, name: str, size: int | None, coming: Coming) -> None:
        async with self._turn(name), self._going("down"):
            most = MAX_BYTES if size is None else size
            inflow = Inflow(self._cache, self._run, most, coming.note)
            try:
                await self._bucket.get(name, most, inflow.write)
                found = await inflow.finish()
            except BaseException:
                # Also when the server stops: nothing to wait for then.
                Deferred.fromCoroutine(inflow.discard()).addErrback(self._not_removed)
                raise
            self._at_hand.note((found, False), inflow.size)
        await self._make_room()
        if found != name:
            raise BucketError(f"bucket {self._bucket.place}: what it has as {name} is something else")

    def _not_removed(self, failure: Failure) -> None:
        self._log.warning("a file could not be removed from the folder", problem=str(failure.value))

    @asynccontextmanager
    async def _going(self, way: str) -> AsyncIterator[None]:
        """A place at the bucket. Where it did not answer a moment ago, nobody waits for it."""
        try:
            async with self._slots.place(way):
                if self._clock.monotonic() < self._given_up_until_s:
                    raise BucketError(f"bucket {self._bucket.place} did not answer a moment ago")
                try:
                    yield
                except NoAnswerError:
                    self._given_up_until_s = self._clock.monotonic() + GIVEN_UP_S
                    raise
        except Full:
            raise BucketError("too much goes to the bucket and comes from it") from None

    @asynccontextmanager
    async def _turn(self, name: str, *, thumbnails: bool = False) -> AsyncIterator[None]:
        entry = (name, thumbnails)
        lock = self._turns.setdefault(entry, DeferredLock())
        await lock.acquire()
        try:
            yield
        finally:
            lock.release()
            if not lock.locked and self._turns.get(entry) is lock:
                del self._turns[entry]

    # --- the folder ---

    async def _count(self) -> None:
        """What an earlier process left in the folder; once."""
        if self._is_counted:
            return
        async with self._counting:
            if not self._is_counted:
                found = await self._run(self._cache.files.inventory)
                self._at_hand.found(((name, thumbs), size) for _, name, size, thumbs in found)
                self._is_counted = True

    async def _make_room(self) -> None:
        """Nobody waits for what goes: it may have to wait for its turn itself."""
        await self._count()
        for name, thumbnails in self._at_hand.take_surplus():
            Deferred.fromCoroutine(self._drop(name, thumbnails=thumbnails)).addErrback(self._not_removed)

    async def _drop(self, name: str, *, thumbnails: bool) -> None:
        async with self._turn(name, thumbnails=thumbnails):
            # It may have come back, or somebody waits for just that.
            if (name, thumbnails) not in self._at_hand:
                await self._run(self._cache.files.drop, name, thumbnails=thumbnails)

    # --- thumbnails: in the folder alone, since they are made again ---

    async def find_thumbnail(self, name: str, variant: str) -> Path | None:
        """See MediaStore."""
        await self._count()
        # It stays while a thread looks, and who is told where it is holds it without waiting for anything else.
        with self._at_hand.using((name, True)):
            async with self._turn(name, thumbnails=True):
                # What is about to go is not there any more.
                if (name, True) not in self._at_hand:
                    return None
                found = await self._cache.find_thumbnail(name, variant)
            self._at_hand.touch((name, True))
        return found

    @asynccontextmanager
    async def hold_thumbnail(self, name: str, path: Path) -> AsyncIterator[Path]:
        """See MediaStore."""
        with self._at_hand.using((name, True)):
            yield path

    async def keep_thumbnail(self, name: str, variant: str, data: bytes) -> bool:
        """See MediaStore."""
        await self._count()
        async with self._turn(name, thumbnails=True):
            kept = await self._cache.keep_thumbnail(name, variant, data)
            if kept:
                self._at_hand.grow((name, True), len(data))
        await self._make_room()
        return kept

    # --- the sweep ---

    async def shelves(self) -> list[str]:
        """See MediaStore."""
        return list(_SHELVES)

    async def older_than(self, shelf: str, before_s: float) -> list[str]:
        """See MediaStore: in the bucket, and what the folder has without it."""
        names = set(await self._cache.older_than(shelf, before_s))
        async for name, modified_s in self._bucket.names(shelf):
            if modified_s < before_s:
                names.add(name)
        return sorted(names)

    async def remove(self, names: Sequence[str], before_s: float) -> int:
        """See MediaStore."""
        await self.prepare()
        removed = 0
        for name in names:
            async with self._turn(name):
                modified_s = await self._bucket.modified_s(name)
                if modified_s is not None:
                    if modified_s >= before_s:
                        continue
                    await self._bucket.remove(name)
                    removed += 1
                self._at_hand.forget((name, False))
                await self._run(self._cache.files.drop, name, thumbnails=False)
            async with self._turn(name, thumbnails=True):
                self._at_hand.forget((name, True))
                await self._run(self._cache.files.drop, name, thumbnails=True)
        return removed

    async def remove_abandoned(self, before_s: float) -> int:
        """See MediaStore."""
        return await self._cache.remove_abandoned(before_s)
