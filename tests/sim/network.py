"""SimNetwork: requests between simulated servers, as bytes, with a drawn fate each.

A request is handed to the other server's router after a drawn delay, so requests overtake each other. It may get lost
before it is heeded or its answer after, be heeded twice, be refused at once, or be answered slowly or never; servers
may be cut off from each other, in one direction too. A request that is under way survives the death of who sent it, and
nobody hears its answer. What a liar sends and answers is changed on the way (`liar.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from federation.ids import ServerName
from homeserver.db.errors import DatabaseUnavailable
from homeserver.http.transport import PeerRequest, PeerResponse, Unreachable
from tests.sim.clock import LifeClock, SimCall, SimClock
from tests.sim.draws import Draws
from tests.support.http import Answer

_REFUSED_S = 0.01
_PIECE = 1_000


class Host(Protocol):
    """A server as the network sees it."""

    @property
    def life(self) -> LifeClock | None:
        """The clock of the life that answers now; None where nothing listens."""

    def receive(self, request: PeerRequest) -> Deferred[Answer]:
        """Hand a request to the router of that life."""


class Liar(Protocol):
    """What becomes of the words of a server that lies; see `liar.py`."""

    def change_request(self, request: PeerRequest) -> PeerRequest:
        """What it sends instead."""

    def change_answer(self, request: PeerRequest, response: PeerResponse) -> PeerResponse:
        """What it answers instead."""


@dataclass(slots=True)
class NetworkFaults:
    """How often what goes wrong, in percent."""

    lost: int = 0
    twice: int = 0
    slow: int = 0
    latency_ms: int = 20


@dataclass(frozen=True, slots=True)
class _Underway:
    """A request that has not been answered."""

    origin: ServerName
    life: LifeClock
    request: PeerRequest
    receive: Callable[[bytes], None] | None
    result: Deferred[PeerResponse]
    timeout: SimCall


class SimNetwork:
    """The way between the servers of a world."""

    def __init__(
        self,
        clock: SimClock,
        draws: Draws,
        note: Callable[..., None],
        faults: NetworkFaults,
        problems: list[str],
    ) -> None:
        self.faults = faults
        self.hosts: dict[ServerName, Host] = {}
        self.liars: dict[ServerName, Liar] = {}
        self.problems = problems
        self.carried = 0
        self._clock = clock
        self._draws = draws
        self._note = note
        self._cut: set[tuple[ServerName, ServerName]] = set()
        # A dict for its order.
        self._underway: dict[Deferred[PeerResponse], _Underway] = {}

    # --- partitions ----------------------------------------------------------------------------------

    def cut(self, origin: ServerName, destination: ServerName) -> None:
        """From now on nothing gets from the one to the other; answers do."""
        self._note("cut", origin, destination)
        self._cut.add((origin, destination))

    def mend(self, origin: ServerName, destination: ServerName) -> None:
        """The way is free again."""
        self._note("mend", origin, destination)
        self._cut.discard((origin, destination))

    def heal(self) -> None:
        """No faults any more, and everybody reaches everybody."""
        self._cut.clear()
        self.faults.lost = self.faults.twice = self.faults.slow = 0

    @property
    def waiting(self) -> int:
        """How many requests of living servers have no answer yet."""
        return sum(not one.life.dead for one in self._underway.values())

    # --- requests ------------------------------------------------------------------------------------

    def carry(
        self,
        origin: ServerName,
        life: LifeClock,
        request: PeerRequest,
        receive: Callable[[bytes], None] | None,
    ) -> Deferred[PeerResponse]:
        """Take a request on its way."""
        result: Deferred[PeerResponse] = Deferred(self._forget)
        timeout = life.callLater(request.timeout_s, self._fail, result, "it took too long")
        one = self._underway[result] = _Underway(origin, life, request, receive, result, timeout)
        self.carried += 1
        if (origin, request.destination) in self._cut or request.destination not in self.hosts:
            self._refuse(one)
            return result
        fate = self._draws.below(100)
        if fate >= 100 - self.faults.lost:
            self._note("lost", origin, request.destination, request.method, _path(request))
            if fate % 3 == 0:
                return result  # before it is heeded, and nobody says so
            if fate % 3 == 1:
                self._refuse(one)
                return result
            self._arrive_later(one, answered=False)
            return result
        self._arrive_later(one)
        if self._draws.chance(self.faults.twice):
            self._note("twice", origin, request.destination, request.method, _path(request))
            self._arrive_later(one)
        return result

    def _refuse(self, one: _Underway) -> None:
        one.life.callLater(_REFUSED_S, self._fail, one.result, f"{one.request.destination} is not reached")

    def _arrive_later(self, one: _Underway, *, answered: bool = True) -> None:
        delay_s = self._draws.delay_s(self.faults.latency_ms)
        if self._draws.chance(self.faults.slow):
            delay_s += self._draws.below(20_000) / 1000
        self._clock.callLater(delay_s, self._arrive, one, answered)

    def _arrive(self, one: _Underway, answered: bool) -> None:
        host = self.hosts[one.request.destination]
        life = host.life
        if life is None:
            self._refuse(one)
            return
        liar = self.liars.get(one.origin)
        request = one.request if liar is None else liar.change_request(one.request)
        back_s = self._draws.delay_s(self.faults.latency_ms)

        def give(answer: Answer) -> None:
            if life.dead:
                # Its process died before the answer was on the wire: the connection breaks.
                self._refuse(one)
                return
            self._note(one.origin, request.destination, request.method, _path(request), answer.status)
            if answer.status == 500:
                self.problems.append(f"{request.method} {_path(request)}: 500 {answer.body!r}")
            if answered:
                response = PeerResponse(answer.status, answer.body, answer.headers)
                one.life.callLater(back_s, self._deliver, one, response)

        def broken(failure: Failure) -> None:
            if life.dead or failure.check(DatabaseUnavailable):
                # Its process died, and what is left of it is swept up; or in the middle of an answer that comes in pieces
                # the database failed, and all that is left is to break it off.
                self._refuse(one)
                return
            self.problems.append(f"the router failed: {failure.getTraceback()}")

        host.receive(request).addCallbacks(give, broken)

    def _deliver(self, one: _Underway, response: PeerResponse) -> None:
        if one.result not in self._underway:
            return
        liar = self.liars.get(one.request.destination)
        if liar is not None:
            response = liar.change_answer(one.request, response)
        if len(response.body) > one.request.max_bytes:
            self._fail(one.result, "the answer is too large")
            return
        self._forget(one.result)
        if one.receive is not None and 200 <= response.status < 300:
            for start in range(0, len(response.body), _PIECE):
                one.receive(response.body[start : start + _PIECE])
            response = replace(response, body=b"")
        one.result.callback(response)

    def _forget(self, result: Deferred[PeerResponse]) -> None:
        one = self._underway.pop(result, None)
        if one is not None and one.timeout.active():
            one.timeout.cancel()

    def _fail(self, result: Deferred[PeerResponse], why: str) -> None:
        if result in self._underway:
            self._forget(result)
            result.errback(Unreachable(why))

    def bury(self, life: LifeClock) -> None:
        """A server died: nobody waits for its answers, and its own requests end where they are."""
        for result, one in list(self._underway.items()):
            if one.life is life:
                del self._underway[result]

    def broken_off(self, destination: ServerName) -> None:
        """Whoever waits for an answer of this server gets none."""
        for one in list(self._underway.values()):
            if one.request.destination == destination:
                self._refuse(one)


class SimTransport:
    """The transport of one life of a server."""

    def __init__(self, network: SimNetwork, origin: ServerName, life: LifeClock) -> None:
        self._network = network
        self._origin = origin
        self._life = life

    def send(
        self, request: PeerRequest, receive: Callable[[bytes], None] | None = None
    ) -> Deferred[PeerResponse]:
        """Over the network."""
        return self._network.carry(self._origin, self._life, request, receive)


def _path(request: PeerRequest) -> str:
    return request.uri.partition("?")[0]
