"""The rows of the table: for each, the work, its concurrency, and what exactly is timed.

Every row makes its own users and rooms before its clock starts, so that it means the same alone and in a full
run. Rates are the work done over the time from the first request to the last answer; every answer must be 200.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import statistics
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence

from tests.bench.encryption import measure_claims, measure_claims_50, measure_inbox
from tests.bench.figures import Measured, Scale
from tests.bench.many_rooms import measure_many, measure_sliding
from tests.bench.wire import BlockingConnection, Connection, Response, build_request, encode, expect_ok
from tests.bench.world import CLIENT, SETUP_CONNECTIONS, User, World, join_request, sync_request

FANOUT_MEMBERS = 100
LONG_POLL_MS = 30_000
# Long enough for every member's poll to be waiting at the server again before the next message.
SETTLE_S = 0.5
INITIAL_ROOMS = 24
INITIAL_MESSAGES = 10
PAGE_SIZE = 50

Row = Callable[[World, Scale], Coroutine[None, None, Measured]]


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed (nearest rank)."""
    return sorted(values)[max(1, math.ceil(share * len(values))) - 1]


async def measure_send(world: World, scale: Scale) -> Measured:
    """One sender in a room of its own, one message after the other, from the first byte to the whole answer."""
    (sender,) = await world.register(1)
    (room_id,) = await world.create_rooms([sender])
    warm_up = scale.sends // 10
    requests = [world.message_request(sender, room_id) for _ in range(warm_up + scale.sends)]
    taken_ms: list[float] = []
    with BlockingConnection(world.port) as connection, world.measuring():
        for request in requests:
            response, took_ms = connection.timed(request)
            taken_ms.append(took_ms)
            expect_ok(response)
    timed = taken_ms[warm_up:]
    return {"send_median_ms": statistics.median(timed), "send_p99_ms": percentile(timed, 0.99)}


async def measure_sends_16(world: World, scale: Scale) -> Measured:
    """16 senders, each on its own connection and in its own room, each with one message in flight."""
    senders = await world.register(16)
    rooms = await world.create_rooms(senders)
    return {"sends_16": await _sends_rate(world, list(zip(senders, rooms, strict=True)), scale.sends_each_16)}


async def measure_sends_32(world: World, scale: Scale) -> Measured:
    """32 members of one room, each on its own connection with one message in flight."""
    senders = await world.register(32)
    (room_id,) = await world.create_rooms(senders[:1])
    await world.join((sender, room_id) for sender in senders[1:])
    return {
        "sends_32": await _sends_rate(world, [(sender, room_id) for sender in senders], scale.sends_each_32)
    }


