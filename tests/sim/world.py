"""A simulated world: some servers, some clients, a drawn workload, a time with faults and a time without.

Safety phase: requests get lost, databases fail, servers crash, are cut off from each other and lied to; invariants hold
all the same. Liveness phase: the faults end, and everything that was begun must come to an end: the honest servers have
the same events and the same state, and everybody was told what concerns them.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from tests.sim.client import SimClient, View
from tests.sim.clock import SimClock
from tests.sim.database import Faults
from tests.sim.draws import Draws
from tests.sim.liar import LyingServer
from tests.sim.network import NetworkFaults, SimNetwork
from tests.sim.options import draw_options
from tests.sim.server import SimServer, signing_key
from tests.sim.sliding import SlidingClient
from tests.sim.workload import Workload

SAFETY_MOST_S = 600.0
LIVENESS_MOST_S = 600.0
# Longer than a transaction whose answer got lost waits for it (60 s), and then until it is sent again.
SETTLE_S = 130.0
# Longer than an idle room stays in memory, after the last word and what is looked at minutes later once more.
QUIET_S = 1_000.0
_STEPS_BETWEEN_LOOKS = 500


class World:
    """See the module."""

    def __init__(self, draws: Draws, folder: Path) -> None:
        self.draws = draws
        self.clock = SimClock()
        self.trace: list[str] = []
        self.problems: list[str] = []
        self.options = options = draw_options(draws)
        self.note("options", options)
        self.network = SimNetwork(
            self.clock, draws, self.note, NetworkFaults(latency_ms=options.latency_ms), self.problems
        )
        self.servers = [
            SimServer(
                number,
                self.clock,
                draws,
                folder / str(number),
                self.note,
                Faults(slow_ms=options.slow_ms),
                self.network,
                self.problems,
            )
            for number in range(options.servers)
        ]
        self.liar: LyingServer | None = None
        if options.lies:
            last = self.servers[-1]
            self.liar = LyingServer(draws, signing_key(last.number), options.lies, self.note)
            self.network.liars[last.name] = self.liar
        self.clients = [
            self._client(number, f"user{number}", self.servers[number % options.servers])
            for number in range(options.clients)
        ]
        self.workload = Workload(draws, self.clock, options, self.clients)
        self.fresh: dict[str, View] = {}

    def _client(self, number: int, name: str, server: SimServer) -> SimClient:
        forks = self.options.servers > 1
        if number in self.options.sliding:
            return SlidingClient(name, server, self.clock, self.draws, forks=forks)
        return SimClient(name, server, self.clock, forks=forks)

    @property
    def honest(self) -> list[SimServer]:
        """The servers of which something may be demanded."""
        return self.servers[:-1] if self.liar is not None else self.servers

    def clients_of(self, server: SimServer) -> list[SimClient]:
        """Whose server it is."""
        return [client for client in self.clients if client.server is server]

    def note(self, *what: object) -> None:
        """A line of the trace."""
        self.trace.append(f"{self.clock.seconds():.3f} " + " ".join(map(str, what)))

    def digest(self) -> str:
        """The trace in one word."""
        return blake2b("\n".join(self.trace).encode(), digest_size=12).hexdigest()

    # --- the phases ----------------------------------------------------------------------------------

    def run(
        self, looks: Sequence[Callable[[World], Any]], at_end: Sequence[Callable[[World], Any]]
    ) -> list[str]:
        """Everything; what went wrong. ``looks`` are made now and then, ``at_end`` when all is quiet."""
        self._looks = looks
        scripts = [self._spawn(self.workload.script(client)) for client in self.clients]
        self._advance_until(lambda: all(client.token for client in self.clients), 60.0)
        self._begin_faults()
        syncs = [self._spawn(client.sync_loop()) for client in self.clients]
        self._advance_until(lambda: all(one.called for one in scripts), SAFETY_MOST_S)
        self._end_faults()
        if not self._advance_until(lambda: all(one.called for one in scripts), LIVENESS_MOST_S):
            self.problems.append("a client never came to the end of what it wanted to do")
        if self.problems:
            for server in self.servers:
                server.judge_log()
            return self.problems
        self._say_goodbye()
        for client in self.clients:
            client.stopping = True
        if not self._advance_until(lambda: all(one.called for one in syncs), LIVENESS_MOST_S):
            self.problems.append("a client's sync never returned")
        last = self._spawn(self._last_looks())
        if not self._advance_until(lambda: last.called, LIVENESS_MOST_S):
            self.problems.append("the last syncs never returned")
            return self.problems
        self.clock.advance(QUIET_S)
        for server in self.servers:
            server.finish()
        for check in at_end:
            self.problems += check(self)
        return self.problems

    def _begin_faults(self) -> None:
        options = self.options
        for server in self.servers:
            server.faults.write_percent, server.faults.read_percent = (
                options.write_faults,
                options.read_faults,
            )
            server.lost_percent = options.lost
        network = self.network.faults
        network.lost, network.twice, network.slow = (
            options.peers_lost,
            options.peers_twice,
            options.peers_slow,
        )
        for _ in range(options.crashes):
            victim = self.draws.pick(self.servers)
            victim.faults.crashes_to_come += 1
            self.clock.callLater(self.draws.below(8_000) / 1000, victim.crash)
        for _ in range(options.partitions if len(self.servers) > 1 else 0):
            self._draw_partition()

    def _draw_partition(self) -> None:
        names = [server.name for server in self.servers]
        one = names.pop(self.draws.below(len(names)))
        other = self.draws.pick(names)
        begin_s, length_s = self.draws.below(8_000) / 1000, self.draws.below(20_000) / 1000
        ways = [(one, other), (other, one)]
        for origin, destination in ways[: 1 + self.draws.below(2)]:
            self.clock.callLater(begin_s, self.network.cut, origin, destination)
            self.clock.callLater(begin_s + length_s, self.network.mend, origin, destination)

    def _end_faults(self) -> None:
        self.note("faults end")
        for server in self.servers:
            server.faults.write_percent = server.faults.read_percent = server.lost_percent = 0
        self.network.heal()
        if self.liar is not None:
            self.liar.lies = 0

    def _say_goodbye(self) -> None:
        """One server after the other has the last word, so that in the end there is one end of each room."""
        if len(self.servers) == 1:
            self.clock.advance(20.0)
            return
        self.clock.advance(SETTLE_S)
        for client in self.clients:
            if client.server not in self.honest:
                continue
            words = self._spawn(self.workload.last_words(client, client.view.state))
            if not self._advance_until(lambda words=words: words.called, LIVENESS_MOST_S):  # type: ignore[misc]
                self.problems.append("a client could not say goodbye")
                return
            self.clock.advance(SETTLE_S)

    async def _last_looks(self) -> None:
        for client in self.clients:
            await client.sync_once(0)
            self.fresh[client.name] = await client.initial_sync()
            if len(self.servers) > 1 and client.server in self.honest:
                for room_id in self.workload.rooms:
                    if room_id in client.view.state:
                        await client.read_history(room_id)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> Deferred[None]:
        done: Deferred[None] = Deferred.fromCoroutine(work)
        return done.addErrback(self._broken)

    def _broken(self, failure: Failure) -> None:
        self.problems.append(f"the simulator itself failed: {failure.getTraceback()}")

    def _advance_until(self, done: Callable[[], bool], most_s: float) -> bool:
        upto = self.clock.seconds() + most_s
        steps = 0
        while not done():
            if self.problems or not self.clock.step(upto):
                return done()
            steps += 1
            if steps % _STEPS_BETWEEN_LOOKS == 0:
                for look in self._looks:
                    self.problems += look(self)
        return True
