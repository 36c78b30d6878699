"""Which thread runs a unit of work.

One dedicated thread writes; a few read. The API is two calls that return Deferreds, one hop for each unit of work:
there are no Deferreds below this line and no SQL above it. ``InlineDatabase`` runs everything at once in the calling
thread, for tests, commands and the simulator.

Contracts:
1. ``write`` units run one after the other in the order of the calls.
2. A Deferred fires in the reactor thread, after the commit.
3. ``stop`` runs what was accepted, then refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

from homeserver.db.engine import Checkpointer, Engine, Session
from homeserver.db.errors import DatabaseUnavailable
from homeserver.db.tx import Tx

P = ParamSpec("P")
T = TypeVar("T")

_CHECKPOINT_S = 1.0
_STOPPING = "the server is stopping"
# How long the reactor's thread stands still for the statements of a short unit, at most; one that takes longer is made
# again by the writer's thread. A slow disk or a large database is the reason then, so that many more go there at once.
STANDSTILL_S = 0.005
RESPITE = 50

_Unit = tuple[Callable[..., Any], tuple[Any, ...], "Deferred[Any]"]


class Database(Protocol):
    """Units of work over one database."""

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""

    @property
    def answers_later(self) -> bool:
        """Whether a unit goes on beside its caller. Where it does not, it is over when it was begun."""

    def read(
        self, unit: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]:
        """Run a unit that only reads, on one snapshot of the database."""

    def write(
        self, unit: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]:
        """Run a unit in a transaction of its own. Only the committer calls this: others hand it their work."""

    def write_short(
        self, unit: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]:
        """As ``write``, for a unit of few statements: the caller may be made to run them, which costs less than to hand them over."""

    def stop(self) -> None:
        """Finish what was accepted and close the connections."""


class InlineDatabase:
    """Everything at once, in the calling thread."""

    answers_later = False

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._writer = engine.writer()
        self._reader = engine.reader()

    @property
    def dialect(self) -> str:
        return self.engine.dialect

    def read(
        self, unit: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]:
        return _run_now(self._reader, unit, args, kwargs)

    def write(
        self, unit: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]:
        return _run_now(self._writer, unit, args, kwargs)

    def write_short(
        self, unit: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]:
        return self.write(unit, *args, **kwargs)

    def stop(self) -> None:
        self._reader.close()
        self._writer.close()


def _run_now(session: Session, unit: Callable[..., T], args: Any, kwargs: Any) -> Deferred[T]:
    try:
        value = session.run(unit, *args, **kwargs)
        session.settle()
        return succeed(value)
    except Exception:  # noqa: BLE001 (passed on to whoever waits)
        return fail(Failure())


class ThreadedDatabase:
    """One writer thread and ``readers`` reader threads."""

    answers_later = True

    def __init__(
        self, engine: Engine, reactor: IReactorFromThreads, monotonic: Callable[[], float], readers: int = 3
    ) -> None:
        self.engine = engine
        self._reactor = reactor
        self._monotonic = monotonic
        self._writes: SimpleQueue[tuple[Callable[[], Any], Deferred[Any]] | None] = SimpleQueue()
        self._reads: SimpleQueue[_Unit | None] = SimpleQueue()
        self._stopped = False  # nothing is accepted any more
        self._closing = False
        self._readers = readers
        self._writer = engine.writer()
        self._unwritten = 1  # what the writer's thread has to do; at first, to make room
        self._respite = 0  # short units that it is given all the same
        self._threads = [Thread(target=self._write_all, name="db-writer", daemon=True)]
        for number in range(readers):
            self._threads.append(
                Thread(
                    target=self._read_all,
                    args=(engine.reader(),),
                    name=f"db-reader-{number}",
                    daemon=True,
                )
            )
        checkpointer = engine.checkpointer()
        self._stopping = Event()
        if checkpointer is not None:
            self._threads.append(
                Thread(target=self._checkpoint, args=(checkpointer,), name="db-checkpoint", daemon=True)
            )
        for thread in self._threads:
            thread.start()

    @property
    def dialect(self) -> str:
        return self.engine.dialect

    def read(
        self, unit: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]:
        if self._stopped:
            return fail(DatabaseUnavailable(_STOPPING))
        result: Deferred[T] = Deferred()
        if kwargs:
            self._reads.put((lambda tx: unit(tx, *args, **kwargs), (), result))
        else:
            self._reads.put((unit, args, result))
        return result

    def write(
        self, unit: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]:
        return self._hand_over(partial(self._writer.run, unit, *args, **kwargs))

    def write_short(
        self, unit: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]:
        if self._stopped or self._unwritten:
            return self.write(unit, *args, **kwargs)
        if self._respite:
            self._respite -= 1
            return self.write(unit, *args, **kwargs)
        until_s = self._monotonic() + STANDSTILL_S
        try:
            commit = self._writer.begin(unit, lambda: self._monotonic() > until_s, *args, **kwargs)
        except Exception:  # noqa: BLE001 (passed on to whoever waits)
            result: Deferred[T] = Deferred()
            self._reactor.callFromThread(result.errback, Failure())
            return result
        if commit is None:
            self._respite = RESPITE
            return self.write(unit, *args, **kwargs)
        return self._hand_over(commit)

    def _hand_over(self, work: Callable[[], T]) -> Deferred[T]:
        if self._stopped:
            return fail(DatabaseUnavailable(_STOPPING))
        self._unwritten += 1
        result: Deferred[T] = Deferred()
        self._writes.put((work, result))
        return result

    def _write_all(self) -> None:
        self._writer.make_room()
        self._reactor.callFromThread(self._written)
        while (item := self._writes.get()) is not None:
            work, result = item
            try:
                value = work()
            except BaseException:  # noqa: BLE001 (passed on to whoever waits, in their thread)
                self._reactor.callFromThread(self._written, result.errback, Failure())
            else:
                self._reactor.callFromThread(self._written, result.callback, value)
        self._writer.close()

    def _written(self, tell: Callable[[Any], object] | None = None, outcome: object = None) -> None:
        self._unwritten -= 1
        if tell is not None:
            tell(outcome)

    def _read_all(self, session: Session) -> None:
        while (item := self._reads.get()) is not None:
            unit, args, result = item
            try:
                value = session.run(unit, *args)
            except BaseException:  # noqa: BLE001 (passed on to whoever waits, in their thread)
                self._reactor.callFromThread(result.errback, Failure())
            else:
                self._reactor.callFromThread(result.callback, value)
                session.settle()
        session.close()

    def _checkpoint(self, checkpointer: Checkpointer) -> None:
        while not self._stopping.wait(_CHECKPOINT_S):
            checkpointer.step()
        checkpointer.close()

    def refuse(self) -> None:
        """Accept nothing more. Called in the reactor's thread: there none of its own units is under way then, whose
        connection another thread that calls ``stop`` would have closed."""
        self._stopped = True

    def stop(self) -> None:
        if self._closing:
            return
        self._closing = self._stopped = True
        self._stopping.set()
        self._writes.put(None)
        for _ in range(self._readers):
            self._reads.put(None)
        for thread in self._threads:
            thread.join()
