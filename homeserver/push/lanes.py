"""Whose turn it is among push gateways: a slow or silent one keeps nobody else waiting. Pure.

A gateway is an address that some client named, so a hostile one costs its owner nothing. Hence:

1. A gateway has to earn a place among the prompt ones by an answer in good time, and loses it by the next that is late
   or fails. The others share fewer places among themselves.
2. No gateway has more than some requests at once, one that fails has one.
3. Gateways that wait take turns.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

PROMPT_MOST = 60
OTHERS_MOST = 30
PER_GATEWAY_MOST = 20
PER_OTHER_MOST = 4
PROMPT_S = 2.0
# LIMIT(memory: one address each)
_KNOWN_MOST = 5_000


@dataclass(slots=True)
class _Gateway(Generic[K]):
    prompt: bool = False
    failing: bool = False
    busy: int = 0
    waiting: deque[K] = field(default_factory=deque)

    @property
    def most(self) -> int:
        if self.prompt:
            return PER_GATEWAY_MOST
        return 1 if self.failing else PER_OTHER_MOST


class Lanes(Generic[K]):
    """See the module. A key waits at one gateway at most once."""

    def __init__(self) -> None:
        self._gateways: OrderedDict[str, _Gateway[K]] = OrderedDict()
        self._turns: dict[bool, deque[str]] = {True: deque(), False: deque()}
        self._busy = {True: 0, False: 0}
        self._lane_of: dict[K, bool] = {}  # of those that are under way

    @property
    def busy(self) -> int:
        """How many requests are under way."""
        return len(self._lane_of)

    @property
    def waiting(self) -> int:
        """How many wait for a turn."""
        return sum(len(gateway.waiting) for gateway in self._gateways.values())

    def wait(self, url: str, key: K) -> None:
        """Somebody wants to send something."""
        gateway = self._gateways.get(url)
        if gateway is None:
            gateway = self._gateways[url] = _Gateway()
            self._forget_idle()
        self._gateways.move_to_end(url)
        gateway.waiting.append(key)
        self._line_up(url, gateway)

    def next(self) -> tuple[str, K] | None:
        """Who may send now; call ``leave`` afterwards."""
        for prompt, most in ((True, PROMPT_MOST), (False, OTHERS_MOST)):
            turns = self._turns[prompt]
            for _ in range(len(turns)):
                if self._busy[prompt] >= most:
                    break
                url = turns.popleft()
                gateway = self._gateways.get(url)
                if gateway is None:
                    continue  # forgotten meanwhile
                if gateway.prompt != prompt or not gateway.waiting:
                    self._line_up(url, gateway)
                    continue
                if gateway.busy >= gateway.most:
                    continue  # it lines up again when one of its requests has ended
                key = gateway.waiting.popleft()
                gateway.busy += 1
                self._busy[prompt] += 1
                self._lane_of[key] = prompt
                self._line_up(url, gateway)
                return url, key
        return None

    def leave(self, url: str, key: K, took_s: float | None = None, *, answered: bool = True) -> None:
        """A turn has ended. ``took_s`` None: nothing was sent after all."""
        gateway = self._gateways[url]
        gateway.busy -= 1
        self._busy[self._lane_of.pop(key)] -= 1
        if took_s is not None:
            gateway.failing = not answered
            gateway.prompt = answered and took_s <= PROMPT_S
        self._line_up(url, gateway)

    def forget(self, url: str, key: K) -> None:
        """Somebody who waits wants nothing more."""
        gateway = self._gateways.get(url)
        if gateway is not None and key in gateway.waiting:
            gateway.waiting.remove(key)

    def _line_up(self, url: str, gateway: _Gateway[K]) -> None:
        turns = self._turns[gateway.prompt]
        if gateway.waiting and url not in turns:
            turns.append(url)

    def _forget_idle(self) -> None:
        # Who is forgotten has to show again that they are prompt.
        for url in list(self._gateways)[: max(0, len(self._gateways) - _KNOWN_MOST)]:
            gateway = self._gateways[url]
            if not gateway.busy and not gateway.waiting:
                del self._gateways[url]
