"""The garbage collector, set for a long-running server.

Python's defaults look through all young containers every 700 allocations and, now and then, through everything that
lives: tens of milliseconds in which nobody is answered. What is there when the server is ready stays for its whole
life, so it is taken out of the collector's sight; and young garbage, nearly all of which reference counts free at
once, is looked for less often.
"""

from __future__ import annotations

import gc
import sys

_YOUNG, _MIDDLE, _OLD = 20_000, 20, 50
_SWITCH_S = 0.001


def settle() -> None:
    """Call once, when everything that stays is built."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)
    # A database thread that comes back from the disk waits at most so long for a busy reactor thread.
    sys.setswitchinterval(_SWITCH_S)
