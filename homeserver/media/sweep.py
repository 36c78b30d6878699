"""The sweep: files that no address leads to, uploads that broke off, addresses whose files never came, and files of
other servers at which nobody has looked for long.

A file is there before its row (see ``homeserver.media.repo``), so a young file without a row is no orphan; a day is
longer than any upload may take between the two.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred

from homeserver.db.threads import Database
from homeserver.media.storage import MediaStore
from homeserver.runtime.clock import Clock, DelayedCall
from homeserver.runtime.log import Log
from homeserver.store import media as store
from homeserver.store.previews import drop_old_previews
from homeserver.store.work import Worker

FIRST_AFTER_S = 600.0
EVERY_S = 86_400.0
ORPHAN_AGE_S = 86_400.0
DROPPED_AT_ONCE = 1_000


class Sweeper:
    """Once a day, shelf by shelf, so that nobody notices."""

    def __init__(
        self,
        database: Database,
        worker: Worker,
        storage: MediaStore,
        clock: Clock,
        log: Log,
        remote_retention_s: Callable[[], int],
    ) -> None:
        self._database = database
        self._worker = worker
        self._storage = storage
        self._clock = clock
        self._log = log
        self._remote_retention_s = remote_retention_s
        self._timer: DelayedCall | None = None
        self._running: Deferred[None] | None = None

    def begin(self) -> None:
        """Sweep from now on."""
        self._timer = self._clock.callLater(FIRST_AFTER_S, self._start)

    def stop(self) -> None:
        """Not any more."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if self._running is not None:
            self._running.cancel()

    def _start(self) -> None:
        self._timer = self._clock.callLater(EVERY_S, self._start)
        if self._running is None:
            running = self._running = Deferred.fromCoroutine(self._sweep_and_tell())
            running.addBoth(self._ended)

    def _ended(self, _: object) -> None:
        self._running = None

    async def _sweep_and_tell(self) -> None:
        try:
            removed = await self.sweep()
        except CancelledError:
            return
        except Exception as error:  # noqa: BLE001 (nobody else would hear of it; tomorrow there is another sweep)
            self._log.error("the sweep of media failed", exc_info=error)
            return
        if removed:
            self._log.info("media without an address removed", files=removed)

    async def sweep(self) -> int:
        """One round; how many files went."""
        before_s = self._clock.seconds() - ORPHAN_AGE_S
        await self._worker.work(store.drop_expired, self._clock.now_ms())
        await self._worker.work(drop_old_previews, self._clock.now_ms(), DROPPED_AT_ONCE)
        await self._drop_remote()
        removed = await self._storage.remove_abandoned(before_s)
        for shelf in await self._storage.shelves():
            old = await self._storage.older_than(shelf, before_s)
            if not old:
                continue
            used = await self._database.read(store.find_used, old)
            orphans = [name for name in old if name not in used]
            if orphans:
                removed += await self._storage.remove(orphans, before_s)
        return removed

    async def _drop_remote(self) -> None:
        """Forget the addresses; the files go as orphans, at once unless they are another address's too."""
        before_ts_ms = self._clock.now_ms() - self._remote_retention_s() * 1000
        while (
            await self._worker.work(store.drop_old_remote, before_ts_ms, DROPPED_AT_ONCE) == DROPPED_AT_ONCE
        ):
            pass
