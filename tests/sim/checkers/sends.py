"""Each acknowledged send is in the room exactly once; everybody saw it once, in the room's one order, without holes.

Also: what anybody ever saw is in the database at the end, so nothing was visible before its commit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec
from sqlalchemy import and_, select

from homeserver.db.schema.rooms import event_json, events, rooms, timeline
from homeserver.db.statements import statement
from homeserver.db.tx import Tx
from homeserver.store.past import IS_TOLD
from homeserver.stream.tokens import parse_timeline_token
from tests.sim.client import SimClient
from tests.sim.world import World

_TIMELINES = statement(
    select(rooms.c.room_id, events.c.event_id, event_json.c.json, timeline.c.pos)
    .select_from(
        timeline.join(rooms, rooms.c.nid == timeline.c.room_nid)
        .join(events, events.c.nid == timeline.c.event_nid)
        .join(event_json, event_json.c.nid == events.c.nid)
    )
    .where(IS_TOLD)
    .order_by(timeline.c.pos)
)
# Accepted, and without a place: what a told state holds.
_ELSEWHERE = statement(
    select(events.c.event_id, event_json.c.json)
    .select_from(
        events.join(event_json, event_json.c.nid == events.c.nid).outerjoin(
            timeline, timeline.c.event_nid == events.c.nid
        )
    )
    .where(and_(timeline.c.pos.is_(None), events.c.rejected_reason.is_(None)))
)


@dataclass(slots=True)
class _Timelines:
    """What a server shows of its rooms."""

    order: dict[str, list[str]] = field(default_factory=dict)
    bodies: Counter[tuple[str, str]] = field(default_factory=Counter)
    body_of: dict[str, str] = field(default_factory=dict)
    places: dict[str, tuple[int, str]] = field(default_factory=dict)  # position and sender of each event
    ends: set[tuple[str, str]] = field(default_factory=set)  # whose membership an event without a place is


def _load(tx: Tx) -> _Timelines:
    found = _Timelines()
    for room_id, event_id, text, pos in tx.all(_TIMELINES):
        event = msgspec.json.decode(text)
        found.order.setdefault(room_id, []).append(event_id)
        found.places[event_id] = (pos, event["sender"])
        body = event["content"].get("body")
        if body is not None:
            found.bodies[(room_id, body)] += 1
            found.body_of[event_id] = body
    for event_id, text in tx.all(_ELSEWHERE):
        event = msgspec.json.decode(text)
        if event["type"] == "m.room.member" and event["content"].get("membership") != "join":
            found.ends.add((event["state_key"], event_id))
    return found


def check(world: World) -> Iterator[str]:
    """See the module."""
    for server in world.servers:
        shown = server.engine.writer().run(_load)
        for (room_id, body), count in shown.bodies.items():
            if count > 1 and server in world.honest:
                yield f"{server.name}: {body!r} is {count} times in {room_id}"
        for client in world.clients_of(server):
            # A liar may hear of its lies for a long time yet: nobody waits for that.
            yield from _check_client(world, client, shown, to_the_end=server in world.honest)


def _check_client(world: World, client: SimClient, shown: _Timelines, *, to_the_end: bool) -> Iterator[str]:
    order = shown.order
    for room_id, body, event_id in client.acknowledged:
        if shown.body_of.get(event_id) != body or event_id not in order.get(room_id, ()):
            yield f"{client.name} was told that {body!r} is {event_id}, and it is not there"
    for segment in client.segments:
        whole = order.get(segment.room_id, [])
        seen = segment.event_ids
        if not segment.open and seen and (client.user_id, seen[-1]) in shown.ends:
            # Who was put out while they were not in the room is told by the event that says so, wherever it stands.
            seen = seen[:-1]
        missing = [event_id for event_id in seen if event_id not in whole]
        if missing:
            yield f"{client.name} saw {missing}, which were never committed"
        elif seen:
            first = whole.index(seen[0])
            if whole[first : first + len(seen)] != seen:
                yield f"{client.name} saw {segment.room_id} in another order, with holes, or twice"
            told = [one for one in whole[first:] if one in seen or not _is_late(world, client, shown, one)]
            if to_the_end and segment.open and told != seen:
                yield f"{client.name} did not see the end of {segment.room_id}"


def _is_late(world: World, client: SimClient, shown: _Timelines, event_id: str) -> bool:
    """A liar's event that got its place after the client's last look: what lacks its ancestors is tried for hours."""
    pos, sender = shown.places[event_id]
    if world.liar is None or not sender.endswith(":" + world.servers[-1].name):
        return False
    assert client.since is not None
    return pos > parse_timeline_token(client.since)
