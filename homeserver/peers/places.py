"""Whose turn it is among destinations: who is away or slow keeps nobody else waiting. Pure.

1. Who failed last time, who was slow, and all the others wait in lines of their own, for places of their own.
2. A place of the others is nobody's for longer than ``PROMPT_S``: whoever takes longer is counted among the slow ones as
   soon as these have a place, and before any that wait there. So some hundreds that turn slow at once block nothing.
3. Who was slow is known for it, also while there is nothing for them, until they take something in good time.

# spec: server-server-api#transactions
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Mapping
from enum import Enum, auto
from types import MappingProxyType
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

HEALTHY_MOST: Final = 100
SLOW_MOST: Final = 100
FAILING_MOST: Final = 50
PROMPT_S: Final = 5.0
# LIMIT(memory: a name each; who is forgotten holds a place of the others for a moment once more)
KNOWN_MOST: Final = 5_000


class _Line(Enum):
    """Who waits for the same places."""

    HEALTHY = auto()
    SLOW = auto()
    FAILING = auto()


_MOST: Final[Mapping[_Line, int]] = MappingProxyType(
    {_Line.HEALTHY: HEALTHY_MOST, _Line.SLOW: SLOW_MOST, _Line.FAILING: FAILING_MOST}
)


class Places(Generic[K]):
    """See the module. A key waits or has a place, and once only."""

    def __init__(self) -> None:
        self._waiting: dict[_Line, deque[K]] = {line: deque() for line in _Line}
        self._busy = dict.fromkeys(_Line, 0)
        self._line_of: dict[K, _Line] = {}  # of those that have a place
        self._late: dict[K, None] = {}  # those that should give back a place of the others, the first first
        self._slow: OrderedDict[K, None] = OrderedDict()

    @property
    def busy(self) -> int:
        """How many have a place."""
        return len(self._line_of)

    @property
    def waiting(self) -> int:
        """How many wait for one."""
        return sum(map(len, self._waiting.values()))

    def wait(self, key: K, *, failing: bool) -> None:
        """There is something for a destination; ``failing``: what was sent there last did not arrive."""
        line = _Line.FAILING if failing else _Line.SLOW if key in self._slow else _Line.HEALTHY
        self._waiting[line].append(key)

    def next(self) -> K | None:
        """Who has a place now; call ``leave`` afterwards."""
        while self._late and self._busy[_Line.SLOW] < SLOW_MOST:
            key = next(iter(self._late))
            self._give_back(key)
            self._take(key, _Line.SLOW)
        for line, most in _MOST.items():
            if self._waiting[line] and self._busy[line] < most:
                key = self._waiting[line].popleft()
                self._take(key, line)
                return key
        return None

    def overstay(self, key: K) -> None:
        """Whoever has a place has waited for ``PROMPT_S`` there. ``next`` may have news."""
        if self._line_of.get(key) is _Line.HEALTHY:
            self._late[key] = None

    def leave(self, key: K, *, prompt: bool | None = None) -> None:
        """Whoever had a place has done. ``prompt``: whether in good time; None where nothing was delivered."""
        self._give_back(key)
        if prompt is not None:
            self._slow.pop(key, None)
            if not prompt:
                self._slow[key] = None
                if len(self._slow) > KNOWN_MOST:
                    self._slow.popitem(last=False)

    def _take(self, key: K, line: _Line) -> None:
        self._line_of[key] = line
        self._busy[line] += 1

    def _give_back(self, key: K) -> None:
        self._busy[self._line_of.pop(key)] -= 1
        self._late.pop(key, None)
