"""The row of presence: many users who are online at once, and what that costs the server's processors.

The users are in overlapping rooms. Each has a client that waits in ``/sync?timeout=30000`` and asks again when it is
answered, as clients do. Over the window some become idle and come back, some write, some type. The figure is processor
seconds of the server for each second of the window: everything counts, the waiting, the answers, the messages.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

from tests.bench.crowd import Crowd
from tests.bench.figures import Measured, Scale
from tests.bench.wire import Connection, WireError, build_request, encode, expect_ok
from tests.bench.world import CLIENT, User, World, sync_request
from tests.interop.process import ServerProcess
from tests.interop.synapse import REGISTRATION_SECRET

ROOM_MEMBERS = 25
ROOMS_EACH = 2
LONG_POLL_MS = 30_000
# How often each user does it, on average.
COMES_OR_GOES_S = 600.0
TYPES_S = 600.0
WRITES_S = 1_800.0
# Clients do not all ask at the same moment.
SPREAD_S = 30.0


def measure_presence(crowd: Crowd) -> Measured:
    """Of one core, for 2,000 users.

    Synapse is given a tenth of the users, and its figure is taken times ten: with all of them it does not keep up. That
    flatters it, since what it does for a change grows with those who see it.
    """
    server, scale = crowd.server, crowd.scale
    users = scale.present if server.command.name == "CHAOS" else scale.present // 10
    world = World(server.port, REGISTRATION_SECRET)
    spent_s, taken_s = asyncio.run(Town(world, server).measure(users, scale))
    return {"presence_cores": spent_s / taken_s * scale.present / users}


class Town:
    """The users and their clients."""

    def __init__(self, world: World, server: ServerProcess) -> None:
        self._world = world
        self._server = server
        self._random = random.Random(5)
        self._idle: set[User] = set()
        self._answers = 0

    async def measure(self, count: int, scale: Scale) -> tuple[float, float]:
        """Processor seconds of the server, and how long the window was."""
        users = await self._world.register(count)
        rooms = await self._settle(users)
        clients = [asyncio.ensure_future(self._poll(user)) for user in users]
        failing = asyncio.ensure_future(asyncio.wait(clients, return_when=asyncio.FIRST_EXCEPTION))
        try:
            await asyncio.sleep(SPREAD_S + 5.0)  # everybody is here
            started_s, spent_s = time.perf_counter(), self._server.cpu_s()
            with self._world.measuring():
                await self._live(users, rooms, scale.present_s)
            taken_s, spent_s = time.perf_counter() - started_s, self._server.cpu_s() - spent_s
            if failing.done() or self._answers < count * (taken_s / (LONG_POLL_MS / 1000) - 1):
                broken = next((one.exception() for one in clients if one.done()), None)
                raise WireError(f"only {self._answers} answers for {count} clients: {broken!r}")
        finally:
            failing.cancel()
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, failing, return_exceptions=True)
        return spent_s, taken_s

    async def _settle(self, users: Sequence[User]) -> dict[User, str]:
        """Rooms around a circle, so that each overlaps with the next; the room in which each user writes."""
        size, step = ROOM_MEMBERS, ROOM_MEMBERS // ROOMS_EACH
        groups = [
            [users[(start + number) % len(users)] for number in range(size)]
            for start in range(0, len(users), step)
        ]
        room_ids = await self._world.create_rooms([group[0] for group in groups])
        pairs = list(zip(groups, room_ids, strict=True))
        await self._world.join((user, room_id) for group, room_id in pairs for user in group[1:])
        return {user: room_id for group, room_id in pairs for user in group}

    async def _poll(self, user: User) -> None:
        """One client, until it is cancelled."""
        await asyncio.sleep(self._random.uniform(0.0, SPREAD_S))
        connection = await Connection.open(self._world.port)
        try:
            since: str | None = None
            while True:
                state = "unavailable" if user in self._idle else "online"
                request = sync_request(user, since, LONG_POLL_MS if since else 0)
                request = request.replace(b"/sync?", f"/sync?set_presence={state}&".encode(), 1)
                since = expect_ok(await connection.send(request)).json()["next_batch"]
                self._answers += 1
        finally:
            connection.close()

    async def _live(self, users: Sequence[User], rooms: dict[User, str], seconds: float) -> None:
        """What people do, at an even pace, for so long."""
        each_s = {self._come_or_go: COMES_OR_GOES_S, self._type: TYPES_S, self._write: WRITES_S}
        due = sorted(
            ((number + 0.5) * every_s / len(users), kind)
            for kind, every_s in enumerate(each_s.values())
            for number in range(int(seconds * len(users) / every_s))
        )
        deeds = list(each_s)
        self._answers = 0
        started_s = time.perf_counter()
        async with self._world.connections(1) as (connection,):
            for at_s, kind in due:
                await asyncio.sleep(max(0.0, started_s + at_s - time.perf_counter()))
                user = self._random.choice(users)
                expect_ok(await connection.send(deeds[kind](user, rooms[user])))
            await asyncio.sleep(max(0.0, started_s + seconds - time.perf_counter()))

    def _come_or_go(self, user: User, _room_id: str) -> bytes:
        self._idle ^= {user}
        state = "unavailable" if user in self._idle else "online"
        path = f"{CLIENT}/presence/{encode(user.user_id)}/status"
        return build_request("PUT", path, user.token, {"presence": state})

    def _type(self, user: User, room_id: str) -> bytes:
        path = f"{CLIENT}/rooms/{encode(room_id)}/typing/{encode(user.user_id)}"
        return build_request("PUT", path, user.token, {"typing": True, "timeout": 5_000})

    def _write(self, user: User, room_id: str) -> bytes:
        return self._world.message_request(user, room_id)
