"""The rows of the table that need another server: joins of large rooms, messages from server to server, transactions in.

Joins and transactions meet the same resident server on both implementations (`resident.py`), so that only the one under
test is measured. Messages go between two servers of the same kind. All of it runs over TLS with checked certificates.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from federation.event import Event
from tests.bench.figures import Measured, Scale
from tests.bench.resident import LargeRoom, Resident, make_resident, serve
from tests.bench.resolution import add_branches, merge
from tests.bench.targets import Target
from tests.bench.wire import BlockingConnection, build_request, encode, expect_ok
from tests.bench.world import CLIENT, User, World, sync_request
from tests.interop.authority import Authority, Wire
from tests.interop.process import ServerProcess
from tests.interop.synapse import REGISTRATION_SECRET

HERE, THERE, RESIDENT = "127.0.0.30", "127.0.0.31", "127.0.0.32"
SENDERS = 8
FORKED_MEMBERS, FORK = 10_000, 100
LIMIT_S = 600.0
_POLL_S = 0.02

NewDatabase = Callable[[str], str]
"""Gives the address of an empty database for a purpose."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What a row gets: the server under test, another of its kind, and the resident server that is no server."""

    here: ServerProcess
    here_wire: Wire
    there: ServerProcess
    there_wire: Wire
    resident: Resident
    scale: Scale
    measuring: Callable[[], AbstractContextManager[None]] = nullcontext
    """Around what a row times: who watches the server looks at no more."""

    def world(self, server: ServerProcess) -> World:
        return World(server.port, REGISTRATION_SECRET)


Row = Callable[[Stage], Coroutine[None, None, Measured]]


async def measure_join_1000(stage: Stage) -> Measured:
    """A user joins a room of 1,000 members by way of another server of the same kind, which is in it; until their own
    server lists them all. Median of three. The joining server does its part, and the other one tells what it knows."""
    worlds = stage.world(stage.here), stage.world(stage.there)
    taken = [await _join_by_peer(stage, *worlds, 1_000) for _ in range(stage.scale.large_joins)]
    return {"join_1000_s": statistics.median_high(complete_s for _, complete_s in taken)}


async def measure_join_10000(stage: Stage) -> Measured:
    """The same with 10,000 members, once; usable is when the join is answered and a message of the user's accepted."""
    worlds = stage.world(stage.here), stage.world(stage.there)
    usable_s, complete_s = await _join_by_peer(stage, *worlds, 10_000)
    return {"join_10000_usable_s": usable_s, "join_10000_s": complete_s}


async def measure_joining_1000(stage: Stage) -> Measured:
    """The joining server's part alone: the other one is the bench's own, which answers both kinds at once and alike. A
    user joins a room of 1,000 members there, as before. Median of three."""
    world = stage.world(stage.here)
    taken = [await _join_alone(stage, world, 1_000) for _ in range(stage.scale.large_joins)]
    return {"joining_1000_s": statistics.median_high(complete_s for _, complete_s in taken)}


async def measure_joining_10000(stage: Stage) -> Measured:
    """The same with 10,000 members, once."""
    _, complete_s = await _join_alone(stage, stage.world(stage.here), 10_000)
    return {"joining_10000_s": complete_s}


async def _join_by_peer(stage: Stage, here: World, there: World, members: int) -> tuple[float, float]:
    """As `_join`, by way of the other server, which has joined and knows all of the room."""
    (user,) = await here.register(1)
    (guide,) = await there.register(1)
    room, known = stage.resident.create_large(members), stage.resident.create_large(1)
    for one in (known, room):
        _join_room(there, guide, one, stage.resident.server_name)
    await _until_complete(there, guide, room, members)
    # The keys of the other servers are known, as those of large ones are.
    _join_room(here, user, known, stage.there_wire.server_name)
    asked = stage.resident.asked_for_state
    with stage.measuring():
        taken = await _join(here, user, room, stage.there_wire.server_name, members)
    if stage.resident.asked_for_state != asked:
        raise AssertionError("the state was not asked of the server that is measured")
    return taken


async def _join_alone(stage: Stage, world: World, members: int) -> tuple[float, float]:
    """As `_join`, by way of the bench's own server."""
    room = stage.resident.create_large(members)
    (user,) = await world.register(1)
    # The keys of the other server are known, as those of a large one are.
    _join_room(world, user, stage.resident.create_large(1), stage.resident.server_name)
    with stage.measuring():
        return await _join(world, user, room, stage.resident.server_name, members)


async def _join(world: World, user: User, room: LargeRoom, via: str, members: int) -> tuple[float, float]:
    """Seconds until the room is usable, and until its members are complete."""
    started_s = time.perf_counter()
    _join_room(world, user, room, via)
    world.ask(world.message_request(user, room.room_id))
    usable_s = time.perf_counter() - started_s
    await _until_complete(world, user, room, members)
    return usable_s, time.perf_counter() - started_s


