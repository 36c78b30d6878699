"""Blocking work off the reactor: hashing passwords, reading and writing files, looking names up.

Not for the database, which has threads of its own (``homeserver.db.threads``).
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import Any, ParamSpec, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

P = ParamSpec("P")
T = TypeVar("T")


class ThreadRunner:
    """A small pool; work beyond its size waits its turn."""

    def __init__(self, reactor: Any, size: int = 4) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(0, size, "work")
        self._pool.start()

    def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Call ``function`` in a thread; fires in the reactor thread."""
        return deferToThreadPool(self._reactor, self._pool, function, *args, **kwargs)

    def stop(self) -> None:
        """Finish what was begun."""
        self._pool.stop()


class LooseThreads:
    """A pool for calls that block and cannot be ended. Nobody waits for its threads, nor does the end of the process.

    Threads come as they are needed and stay. What must not wait for a thread is for the caller to bound.
    """

    def __init__(self, reactor: Any, size: int, name: str) -> None:
        self._reactor = reactor
        self._pool = _LoosePool(0, size, name)
        self._pool.start()

    def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Call ``function`` in a thread; fires in the reactor thread."""
        return deferToThreadPool(self._reactor, self._pool, function, *args, **kwargs)


class _LooseThread(Thread):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options, daemon=True)


class _LoosePool(ThreadPool):
    threadFactory = _LooseThread  # noqa: N815 (Twisted's name)
