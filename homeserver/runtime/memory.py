"""The garbage collector and the allocator, set for a long-running server.

A collection costs about a microsecond for each container that it looks at, in which nobody is answered; reference
counts free nearly all garbage without it. By itself Python looks, now and then, through all that came lately, and
sometimes through everything: half a second and more once the caches are full. Here

1. what is there when the server is ready stays for its whole life: it is out of the collector's sight;
2. what came is looked through once, a little at a time (a millisecond or two), and not again by itself: what is neither
   freed by its references nor garbage by then is, as good as always, something that is kept;
3. the little that becomes garbage later (some objects for each hundred requests) is found by looking through
   everything, when nobody is there, or when it has been put off for very long.

The allocator of the C library gives each thread an arena of its own, which asks the kernel for every few kilobytes that
it grows by: a database thread that reads a thousand messages did so hundreds of times (a fifth of what that costs).
The interpreter's lock lets one thread at a time allocate as good as always: one arena for all, which grows and shrinks
by megabytes, is faster, and smaller.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Callable

from homeserver.runtime.clock import Clock, DelayedCall

_YOUNG = 2_000
_NEVER = 2**31 - 1
_SWITCH_S = 0.001
LOOK_EVERY_S = 30.0
QUIET_SHARE = 0.02
"""Of one core: below that nobody notices a pause."""
WORTH_WHILE = 500
"""Young collections since the last one of everything: as many, times ``_YOUNG``, containers came and stayed, at most."""
OVERDUE = 100_000


# Of <malloc.h>.
_TRIM_THRESHOLD, _TOP_PAD, _ARENA_MAX = -1, -2, -8
_GROWTH_BYTES = 1024 * 1024
_SPARE_BYTES = 4 * 1024 * 1024


def share_one_arena() -> bool:
    """Set the allocator, before there are threads; whether it can be (it is that of the GNU library)."""
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    options = ((_ARENA_MAX, 1), (_TOP_PAD, _GROWTH_BYTES), (_TRIM_THRESHOLD, _SPARE_BYTES))
    return all(set_option(option, value) == 1 for option, value in options)


class Collector:
    """Made when everything that stays is built."""

    def __init__(self, clock: Clock, used_s: Callable[[], float] = time.process_time) -> None:
        self._clock = clock
        self._used_s = used_s
        self._used_before_s = 0.0
        self._next: DelayedCall | None = None

    def start(self) -> None:
        """Set the collector; from now on look when it is time."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(_YOUNG, _NEVER, _NEVER)
        # A database thread that comes back from the disk waits at most so long for a busy reactor thread.
        sys.setswitchinterval(_SWITCH_S)
        self._wait()

    def stop(self) -> None:
        """Look no more."""
        if self._next is not None and self._next.active():
            self._next.cancel()

    def _wait(self) -> None:
        self._used_before_s = self._used_s()
        self._next = self._clock.callLater(LOOK_EVERY_S, self._look)

    def _look(self) -> None:
        share = (self._used_s() - self._used_before_s) / LOOK_EVERY_S
        young = gc.get_count()[1]
        if young >= OVERDUE or (young >= WORTH_WHILE and share < QUIET_SHARE):
            gc.collect()
        self._wait()
