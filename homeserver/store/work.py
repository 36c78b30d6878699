"""How everything but room history is written: as a unit of work in the committer's next transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from twisted.internet.defer import Deferred

from homeserver.db.tx import WriteTx

P = ParamSpec("P")
T = TypeVar("T")
G = TypeVar("G")
U = TypeVar("U", bound=Callable[..., object])


class Worker(Protocol):
    """Takes units of work for the one writer.

    1. A unit runs under a savepoint: when it raises, its own writes are undone, the Deferred fails with what it
       raised, and the other units of the transaction stand.
    2. The Deferred fires after the commit, when the changes that the unit claimed are visible to every reader
       and were handed to every follower in this process.
    3. A unit may run a second time (after a failed commit), so it MUST NOT have effects outside of ``tx``.
    """

    def work(
        self, unit: Callable[Concatenate[WriteTx, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]:
        """Run ``unit(tx, *args)`` in the next transaction."""


class GatheringWorker(Protocol):
    """Takes units of work, as ``Worker`` does, on what has gathered when their transaction begins."""

    def work_on(self, gather: Callable[[], G], unit: Callable[[WriteTx, G], T]) -> Deferred[T]:
        """Run ``unit(tx, gather())`` in the next transaction. ``gather`` is called once, in the reactor thread, when that
        begins, and also where the unit then fails without having run; it MUST NOT raise."""


def short(unit: U) -> U:
    """Mark a unit that takes few statements of few rows whatever it is given: the reactor's thread may run it.

    See ``Database.write_short``. What reads or drops as much as there is (a sweep, somebody's devices) is not short.
    """
    unit.is_short = True  # type: ignore[attr-defined]
    return unit


def is_short(unit: Callable[..., object]) -> bool:
    """Whether a unit was marked by ``short``."""
    return getattr(unit, "is_short", False)
