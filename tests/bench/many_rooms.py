"""Rows of accounts in many rooms: the first screen and the whole list by sliding sync, and a first classic sync.

The rooms are public, have a name, a message and a few state events each, and are the account's own. Every measured
request is of a device that was never here before; what is in the server's caches is there for both servers.
"""

from __future__ import annotations

import statistics
from typing import Any

from tests.bench.figures import Measured, Scale
from tests.bench.wire import BlockingConnection, build_request, expect_ok
from tests.bench.world import CLIENT, User, World, sync_request

SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
FIRST_SCREEN = 20
# As much as the list grows from one request to the next.
STEP = 100
# What the Rust SDK's room list asks for.
REQUIRED_STATE = [
    ["m.room.name", ""],
    ["m.room.encryption", ""],
    ["m.room.member", "$LAZY"],
    ["m.room.member", "$ME"],
    ["m.room.topic", ""],
    ["m.room.avatar", ""],
    ["m.room.canonical_alias", ""],
    ["m.room.power_levels", ""],
    ["org.matrix.msc3401.call.member", "*"],
    ["m.room.join_rules", ""],
    ["m.room.tombstone", ""],
    ["m.room.create", ""],
    ["m.room.history_visibility", ""],
    ["io.element.functional_members", ""],
    ["m.space.parent", "*"],
    ["m.space.child", "*"],
]


async def _in_many_rooms(world: World, rooms: int) -> User:
    """An account with so many rooms, a message in each."""
    (user,) = await world.register(1)
    room_ids = await world.create_rooms([user] * rooms)
    await world.fill([(user, room_id) for room_id in room_ids], 1)
    return user


def _log_in(world: World, user: User) -> User:
    """A new device of the account."""
    name = user.user_id[1:].partition(":")[0]
    body = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": name},
        "password": f"password of user {name.removeprefix('user')}",
    }
    answer = world.ask(build_request("POST", f"{CLIENT}/login", None, body)).json()
    return User(user.user_id, answer["access_token"])


def _sliding_request(user: User, last: int, limit: int, pos: str | None) -> bytes:
    body: dict[str, Any] = {
        "conn_id": "room-list",
        "lists": {
            "all_rooms": {"ranges": [[0, last]], "timeline_limit": limit, "required_state": REQUIRED_STATE}
        },
        "extensions": {
            "account_data": {"enabled": True},
            "receipts": {"enabled": True, "rooms": ["*"]},
            "typing": {"enabled": True},
        },
    }
    query = {"timeout": "0"} if pos is None else {"timeout": "0", "pos": pos}
    return build_request("POST", SLIDING, user.token, body, query)


async def measure_sliding(world: World, scale: Scale) -> Measured:
    """The first 20 of 500 rooms with 20 events of each; and the list growing to all of them with one event of each, a
    hundred rooms at a time, as the Rust SDK does it. The median over the devices."""
    account = await _in_many_rooms(world, scale.sliding_rooms)
    first_ms: list[float] = []
    all_ms: list[float] = []
    devices = [_log_in(world, account) for _ in range(scale.many_devices + 1)]
    with BlockingConnection(world.port) as connection, world.measuring():
        for device in devices:
            answer, took_ms = connection.timed(_sliding_request(device, FIRST_SCREEN - 1, 20, None))
            first_ms.append(took_ms)
            if len(expect_ok(answer).json()["rooms"]) != FIRST_SCREEN:
                raise AssertionError("a first screen that is not full")
            all_ms.append(_grow(connection, _log_in(world, account), scale.sliding_rooms))
    return {
        "sliding_first_ms": statistics.median(first_ms[1:]),
        "sliding_all_ms": statistics.median(all_ms[1:]),
    }


def _grow(connection: BlockingConnection, device: User, rooms: int) -> float:
    """From the first request until every room was told of, in milliseconds; the generator's own work left out."""
    pos: str | None = None
    told = 0
    taken_ms = 0.0
    last = FIRST_SCREEN - 1
    while told < rooms:
        response, took_ms = connection.timed(_sliding_request(device, last, 1, pos))
        taken_ms += took_ms
        answer = expect_ok(response).json()
        pos, found = answer["pos"], len(answer["rooms"])
        told += found
        if not found:
            raise AssertionError(f"only {told} of {rooms} rooms were told of")
        last += STEP
    return taken_ms


async def measure_many(world: World, scale: Scale) -> Measured:
    """The first classic sync of a device of an account in 1,000 rooms; the median over the devices."""
    account = await _in_many_rooms(world, scale.many_rooms)
    taken_ms: list[float] = []
    devices = [_log_in(world, account) for _ in range(scale.many_devices + 1)]
    with BlockingConnection(world.port) as connection, world.measuring():
        for device in devices:
            response, took_ms = connection.timed(sync_request(device))
            taken_ms.append(took_ms)
            if len(expect_ok(response).json()["rooms"]["join"]) != scale.many_rooms:
                raise AssertionError(f"a first sync without the {scale.many_rooms} rooms")
    return {"many_rooms_ms": statistics.median(taken_ms[1:])}
