"""Chores: small work that comes back by the clock, such as forgetting what is over.

A chore that raises is logged and done again when it is due next. Chores run one after the other, so that house-keeping
never takes more than one place in the queue of the writer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from twisted.internet.defer import Deferred

from homeserver.runtime.clock import Clock, DelayedCall
from homeserver.runtime.log import Log
from homeserver.store.changes import trim_changes
from homeserver.store.delayed import sweep_delayed
from homeserver.store.key_backups import sweep_keys
from homeserver.store.sliding import sweep_connections
from homeserver.store.staging import sweep_answers
from homeserver.store.sweep import sweep_transactions
from homeserver.store.to_device import sweep_ids
from homeserver.store.work import Worker

TRIM_EVERY_S = 60.0
# Readers of another process look into the log for what they have not seen; these are minutes of a busy server.
CHANGES_KEPT = 100_000
SWEEP_EVERY_S = 600.0
SWEEP_AT_ONCE = 5_000
# A client that retries does so within minutes; a day also covers a phone that was off.
TRANSACTIONS_KEPT_S = 24 * 3600.0
# A client that comes after so long begins anew.
CONNECTIONS_KEPT_S = 30 * 24 * 3600.0
# So long clients are told how a delayed event has ended.
DELAYED_KEPT_S = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Chore:
    """What is to be done, and how often."""

    name: str
    every_s: float
    run: Callable[[], Awaitable[object]]


class Chores:
    """Does chores when they are due."""

    def __init__(self, clock: Clock, log: Log) -> None:
        self._clock = clock
        self._log = log
        self._chores: list[Chore] = []
        self._due: list[float] = []  # monotonic seconds, parallel to ``_chores``
        self._timer: DelayedCall | None = None
        self._running: Deferred[None] | None = None
        self._stopped = False

    def start(self, chores: Sequence[Chore]) -> None:
        """Begin; the first round comes after one interval."""
        now_s = self._clock.monotonic()
        self._chores += chores
        self._due += [now_s + chore.every_s for chore in chores]
        self._set_timer()

    async def stop(self) -> None:
        """Do no more; wait for the one that is being done."""
        self._stopped = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._running is not None:
            await self._running

    def _set_timer(self) -> None:
        if self._due and not self._stopped:
            self._timer = self._clock.callLater(min(self._due) - self._clock.monotonic(), self._begin)

    def _begin(self) -> None:
        self._timer = None
        self._running = Deferred.fromCoroutine(self._round())

    async def _round(self) -> None:
        now_s = self._clock.monotonic()
        for number, chore in enumerate(self._chores):
            if self._due[number] > now_s or self._stopped:
                continue
            self._due[number] = now_s + chore.every_s
            try:
                await chore.run()
            except Exception as error:  # noqa: BLE001 (a chore that fails must not end the others)
                self._log.error("chore failed", chore=chore.name, exc_info=error)
        self._running = None
        self._set_timer()


def standard_chores(worker: Worker, clock: Clock) -> list[Chore]:
    """What every server does: keep the log short, forget old transaction ids."""

    async def trim() -> None:
        await worker.work(trim_changes, CHANGES_KEPT)

    async def sweep() -> None:
        before_ts_ms = clock.now_ms() - int(TRANSACTIONS_KEPT_S * 1000)
        for unit in (sweep_transactions, sweep_answers, sweep_ids):
            while await worker.work(unit, before_ts_ms, SWEEP_AT_ONCE) == SWEEP_AT_ONCE:
                pass

    async def sweep_backups() -> None:
        while await worker.work(sweep_keys, SWEEP_AT_ONCE):
            pass

    async def sweep_sliding() -> None:
        before_ts_ms = clock.now_ms() - int(CONNECTIONS_KEPT_S * 1000)
        while await worker.work(sweep_connections, before_ts_ms, SWEEP_AT_ONCE) == SWEEP_AT_ONCE:
            pass

    async def sweep_ended() -> None:
        await worker.work(sweep_delayed, clock.now_ms() - int(DELAYED_KEPT_S * 1000))

    return [
        Chore("trim the log", TRIM_EVERY_S, trim),
        Chore("forget connections of sliding sync", SWEEP_EVERY_S, sweep_sliding),
        Chore("forget transaction ids", SWEEP_EVERY_S, sweep),
        Chore("forget delayed events that have ended", SWEEP_EVERY_S, sweep_ended),
        Chore("take away dropped key backups", SWEEP_EVERY_S, sweep_backups),
    ]
