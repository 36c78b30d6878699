"""LookUps: the addresses that the system knows for names.

The system's look-up blocks a thread and cannot be ended: of a name whose servers are dead it returns when it has tried
them all, long after everybody has stopped waiting. Anybody can name such servers to us, and takes a thread of ours with each.

MUSTs: 1. the answer comes in time, whatever the system does; 2. as many look-ups are in the system at once as there are
threads for them, so that none waits in there, and a place is free when its thread is, not when its time is up; 3. of one
domain a few at once, so that its dead names hold up their own kind; 4. a look-up whose time is up while it waits is never
begun; 5. failure is an answer: no addresses.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from homeserver.runtime.clock import Clock
from homeserver.runtime.slots import Slots
from homeserver.runtime.threads import LooseThreads

TIMEOUT_S: Final = 10.0
PLACES: Final = 128
# A community's host has hundreds of servers below its domain, and a large room most of them.
PLACES_EACH: Final = 8
WAITING: Final = 4096
WAITING_EACH: Final = 512

AskSystem = Callable[[str], Deferred[Sequence[str]]]


class LookUps:
    """Asks the system, in good order."""

    def __init__(self, clock: Clock, ask: AskSystem) -> None:
        self._clock = clock
        self._ask = ask
        self._places = Slots(PLACES, PLACES_EACH, WAITING, WAITING_EACH)

    def addresses(self, name: str) -> Deferred[Sequence[str]]:
        """IP addresses of a name, the preferred first; none where there are none, or not in time."""
        answer: Deferred[Sequence[str]] = Deferred()
        is_begun = False

        async def look_up() -> Sequence[str]:
            nonlocal is_begun
            async with self._places.place(domain_of(name)):
                is_begun = True
                return await self._ask(name)

        def finish(found: Sequence[str] | Failure) -> None:
            if not answer.called:
                timer.cancel()
                answer.callback(() if isinstance(found, Failure) else found)

        def give_up() -> None:
            answer.callback(())
            if not is_begun:
                looking.cancel()

        timer = self._clock.callLater(TIMEOUT_S, give_up)
        looking = Deferred.fromCoroutine(look_up())
        looking.addBoth(finish)
        return answer


def domain_of(name: str) -> str:
    """Whose name servers may be dead: the last two labels. Whoever has a name has all below it, at no cost."""
    return ".".join(name.rstrip(".").rsplit(".", 2)[-2:])


def system_in_threads(reactor: Any) -> AskSystem:
    """The machine's own look-up, as its administrator set it up. Begins no thread yet."""
    threads = LooseThreads(reactor, PLACES, "names")

    def ask(name: str) -> Deferred[Sequence[str]]:
        return threads.run(_ask_system, name)

    return ask


def _ask_system(name: str) -> Sequence[str]:
    try:
        found = socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM)
    except (OSError, ValueError):  # no such name, or nothing that could be one
        return ()
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))
