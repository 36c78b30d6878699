"""`make fuzz`: every fuzz target in turn, each for its share of the time. Says what it ran, and what it found.

    python -m tests.fuzz                        # all, two minutes
    python -m tests.fuzz --seconds 600 event ids

A target is a module of this folder with a `STRATEGY` and a `target`. One that finds something does not keep the
others from running. The last line is `N passed, N failed, N skipped`.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
import time
import traceback
from collections.abc import Sequence
from types import ModuleType

import tests.fuzz
from tests.fuzz.harness import as_test

EXAMPLES_A_ROUND = 250


def targets() -> dict[str, ModuleType]:
    """Every target by its name."""
    names = sorted(found.name for found in pkgutil.iter_modules(tests.fuzz.__path__))
    modules = {
        name: importlib.import_module(f"{tests.fuzz.__name__}.{name}")
        for name in names
        if name not in ("__main__", "harness") and not name.startswith("test_")
    }
    return {name: module for name, module in modules.items() if hasattr(module, "STRATEGY")}


def run(name: str, module: ModuleType, seconds: float) -> bool:
    """Rounds of examples until the time is over, at least one; whether nothing was found."""
    started_s = time.monotonic()
    examples = 0
    try:
        while examples == 0 or time.monotonic() - started_s < seconds:
            as_test(module.STRATEGY, module.target, EXAMPLES_A_ROUND)()
            examples += EXAMPLES_A_ROUND
    except Exception:  # noqa: BLE001 (whatever it is, it is what we look for, and the other targets matter too)
        traceback.print_exc()
        print(f"{name}: FOUND SOMETHING after {examples:,} examples", flush=True)
        return False
    print(f"{name}: {examples:,} examples in {time.monotonic() - started_s:.1f} s, nothing found", flush=True)
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    known = targets()
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=120.0, help="for all targets together (120)")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"only these of: {', '.join(known)}")
    asked = parser.parse_args(arguments)
    unknown = sorted(set(asked.targets).difference(known))
    if unknown:
        parser.error(f"no such target: {', '.join(unknown)} (there are {', '.join(known)})")
    chosen = {name: module for name, module in known.items() if not asked.targets or name in asked.targets}
    share_s = asked.seconds / len(chosen)
    print(f"{len(chosen)} targets, {share_s:.0f} s each: {', '.join(chosen)}", flush=True)
    passed = sum([run(name, module, share_s) for name, module in chosen.items()])
    print(f"{passed} passed, {len(chosen) - passed} failed, 0 skipped")
    return 0 if passed == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
