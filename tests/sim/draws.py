"""Every choice of a simulation, drawn from its seed and written down, so that a failure can be replayed and shrunk.

Draws are small integers, and 0 always means the plainest choice (no fault, no delay, the first of the list): a list of
draws stays valid when some are deleted or lowered, and becomes simpler by it. Past the end of a given list all is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from homeserver.runtime.entropy import SeededEntropy

T = TypeVar("T")


class Draws:
    """Draws of a seed, or those of a list."""

    def __init__(self, seed: int, given: Sequence[int] | None = None) -> None:
        self.seed = seed
        self.taken: list[int] = []
        self._given = given
        self._entropy = SeededEntropy(seed).child("draws")

    def below(self, bound: int) -> int:
        """A number from 0 to ``bound`` - 1."""
        if self._given is None:
            value = int.from_bytes(self._entropy.bytes(6), "big") % bound
        else:
            place = len(self.taken)
            value = min(self._given[place], bound - 1) if place < len(self._given) else 0
        self.taken.append(value)
        return value

    def chance(self, percent: int) -> bool:
        """Whether something happens that happens so often."""
        return self.below(100) >= 100 - percent

    def pick(self, options: Sequence[T]) -> T:
        """One of them."""
        return options[self.below(len(options))]

    def delay_s(self, most_ms: int) -> float:
        """Mostly short, sometimes ``most_ms``."""
        return self.below(most_ms if self.chance(10) else max(1, most_ms // 10)) / 1000


def shrink(draws: Sequence[int], fails: Callable[[Sequence[int]], bool], tries: int = 300) -> list[int]:
    """A shorter and lower list that still fails: delete chunks, then zero them, then lower single draws."""
    best = list(draws)
    left = tries

    def attempt(candidate: list[int]) -> bool:
        nonlocal best, left
        if left <= 0 or candidate == best:
            return False
        left -= 1
        if fails(candidate):
            best = candidate
            return True
        return False

    size = max(1, len(best) // 2)
    while size and left > 0:
        start = 0
        while start < len(best) and left > 0:
            without = best[:start] + best[start + size :]
            zeroed = best[:start] + [0] * len(best[start : start + size]) + best[start + size :]
            if not attempt(without):
                attempt(zeroed)
                start += size
        size //= 2
    for place, value in enumerate(list(best)):
        if left <= 0 or place >= len(best):
            break
        if value and not attempt([*best[:place], 0, *best[place + 1 :]]):
            attempt([*best[:place], best[place] // 2, *best[place + 1 :]])
    while best and best[-1] == 0:
        best.pop()
    return best