async def _until_complete(world: World, user: User, room: LargeRoom, members: int) -> None:
    request = build_request("GET", f"{CLIENT}/rooms/{encode(room.room_id)}/joined_members", user.token)
    await _until(world, request, lambda answer: len(answer["joined"]) >= members)


def _join_room(world: World, user: User, room: LargeRoom, via: str) -> None:
    query: dict[str, str] = {"server_name": via, "via": via}
    path = f"{CLIENT}/join/{encode(room.room_id)}"
    world.ask(build_request("POST", path, user.token, {}, query))


async def measure_messages_across(stage: Stage) -> Measured:
    """8 senders in one room on one server, each with one message in flight; until the other server shows the last one.

    Both servers are of the kind that is measured, and share the two cores with the generator.
    """
    here, there = stage.world(stage.here), stage.world(stage.there)
    senders = await here.register(SENDERS)
    (reader,) = await there.register(1)
    (room_id,) = await here.create_rooms(senders[:1])
    await here.join((sender, room_id) for sender in senders[1:])
    query = {"server_name": stage.here_wire.server_name, "via": stage.here_wire.server_name}
    there.ask(build_request("POST", f"{CLIENT}/join/{encode(room_id)}", reader.token, {}, query))
    each = stage.scale.messages_across // SENDERS
    await _cross(here, there, senders, reader, room_id, max(1, each // 10))
    with stage.measuring():
        elapsed_s = await _cross(here, there, senders, reader, room_id, each)
    return {"messages_across": SENDERS * each / elapsed_s}


async def _cross(
    here: World, there: World, senders: list[User], reader: User, room_id: str, each: int
) -> float:
    """Send, and follow on the other side until everything has come; the seconds of that."""
    since = there.current_token(reader)
    wanted = SENDERS * each
    requests = [[here.message_request(sender, room_id) for _ in range(each)] for sender in senders]

    async def send(connection: Any, own: list[bytes]) -> None:
        for request in own:
            expect_ok(await connection.send(request))

    async def follow(connection: Any, since: str) -> None:
        seen = 0
        while seen < wanted:
            request = sync_request(reader, since, 10_000)
            answer = expect_ok(await connection.send(request)).json()
            since = answer["next_batch"]
            room = answer.get("rooms", {}).get("join", {}).get(room_id, {}).get("timeline", {})
            if room.get("limited"):
                # More came at once than a sync holds: count what lies between.
                seen += await _count_gap(connection, reader, room_id, room["prev_batch"], wanted - seen)
            seen += sum(event["type"] == "m.room.message" for event in room.get("events", ()))

    async with here.connections(SENDERS) as outgoing, there.connections(1) as incoming:
        started_s = time.perf_counter()
        following = asyncio.ensure_future(follow(incoming[0], since))
        await asyncio.gather(*(send(*pair) for pair in zip(outgoing, requests, strict=True)))
        await asyncio.wait_for(following, LIMIT_S)
        return time.perf_counter() - started_s


async def _count_gap(connection: Any, reader: User, room_id: str, start: str, most: int) -> int:
    """How many messages lie before this point that no sync has shown: never asked for more than are missing."""
    query = {"dir": "b", "limit": str(min(most, 1000)), "from": start}
    path = f"{CLIENT}/rooms/{encode(room_id)}/messages"
    page = expect_ok(await connection.send(build_request("GET", path, reader.token, query=query))).json()
    return sum(event["type"] == "m.room.message" for event in page["chunk"])


async def measure_transactions_in(stage: Stage) -> Measured:
    """Another server sends transactions of one message each, one after the other, until all of them are shown."""
    room = stage.resident.create_large(1)
    world = stage.world(stage.here)
    (reader,) = await world.register(1)
    _join_room(world, reader, room, stage.resident.server_name)
    count = stage.scale.transactions_in
    warm_up = max(1, count // 10)
    requests = [_transaction(stage, room, number) for number in range(warm_up + count)]
    with _Sender(stage.here_wire) as sender:
        for parcel, _ in requests[:warm_up]:
            sender.send(parcel)
        with stage.measuring():
            started_s = time.perf_counter()
            for parcel, _ in requests[warm_up:]:
                sender.send(parcel)
            path = f"{CLIENT}/rooms/{encode(room.room_id)}/event/{encode(requests[-1][1])}"
            await _until(world, build_request("GET", path, reader.token), lambda _: True)
            elapsed_s = time.perf_counter() - started_s
    return {"transactions_in": count / elapsed_s}


def _transaction(stage: Stage, room: LargeRoom, number: int) -> tuple[bytes, str]:
    """A message in a transaction of its own, which only waits to be sent, and the event's id."""
    event = room.say(f"message {number}", sender=stage.resident.user("member0"), ts=int(time.time() * 1000))
    return _parcel(stage, f"message{number}", [event]), event.event_id


def _parcel(stage: Stage, name: str, events: Sequence[Event]) -> bytes:
    """The request of a transaction, signed."""
    uri = f"/_matrix/federation/v1/send/{name}x{time.time_ns()}"
    content = stage.resident.transaction(events)
    content["origin_server_ts"] = int(time.time() * 1000)
    body = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    head = [
        f"PUT {uri} HTTP/1.1",
        f"Host: {stage.here_wire.server_name}",
        f"Authorization: {stage.resident.authorization(stage.here_wire.server_name, 'PUT', uri, body)}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*head, "", ""]).encode() + body


class _Sender:
    """One connection of the resident server to the server under test."""

    def __init__(self, wire: Wire) -> None:
        context = ssl.create_default_context(cafile=str(wire.ca_file))
        self._connection = BlockingConnection(wire.port, wire.address, context)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.__exit__()

    def send(self, parcel: bytes) -> None:
        answer = expect_ok(self._connection.request(parcel))
        if any(answer.json().get("pdus", {}).values()):
            raise AssertionError(f"a transaction was not taken: {answer.body[:400]!r}")


async def measure_resolve(stage: Stage) -> Measured:
    """A room of 10,000 members comes apart: two branches of 50 state events each arrive, and an event on both ends.

    From the first byte of the first branch until that event is shown. What is resolved is checked against our own
    resolution of the same events.
    """
    room = stage.resident.create_large(FORKED_MEMBERS)
    world = stage.world(stage.here)
    (user,) = await world.register(1)
    _join_room(world, user, room, stage.resident.server_name)
    await _until_complete(world, user, room, FORKED_MEMBERS)
    branches = add_branches(room, FORK)
    last = merge(room, branches)
    parcels = [_parcel(stage, f"fork{number}", events) for number, (_, events) in enumerate(branches)]
    parcels.append(_parcel(stage, "merge", [last]))
    with _Sender(stage.here_wire) as sender, stage.measuring():
        started_s = time.perf_counter()
        for parcel in parcels:
            sender.send(parcel)
        path = f"{CLIENT}/rooms/{encode(room.room_id)}/event/{encode(last.event_id)}"
        await _until(world, build_request("GET", path, user.token), lambda _: True)
        elapsed_ms = (time.perf_counter() - started_s) * 1000
    state = world.ask(build_request("GET", f"{CLIENT}/rooms/{encode(room.room_id)}/state", user.token)).json()
    found = {(event["type"], event["state_key"]): event["event_id"] for event in state}
    wanted = room.state_after(())
    wrong = [key for key in {*found, *wanted} if found.get(key) != wanted.get(key)]
    if wrong:
        raise AssertionError(f"the state is another than ours in {wrong[:10]}")
    return {"resolution_ms": elapsed_ms}


async def _until(world: World, request: bytes, holds: Callable[[Any], bool]) -> None:
    """Ask until the answer is a success that holds."""
    deadline_s = time.perf_counter() + LIMIT_S
    with BlockingConnection(world.port) as connection:
        while True:
            answer = connection.request(request)
            if answer.status == 200 and holds(answer.json()):
                return
            if time.perf_counter() > deadline_s:
                raise AssertionError(f"not within {LIMIT_S:.0f} s: {request[:200]!r}")
            await asyncio.sleep(_POLL_S)


ROWS: Mapping[str, Row] = {
    "join1000": measure_join_1000,
    "join10000": measure_join_10000,
    "joining1000": measure_joining_1000,
    "joining10000": measure_joining_10000,
    "across": measure_messages_across,
    "inbound": measure_transactions_in,
    "resolve": measure_resolve,
}


def run_federated(
    name: str, target: Target, new_database: NewDatabase, scale: Scale, say: Callable[[str], None]
) -> Measured:
    """The figures of one row, on servers of its own on empty databases."""
    with prepare_stage(name, target, new_database, scale) as stage:
        found = run_on(stage, name)
    say(f"{name}: " + ", ".join(f"{key} {value:.2f}" for key, value in found.items()))
    return found


def run_on(stage: Stage, name: str) -> Measured:
    """The figures of one row."""
    try:
        return asyncio.run(ROWS[name](stage))
    except Exception as error:
        raise AssertionError(stage.here.explain(f"failed in row {name} ({error!r})")) from error


@contextmanager
def prepare_stage(name: str, target: Target, new_database: NewDatabase, scale: Scale) -> Iterator[Stage]:
    """Servers that run, for the length of the `with`."""
    with ExitStack() as stack:
        prefix = f"bench-{target.name.split()[0].lower()}-"
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix)))
        authority = Authority(folder / "authority")
        wires = [authority.issue(address, gated=False) for address in (HERE, THERE, RESIDENT)]
        servers = []
        for number, wire in enumerate(wires[:2]):
            database = new_database(f"{name}_{number}")
            server = target.prepare_federated(folder / str(number), database, wire)
            servers.append(stack.enter_context(server))
            server.start()
        resident = make_resident(wires[2])
        stack.enter_context(serve(resident, wires[2]))
        yield Stage(servers[0], wires[0], servers[1], wires[1], resident, scale)
