"""The rows of encryption: keys that are claimed, and messages that waited for a device."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Sequence
from typing import Any

from tests.bench.figures import Measured, Scale
from tests.bench.wire import BlockingConnection, Connection, build_request, expect_ok
from tests.bench.world import CLIENT, User, World, sync_request

CLAIMANTS = 16
# Who writes in an encrypted room for the first time claims a key of every device there in one request, as clients do.
MEMBERS = 50
WRITERS = 4
# As long as what a device is sent with the key of a room.
CIPHERTEXT = "A" * 900
_NEXT_BATCH = re.compile(rb'"next_batch":\s*"([^"]+)"')


def _device_id(world: World, user: User) -> str:
    found: str = world.ask(build_request("GET", f"{CLIENT}/account/whoami", user.token)).json()["device_id"]
    return found


def _key(number: int) -> tuple[str, dict[str, object]]:
    signatures = {"@somebody:example.org": {"ed25519:DEVICE": "s" * 86}}
    return f"signed_curve25519:{number:06}", {"key": f"{number:043}", "signatures": signatures}


async def measure_claims(world: World, scale: Scale) -> Measured:
    """16 clients, each claiming one key after the other of a device of its own, with one request in flight."""
    targets = await world.register(CLAIMANTS)
    claimants = await world.register(CLAIMANTS)
    warm_up = max(1, scale.claims_each // 10)
    keys = dict(_key(number) for number in range(warm_up + scale.claims_each))
    requests: list[list[bytes]] = []
    for target, claimant in zip(targets, claimants, strict=True):
        world.ask(build_request("POST", f"{CLIENT}/keys/upload", target.token, {"one_time_keys": keys}))
        wanted = {target.user_id: {_device_id(world, target): "signed_curve25519"}}
        claim = build_request("POST", f"{CLIENT}/keys/claim", claimant.token, {"one_time_keys": wanted})
        requests.append([claim] * len(keys))
    async with world.connections(CLAIMANTS) as connections:
        await _claim(connections, [own[:warm_up] for own in requests])
        with world.measuring():
            started_s = time.perf_counter()
            claimed = await _claim(connections, [own[warm_up:] for own in requests])
            elapsed_s = time.perf_counter() - started_s
    if claimed != CLAIMANTS * scale.claims_each:
        raise AssertionError(f"{claimed} keys were claimed, not {CLAIMANTS * scale.claims_each}")
    return {"claims": claimed / elapsed_s}


async def measure_claims_50(world: World, scale: Scale) -> Measured:
    """4 clients, each claiming a key of 50 devices (of 50 users, its own 50) in one request after the other.

    Their own, because Synapse on PostgreSQL gives no key to whoever comes while another claims of the same device.
    """
    writers = await world.register(WRITERS)
    members = await world.register(WRITERS * MEMBERS)
    rounds = 1 + scale.claims_of_all
    keys = dict(_key(number) for number in range(rounds))

    async def upload(connection: Connection, member: User) -> None:
        request = build_request("POST", f"{CLIENT}/keys/upload", member.token, {"one_time_keys": keys})
        expect_ok(await connection.send(request))

    await world.spread(members, upload)
    requests: list[list[bytes]] = []
    for number, writer in enumerate(writers):
        own = members[number * MEMBERS : (number + 1) * MEMBERS]
        wanted = {member.user_id: {_device_id(world, member): "signed_curve25519"} for member in own}
        claim = build_request("POST", f"{CLIENT}/keys/claim", writer.token, {"one_time_keys": wanted})
        requests.append([claim] * rounds)
    async with world.connections(WRITERS) as connections:
        await _claim(connections, [own[:1] for own in requests])
        with world.measuring():
            started_s = time.perf_counter()
            claimed = await _claim(connections, [own[1:] for own in requests])
            elapsed_s = time.perf_counter() - started_s
    if claimed != WRITERS * MEMBERS * scale.claims_of_all:
        raise AssertionError(f"{claimed} keys were claimed, not {WRITERS * MEMBERS * scale.claims_of_all}")
    return {"claims_50": claimed / elapsed_s}


async def _claim(connections: Sequence[Connection], requests: Sequence[Sequence[bytes]]) -> int:
    """Each connection sends its own requests one after the other; how many keys came back."""

    async def run(connection: Connection, own: Sequence[bytes]) -> int:
        bodies = [expect_ok(await connection.send(request)).body for request in own]
        return sum(body.count(b"signed_curve25519:") for body in bodies)

    return sum(await asyncio.gather(*map(run, connections, requests)))


async def measure_inbox(world: World, scale: Scale) -> Measured:
    """A device comes back to 10,000 messages, and syncs until it has them all: from the first request to the last.

    Every message must come, once and in the order in which it was sent.
    """
    receiver, *senders = await world.register(5)
    device_id = _device_id(world, receiver)
    since = world.current_token(receiver)
    share = scale.waiting // len(senders)

    async def send(connection: Connection, part: tuple[int, User]) -> None:
        number, sender = part
        for count in range(share):
            content = {"sender_number": number, "count": count, "ciphertext": CIPHERTEXT}
            path = f"{CLIENT}/sendToDevice/m.room.encrypted/t{world.next_serial()}"
            body = {"messages": {receiver.user_id: {device_id: content}}}
            expect_ok(await connection.send(build_request("PUT", path, sender.token, body)))

    await world.spread(list(enumerate(senders)), send)
    bodies: list[bytes] = []
    with BlockingConnection(world.port) as connection, world.measuring():
        started_s = time.perf_counter()
        while not bodies or b'"ciphertext"' in bodies[-1]:
            body = expect_ok(connection.request(sync_request(receiver, since))).body
            bodies.append(body)
            # What this generator does with the rest has no part in what is timed.
            since = _next_batch(body)
        elapsed_s = time.perf_counter() - started_s
    found = [event for body in bodies for event in json.loads(body).get("to_device", {}).get("events", [])]
    _check_order(found, len(senders), share)
    return {"inbox_s": elapsed_s}


def _next_batch(body: bytes) -> str:
    """The token of a sync, without a look at the rest: megabytes, and none of the messages has such a name in it."""
    found = _NEXT_BATCH.match(body, body.index(b'"next_batch"'))
    assert found is not None
    return found[1].decode()


def _check_order(events: Sequence[dict[str, Any]], senders: int, share: int) -> None:
    for number in range(senders):
        counts = [e["content"]["count"] for e in events if e["content"]["sender_number"] == number]
        if counts != list(range(share)):
            raise AssertionError(f"of {share} messages of one sender {len(counts)} came, or not in order")
