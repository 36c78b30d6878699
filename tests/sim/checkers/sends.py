"""Each acknowledged send is in the room exactly once; everybody saw it once, in the room's one order, without holes.

Also: what anybody ever saw is in the database at the end, so nothing was visible before its commit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import msgspec
from sqlalchemy import select

from homeserver.db.schema.rooms import event_json, events, rooms, timeline
from homeserver.db.statements import statement
from homeserver.db.tx import Tx
from tests.sim.client import SimClient
from tests.sim.world import World

_TIMELINES = statement(
    select(rooms.c.room_id, events.c.event_id, event_json.c.json)
    .select_from(
        timeline.join(rooms, rooms.c.nid == timeline.c.room_nid)
        .join(events, events.c.nid == timeline.c.event_nid)
        .join(event_json, event_json.c.nid == events.c.nid)
    )
    .order_by(timeline.c.pos)
)


def _load(tx: Tx) -> tuple[dict[str, list[str]], Counter[tuple[str, str]], dict[str, str]]:
    order: dict[str, list[str]] = {}
    bodies: Counter[tuple[str, str]] = Counter()
    body_of: dict[str, str] = {}
    for room_id, event_id, text in tx.all(_TIMELINES):
        order.setdefault(room_id, []).append(event_id)
        body = msgspec.json.decode(text)["content"].get("body")
        if body is not None:
            bodies[(room_id, body)] += 1
            body_of[event_id] = body
    return order, bodies, body_of


def check(world: World) -> Iterator[str]:
    """See the module."""
    for server in world.servers:
        order, bodies, body_of = server.engine.writer().run(_load)
        for (room_id, body), count in bodies.items():
            if count > 1 and server in world.honest:
                yield f"{server.name}: {body!r} is {count} times in {room_id}"
        for client in world.clients_of(server):
            # A liar may hear of its lies for a long time yet: nobody waits for that.
            yield from _check_client(client, order, body_of, to_the_end=server in world.honest)


def _check_client(
    client: SimClient, order: Mapping[str, list[str]], body_of: Mapping[str, str], *, to_the_end: bool
) -> Iterator[str]:
    for room_id, body, event_id in client.acknowledged:
        if body_of.get(event_id) != body or event_id not in order.get(room_id, ()):
            yield f"{client.name} was told that {body!r} is {event_id}, and it is not there"
    for segment in client.segments:
        whole = order.get(segment.room_id, [])
        seen = segment.event_ids
        missing = [event_id for event_id in seen if event_id not in whole]
        if missing:
            yield f"{client.name} saw {missing}, which were never committed"
        elif seen:
            first = whole.index(seen[0])
            if whole[first : first + len(seen)] != seen:
                yield f"{client.name} saw {segment.room_id} in another order, with holes, or twice"
            if to_the_end and segment.open and whole[first:] != seen:
                yield f"{client.name} did not see the end of {segment.room_id}"
