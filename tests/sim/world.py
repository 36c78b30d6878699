"""A simulated world: one server, some clients, a drawn workload, a time with faults and a time without.

Safety phase: requests get lost, the database fails, the server crashes; invariants hold all the same. Liveness phase:
the faults end, and everything that was begun must come to an end.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from homeserver.runtime.clock import sleep
from tests.sim.client import SimClient, View
from tests.sim.clock import SimClock
from tests.sim.database import Faults
from tests.sim.draws import Draws
from tests.sim.server import SimServer

SAFETY_MOST_S = 600.0
LIVENESS_MOST_S = 300.0
QUIET_S = 700.0  # longer than an idle room stays in memory
_STEPS_BETWEEN_LOOKS = 500


@dataclass(frozen=True, slots=True)
class Options:
    """What kind of world the seed makes."""

    clients: int
    rooms: int
    steps: int
    write_faults: int
    read_faults: int
    lost: int
    crashes: int
    slow_ms: int
    version: str


def draw_options(draws: Draws) -> Options:
    """From nothing wrong at all to everything at once."""
    return Options(
        clients=2 + draws.below(3),
        rooms=1 + draws.below(3),
        steps=5 + draws.below(15),
        write_faults=draws.pick((0, 2, 10, 25)),
        read_faults=draws.pick((0, 1, 5)),
        lost=draws.pick((0, 3, 10)),
        crashes=draws.below(4),
        slow_ms=draws.pick((1, 4, 40)),
        version=draws.pick(("12", "11", "10", "6", "3", "1")),
    )


class World:
    """See the module."""

    def __init__(self, draws: Draws, folder: Path) -> None:
        self.draws = draws
        self.clock = SimClock()
        self.trace: list[str] = []
        self.options = draw_options(draws)
        self.note("options", self.options)
        self.faults = Faults(slow_ms=self.options.slow_ms)
        self.server = SimServer(self.clock, draws, folder, self.note, self.faults)
        self.clients = [
            SimClient(f"user{number}", self.server, self.clock) for number in range(self.options.clients)
        ]
        self.rooms: list[str] = []
        self.fresh: dict[str, View] = {}
        self.problems = self.server.problems

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
        scripts = [self._spawn(self._script(client)) for client in self.clients]
        self._advance_until(lambda: all(client.token for client in self.clients), 60.0, looks)
        options = self.options
        self.faults.write_percent, self.faults.read_percent = options.write_faults, options.read_faults
        self.server.lost_percent = options.lost
        for _ in range(options.crashes):
            self.clock.callLater(self.draws.below(8_000) / 1000, self.server.crash)
        syncs = [self._spawn(client.sync_loop()) for client in self.clients]
        self._advance_until(lambda: all(one.called for one in scripts), SAFETY_MOST_S, looks)
        self.note("faults end")
        self.faults.write_percent = self.faults.read_percent = self.server.lost_percent = 0
        if not self._advance_until(lambda: all(one.called for one in scripts), LIVENESS_MOST_S, looks):
            self.problems.append("a client never came to the end of what it wanted to do")
        self.clock.advance(20.0)
        for client in self.clients:
            client.stopping = True
        if not self._advance_until(lambda: all(one.called for one in syncs), LIVENESS_MOST_S, looks):
            self.problems.append("a client's sync never returned")
        last = self._spawn(self._last_looks())
        if not self._advance_until(lambda: last.called, LIVENESS_MOST_S, looks):
            self.problems.append("the last syncs never returned")
            return self.problems
        self.clock.advance(QUIET_S)
        self.server.finish()
        for check in at_end:
            self.problems += check(self)
        return self.problems

    async def _last_looks(self) -> None:
        for client in self.clients:
            await client.sync_once(0)
            self.fresh[client.name] = await client.initial_sync()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> Deferred[None]:
        done: Deferred[None] = Deferred.fromCoroutine(work)
        return done.addErrback(self._broken)

    def _broken(self, failure: Failure) -> None:
        self.problems.append(f"the simulator itself failed: {failure.getTraceback()}")

    def _advance_until(
        self, done: Callable[[], bool], most_s: float, looks: Sequence[Callable[[World], Any]]
    ) -> bool:
        upto = self.clock.seconds() + most_s
        steps = 0
        while not done():
            if self.problems or not self.clock.step(upto):
                return done()
            steps += 1
            if steps % _STEPS_BETWEEN_LOOKS == 0:
                for look in looks:
                    self.problems += look(self)
        return True

    # --- the workload --------------------------------------------------------------------------------

    async def _script(self, client: SimClient) -> None:
        """What one user does."""
        number = self.clients.index(client)
        await client.register()
        if number == 0:
            for room in range(self.options.rooms):
                version = self.options.version if room == 0 else "12"
                self.rooms.append(
                    await client.create_room(preset="public_chat", name=f"room {room}", room_version=version)
                )
        while len(self.rooms) < self.options.rooms:
            await sleep(self.clock, 0.1)  # type: ignore[arg-type]
        inside = set(self.rooms) if number == 0 else set()
        for step in range(self.options.steps):
            await sleep(self.clock, self.draws.below(600) / 1000)  # type: ignore[arg-type]
            room_id = self.draws.pick(self.rooms)
            if room_id not in inside:
                client.expect(await client.join(room_id), 200, f"join {room_id}", None)
                inside.add(room_id)
            await self._step(client, room_id, inside, f"{client.name} {step}")

    async def _step(self, client: SimClient, room_id: str, inside: set[str], text: str) -> None:
        what = self.draws.below(100)
        if what < 40:
            client.expect(await client.send(room_id, text), 200, "send", None)
        elif what < 60:
            sends = [
                Deferred.fromCoroutine(client.send(room_id, f"{text} {part}"))
                for part in range(2 + self.draws.below(6))
            ]
            for one in sends:
                client.expect(await one, 200, "send at once", None)
        elif what < 68 and client is self.clients[0]:
            client.expect(
                await client.put_state(room_id, "m.room.topic", {"topic": text}), 200, "set the topic", None
            )
        elif what < 76 and client is not self.clients[0]:
            client.expect(await client.leave(room_id), 200, "leave", None)
            inside.discard(room_id)
        elif what < 84:
            await self._read_or_redact(client, room_id)
        elif what < 92:
            where = room_id if self.draws.chance(50) else ""
            status = await client.put_account_data(where, "im.chaos.note", {"text": text})
            client.expect(status, 200, "account data", None)
        else:
            inviting = [self.draws.pick(self.clients[1:]).user_id] if client is self.clients[0] else []
            await client.create_room(preset="private_chat", invite=inviting)

    async def _read_or_redact(self, client: SimClient, room_id: str) -> None:
        segment = client.open_segment(room_id)
        mine = [event_id for room, _, event_id in client.acknowledged if room == room_id]
        if mine and self.draws.chance(40):
            client.expect(await client.redact(room_id, self.draws.pick(mine)), 200, "redact", None)
        elif segment is not None and segment.event_ids:
            client.expect(await client.receipt(room_id, segment.event_ids[-1]), 200, "receipt", None)
