"""SimDatabase: real SQLite in memory, each unit of work at a drawn later moment, with drawn faults.

A unit runs whole at one moment and its Deferred fires at a later one, so every interleaving that threads could bring
about happens without threads. Faults: a statement fails, the commit fails, the commit succeeds and its answer is lost.
A crash may also lose commits that nobody was told of and nobody has read since (images by ``serialize``).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from homeserver.db.engine import SqliteEngine, SqliteSession
from homeserver.db.errors import DatabaseUnavailable
from tests.sim.clock import LifeClock
from tests.sim.draws import Draws

_FAIL_WITHIN = 24


class Faults:
    """How often what goes wrong, in percent."""

    def __init__(self, write_percent: int = 0, read_percent: int = 0, slow_ms: int = 4) -> None:
        self.write_percent = write_percent
        self.read_percent = read_percent
        self.slow_ms = slow_ms
        self.crashes_to_come = 0


class SimDatabase:
    """A ``Database`` of one life of a server."""

    dialect = "sqlite"
    answers_later = True

    def __init__(
        self, engine: SqliteEngine, clock: LifeClock, draws: Draws, faults: Faults, note: Callable[..., None]
    ) -> None:
        self.engine = engine
        self._session: Any = engine.writer()
        self._clock = clock
        self._draws = draws
        self._faults = faults
        self._note = note
        self._last_run_s = self._last_told_s = 0.0
        # What the database was before the oldest commit that nobody knows of yet.
        self._images: list[tuple[object, bytes]] = []

    def stop(self) -> None:
        """Nothing to close: the database outlives its servers."""

    # --- the two calls -------------------------------------------------------------------------------

    def read(self, unit: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Deferred[Any]:
        """Run a unit that only reads."""
        result: Deferred[Any] = Deferred()
        fails = self._draws.chance(self._faults.read_percent)
        told_after_s = self._draws.delay_s(self._faults.slow_ms)

        def run() -> None:
            self._images.clear()  # what was read cannot be lost any more
            outcome = self._run(unit, args, kwargs, 0 if fails else -1)
            self._clock.callLater(told_after_s, _tell, result, outcome)

        self._clock.callLater(self._draws.delay_s(self._faults.slow_ms), run)
        return result

    def write(self, unit: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Deferred[Any]:
        """Run a unit in a transaction; units run, and are answered, in the order of the calls."""
        return self._write(unit, args, kwargs, at_once=False)

    def write_short(self, unit: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Deferred[Any]:
        """As the threads do it: sometimes the caller runs it, and hears of it later all the same."""
        idle = self._last_run_s <= self._clock.seconds()
        return self._write(unit, args, kwargs, at_once=idle and self._draws.chance(50))

    def _write(self, unit: Callable[..., Any], args: Any, kwargs: Any, *, at_once: bool) -> Deferred[Any]:
        result: Deferred[Any] = Deferred()
        now_s = self._clock.seconds()
        self._last_run_s = max(now_s + self._draws.delay_s(self._faults.slow_ms), self._last_run_s)
        fault = self._draws.pick(("statement", "commit", "answer")) if self._fails() else ""
        fail_at = self._draws.below(_FAIL_WITHIN) if fault == "statement" else -1
        told_after_s = self._draws.delay_s(self._faults.slow_ms)

        def run() -> None:
            token = object()
            if self._faults.crashes_to_come > 0:
                self._images.append((token, self._session.connection().serialize()))
            outcome = self._run(unit, args, kwargs, fail_at, commit_fails=fault == "commit")
            if fault == "answer" and not isinstance(outcome, Failure):
                outcome = Failure(DatabaseUnavailable("the answer to the commit was lost (simulated)"))
            if fault:
                self._note("database fault", fault, isinstance(outcome, Failure))
            self._last_told_s = max(self._clock.seconds() + told_after_s, self._last_told_s)
            self._clock.callLater(
                self._last_told_s - self._clock.seconds(), self._tell_write, token, result, outcome
            )

        if at_once:
            run()
        else:
            self._clock.callLater(self._last_run_s - now_s, run)
        return result

    def _fails(self) -> bool:
        return self._draws.chance(self._faults.write_percent)

    def _run(
        self, unit: Callable[..., Any], args: Any, kwargs: Any, fail_at: int, *, commit_fails: bool = False
    ) -> Any:
        count = 0

        def hook(sql: str) -> None:
            nonlocal count
            if count == fail_at or (commit_fails and sql == "COMMIT"):
                raise sqlite3.OperationalError("disk I/O error (simulated)")
            count += 1

        self.engine.hook = hook
        try:
            return self._session.run(unit, *args, **kwargs)
        except Exception:  # noqa: BLE001 (whoever waits gets it)
            return Failure()
        finally:
            self.engine.hook = None

    def _tell_write(self, token: object, result: Deferred[Any], outcome: Any) -> None:
        # Told of one is told of all before it: their commits lie below.
        places = [number for number, (one, _) in enumerate(self._images) if one is token]
        if places:
            del self._images[: places[0] + 1]
        _tell(result, outcome)

    # --- crashes -------------------------------------------------------------------------------------

    def crash(self) -> SqliteEngine:
        """The engine that the next life finds: this one's, or one from before commits that nobody knew of."""
        if self._images and self._draws.chance(50):
            self._note("commits lost", len(self._images))
            return engine_from(self._images[0][1])
        return self.engine


def engine_from(image: bytes) -> SqliteEngine:
    """A database in memory from an image."""
    engine = SqliteEngine(None)
    session = engine.writer()
    assert isinstance(session, SqliteSession)
    session.connection().deserialize(image)
    return engine


def _tell(result: Deferred[Any], outcome: Any) -> None:
    if isinstance(outcome, Failure):
        result.errback(outcome)
    else:
        result.callback(outcome)
