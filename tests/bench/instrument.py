"""Starts `chaos` under cProfile that the bench turns on and off: `python -m tests.bench.instrument FILE serve …`.

SIGUSR1 begins and SIGUSR2 ends the looking; the result is in FILE when the server has ended. It sees the main thread.
"""

from __future__ import annotations

import cProfile
import signal
import sys

from homeserver.__main__ import main as run_chaos


def main() -> None:
    path = sys.argv[1]
    sys.argv[1:] = sys.argv[2:]
    profiler = cProfile.Profile()
    signal.signal(signal.SIGUSR1, lambda _number, _frame: profiler.enable())
    signal.signal(signal.SIGUSR2, lambda _number, _frame: profiler.disable())
    try:
        run_chaos()
    finally:
        profiler.disable()
        profiler.dump_stats(path)


if __name__ == "__main__":
    main()