async def _sends_rate(world: World, senders: Sequence[tuple[User, str]], each: int) -> float:
    warm_up = max(1, each // 10)
    requests = [[world.message_request(*sender) for _ in range(warm_up + each)] for sender in senders]
    return await _rate(world, requests, warm_up)


async def measure_requests(world: World, scale: Scale) -> Measured:
    """16 clients, each asking `/account/whoami` with one request in flight: what any request costs, before it does anything."""
    users = await world.register(16)
    warm_up = max(1, scale.requests_each // 10)
    requests = [
        [build_request("GET", f"{CLIENT}/account/whoami", user.token)] * (warm_up + scale.requests_each)
        for user in users
    ]
    return {"requests": await _rate(world, requests, warm_up)}


async def _rate(world: World, requests: Sequence[Sequence[bytes]], warm_up: int) -> float:
    """How many are answered in a second, each row of them on a connection of its own; the first of each not counted."""
    async with world.connections(len(requests)) as connections:
        await _send_in_turns(connections, [own[:warm_up] for own in requests])
        with world.measuring():
            elapsed_s = await _send_in_turns(connections, [own[warm_up:] for own in requests])
    return sum(len(own) - warm_up for own in requests) / elapsed_s


async def _send_in_turns(connections: Sequence[Connection], requests: Sequence[Sequence[bytes]]) -> float:
    """Each connection sends its own requests one after the other; the seconds until the last answer."""

    async def run(connection: Connection, own: Sequence[bytes]) -> None:
        for request in own:
            expect_ok(await connection.send(request))

    started_s = time.perf_counter()
    await asyncio.gather(*map(run, connections, requests))
    return time.perf_counter() - started_s


async def measure_fanout(world: World, scale: Scale) -> Measured:
    """100 members wait in `/sync?timeout=30000`; from the start of a send until all 100 hold the message.

    The median over the rounds. A sync that comes back without the message is followed by the next at once, as
    a client would do; its cost counts. The sender is a member, but does not sync.
    """
    users = await world.register(FANOUT_MEMBERS + 1)
    sender, members = users[0], users[1:]
    (room_id,) = await world.create_rooms([sender])
    await world.join((member, room_id) for member in members)
    rounds = scale.fanout_rounds + 1
    markers = [f"round-{number}-of-the-fan-out" for number in range(rounds)]
    requests = [world.message_request(sender, room_id, marker) for marker in markers]
    taken_ms: list[float] = []
    async with world.connections(FANOUT_MEMBERS + 1) as connections:
        pollers = [_Poller(*pair) for pair in zip(connections[1:], members, strict=True)]
        await asyncio.gather(*(poller.catch_up() for poller in pollers))
        for marker, request in zip(markers, requests, strict=True):
            waits = [asyncio.ensure_future(poller.wait_for(marker.encode())) for poller in pollers]
            await asyncio.sleep(SETTLE_S)
            with world.measuring():
                started_s = time.perf_counter()
                sent = connections[0].send(request)
                arrived_s = await asyncio.gather(*waits)
                taken_ms.append((max(arrived_s) - started_s) * 1000)
            expect_ok(await sent)
    return {"fanout_ms": statistics.median(taken_ms[1:])}


class _Poller:
    """One long-polling member."""

    def __init__(self, connection: Connection, member: User) -> None:
        self._connection = connection
        self._member = member
        self._last: Response | None = None

    async def catch_up(self) -> None:
        self._last = expect_ok(await self._connection.send(sync_request(self._member)))

    async def wait_for(self, marker: bytes) -> float:
        """Poll until the marker has come, and say when that was."""
        while True:
            # Decoded here, not on arrival: then 99 others may be waiting for this process to read theirs.
            since = self._last.json()["next_batch"] if self._last is not None else None
            self._last = await self._connection.send(sync_request(self._member, since, LONG_POLL_MS))
            arrived_s = time.perf_counter()
            if marker in expect_ok(self._last).body:
                return arrived_s


async def measure_creates(world: World, scale: Scale) -> Measured:
    """4 creators side by side, each making one public room after the other."""
    creators = await world.register(SETUP_CONNECTIONS)
    warm_up = 2
    each = scale.creates // len(creators)
    requests = [[world.room_request(creator) for _ in range(warm_up + each)] for creator in creators]
    async with world.connections(len(creators)) as connections:
        await _send_in_turns(connections, [own[:warm_up] for own in requests])
        with world.measuring():
            elapsed_s = await _send_in_turns(connections, [own[warm_up:] for own in requests])
    return {"creates": len(creators) * each / elapsed_s}


async def measure_joins(world: World, scale: Scale) -> Measured:
    """100 users join one public room, 4 at a time; then the same users the next room."""
    owner, *users = await world.register(101)
    rooms = await world.create_rooms([owner] * (scale.join_rooms + 1))
    await world.join((user, rooms[0]) for user in users[:8])
    requests = [join_request(user, room_id) for room_id in rooms[1:] for user in users]
    async with world.connections(SETUP_CONNECTIONS) as connections:
        parts = [requests[number :: len(connections)] for number in range(len(connections))]
        with world.measuring():
            elapsed_s = await _send_in_turns(connections, parts)
    return {"joins": len(requests) / elapsed_s}


async def measure_history(world: World, scale: Scale) -> Measured:
    """4 members page a room back from its end to its beginning, 50 events a page, again and again.

    The first walk, untimed, notes the requests that the tokens lead to; the timed walks repeat these, so that
    the generator need not decode the pages while the server works.
    """
    readers = await world.register(SETUP_CONNECTIONS)
    (room_id,) = await world.create_rooms(readers[:1])
    await world.join((reader, room_id) for reader in readers[1:])
    await world.fill([(reader, room_id) for reader in readers], scale.history_messages // len(readers))
    each = scale.history_pages // len(readers)
    async with world.connections(len(readers)) as connections:
        walks = await asyncio.gather(
            *(_walk_back(*pair, room_id) for pair in zip(connections, readers, strict=True))
        )
        requests = [list(itertools.islice(itertools.cycle(walk), each)) for walk in walks]
        with world.measuring():
            elapsed_s = await _send_in_turns(connections, requests)
    return {"pages": len(readers) * each / elapsed_s}


async def _walk_back(connection: Connection, reader: User, room_id: str) -> list[bytes]:
    """The requests for every full page of the room, from its end to its beginning."""
    query = {"dir": "b", "limit": str(PAGE_SIZE)}
    requests: list[bytes] = []
    while True:
        path = f"{CLIENT}/rooms/{encode(room_id)}/messages"
        request = build_request("GET", path, reader.token, query=query)
        page = expect_ok(await connection.send(request)).json()
        if len(page["chunk"]) < PAGE_SIZE:
            return requests
        requests.append(request)
        query["from"] = page["end"]


async def _populate_24_rooms(world: World, members: Sequence[User]) -> tuple[list[User], list[str]]:
    """The owner of each room, and the rooms."""
    owners = await world.register(SETUP_CONNECTIONS)
    creators = [owners[number % len(owners)] for number in range(INITIAL_ROOMS)]
    rooms = await world.create_rooms(creators)
    await world.join((member, room_id) for room_id in rooms for member in members)
    await world.fill(list(zip(creators, rooms, strict=True)), INITIAL_MESSAGES)
    return creators, rooms


async def measure_initial(world: World, scale: Scale) -> Measured:
    """The first sync ever of a user in 24 rooms with a few members and messages each; the median over users."""
    members = await world.register(scale.initial_syncs + 1)
    await _populate_24_rooms(world, members)
    taken_ms: list[float] = []
    with BlockingConnection(world.port) as connection, world.measuring():
        for member in members:
            response, took_ms = connection.timed(sync_request(member))
            taken_ms.append(took_ms)
            if len(expect_ok(response).json()["rooms"]["join"]) != INITIAL_ROOMS:
                raise AssertionError(f"an initial sync without the {INITIAL_ROOMS} rooms")
    return {"initial_ms": statistics.median(taken_ms[1:])}


async def measure_absence(world: World, scale: Scale) -> Measured:
    """A user in 24 rooms comes back after 6,000 messages there: one sync from the token of before; the median over users.

    So many, or a server may still have all of them in memory.
    """
    members = await world.register(scale.initial_syncs + 1)
    owners, rooms = await _populate_24_rooms(world, members)
    tokens = [world.current_token(member) for member in members]
    await world.fill(list(zip(owners, rooms, strict=True)), scale.missed // INITIAL_ROOMS)
    taken_ms: list[float] = []
    with BlockingConnection(world.port) as connection, world.measuring():
        for member, since in zip(members, tokens, strict=True):
            response, took_ms = connection.timed(sync_request(member, since))
            taken_ms.append(took_ms)
            joined = expect_ok(response).json()["rooms"]["join"]
            if [room["timeline"]["limited"] for room in joined.values()] != [True] * INITIAL_ROOMS:
                raise AssertionError(f"a sync that does not tell of a gap in each of {INITIAL_ROOMS} rooms")
    return {"absence_ms": statistics.median(taken_ms[1:])}


async def measure_idle(world: World, scale: Scale) -> Measured:
    """One client in 24 rooms asks `/sync?since=…&timeout=0` again and again, with nothing new."""
    (member,) = await world.register(1)
    await _populate_24_rooms(world, [member])
    since = world.current_token(member)
    with BlockingConnection(world.port) as connection:
        # Presence, receipts and the like may still be on their way: idle is when the token stands still.
        for _ in range(scale.idle_syncs // 10):
            since = expect_ok(connection.request(sync_request(member, since))).json()["next_batch"]
        request = sync_request(member, since)
        with world.measuring():
            started_s = time.perf_counter()
            for _ in range(scale.idle_syncs):
                expect_ok(connection.request(request))
            elapsed_s = time.perf_counter() - started_s
    return {"idle_syncs": scale.idle_syncs / elapsed_s}


ROWS: Mapping[str, Row] = {
    "send": measure_send,
    "sends16": measure_sends_16,
    "sends32": measure_sends_32,
    "fanout": measure_fanout,
    "creates": measure_creates,
    "joins": measure_joins,
    "requests": measure_requests,
    "history": measure_history,
    "initial": measure_initial,
    "absence": measure_absence,
    "idle": measure_idle,
    "sliding": measure_sliding,
    "many": measure_many,
    "claims": measure_claims,
    "claims50": measure_claims_50,
    "inbox": measure_inbox,
}
