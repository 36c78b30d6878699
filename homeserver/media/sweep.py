"""The sweep: files that no address leads to, uploads that broke off, addresses whose files never came.

A file is there before its row (see ``homeserver.media.repo``), so a young file without a row is no orphan; a day is
longer than any upload may take between the two.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred

from homeserver.db.threads import Database
from homeserver.media.files import MediaFiles
from homeserver.media.types import RunInThread
from homeserver.runtime.clock import Clock, DelayedCall
from homeserver.runtime.log import Log
from homeserver.store import media as store
from homeserver.store.work import Worker

FIRST_AFTER_S = 600.0
EVERY_S = 86_400.0
ORPHAN_AGE_S = 86_400.0


class Sweeper:
    """Once a day, shelf by shelf, so that nobody notices."""

    def __init__(
        self,
        database: Database,
        worker: Worker,
        files: MediaFiles,
        run_in_thread: RunInThread,
        clock: Clock,
        log: Log,
    ) -> None:
        self._database = database
        self._worker = worker
        self._files = files
        self._run = run_in_thread
        self._clock = clock
        self._log = log
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
        removed: int = await self._run(self._files.remove_abandoned, before_s)
        for shelf in await self._run(self._files.shelves):
            old = await self._run(self._files.older_than, shelf, before_s)
            if not old:
                continue
            used = await self._database.read(store.find_used, old)
            orphans = [name for name in old if name not in used]
            if orphans:
                removed += await self._run(self._files.remove, orphans, before_s)
        return removed
