"""When all is quiet, honest servers that are in a room have the same of it: ends, state, events; and all that was said.

A server that lies about states makes rooms that the protocol itself lets fall apart; where that happened, only the
soundness of each server is demanded. What a server soft-failed it has, and does not show.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec
from sqlalchemy import select

from homeserver.db.schema.rooms import (
    current_state,
    event_types,
    events,
    members,
    room_heads,
    rooms,
    state_keys,
    timeline,
    user_ids,
)
from homeserver.db.statements import statement
from homeserver.db.tx import Tx
from homeserver.store.placement import Membership
from tests.sim.client import SimClient
from tests.sim.server import SimServer
from tests.sim.world import World

_EVENTS = statement(
    select(
        rooms.c.room_id,
        events.c.event_id,
        events.c.nid,
        user_ids.c.user_id,
        events.c.rejected_reason,
        timeline.c.pos,
    )
    .select_from(
        events.join(rooms, rooms.c.nid == events.c.room_nid)
        .join(user_ids, user_ids.c.nid == events.c.sender_nid)
        .outerjoin(timeline, timeline.c.event_nid == events.c.nid)
    )
    .where(events.c.state_before.is_not(None))
)
_HEADS = statement(
    select(rooms.c.room_id, room_heads.c.extremities).select_from(
        room_heads.join(rooms, rooms.c.nid == room_heads.c.room_nid)
    )
)
_STATE = statement(
    select(rooms.c.room_id, event_types.c.type, state_keys.c.state_key, events.c.event_id).select_from(
        current_state.join(rooms, rooms.c.nid == current_state.c.room_nid)
        .join(state_keys, state_keys.c.nid == current_state.c.state_key_nid)
        .join(event_types, event_types.c.nid == state_keys.c.type_nid)
        .join(events, events.c.nid == current_state.c.event_nid)
    )
)
_JOINED = statement(
    select(rooms.c.room_id, user_ids.c.user_id)
    .select_from(
        members.join(rooms, rooms.c.nid == members.c.room_nid).join(
            user_ids, user_ids.c.nid == members.c.user_nid
        )
    )
    .where(members.c.membership == int(Membership.JOIN))
)


@dataclass(slots=True)
class Room:
    """What one server has of a room."""

    senders: dict[str, str] = field(default_factory=dict)  # of the events that it takes for good
    rejected: dict[str, str] = field(default_factory=dict)  # why
    shown: set[str] = field(default_factory=set)
    ends: list[str] = field(default_factory=list)
    state: dict[tuple[str, str], str] = field(default_factory=dict)
    joined: set[str] = field(default_factory=set)


def load(tx: Tx) -> dict[str, Room]:
    """Every room of a server."""
    found: dict[str, Room] = {}
    ids: dict[int, str] = {}
    for room_id, event_id, nid, sender, reason, pos in tx.all(_EVENTS):
        room = found.setdefault(room_id, Room())
        ids[nid] = event_id
        if reason is not None:
            room.rejected[event_id] = reason
            continue
        room.senders[event_id] = sender
        if pos is not None:
            room.shown.add(event_id)
    for room_id, extremities in tx.all(_HEADS):
        ends = msgspec.json.decode(extremities)
        found.setdefault(room_id, Room()).ends = sorted(ids.get(nid, f"event {nid}") for nid in ends)
    for room_id, event_type, state_key, event_id in tx.all(_STATE):
        found.setdefault(room_id, Room()).state[(event_type, state_key)] = event_id
    for room_id, user_id in tx.all(_JOINED):
        found.setdefault(room_id, Room()).joined.add(user_id)
    return found


def check(world: World) -> Iterator[str]:
    """See the module."""
    if len(world.servers) == 1:
        return
    have = {server.name: server.engine.writer().run(load) for server in world.honest}
    for room_id in world.workload.rooms:
        # Who was sent away cannot ask for what would tell them so: the rooms' first server says who is in them.
        founder = have[world.servers[0].name][room_id]
        inside = [server for server in world.honest if _is_inside(world, server, room_id, founder)]
        if not inside:
            continue
        first, *others = inside
        for other in others:
            for problem in _compare(world, have[first.name][room_id], have[other.name][room_id]):
                yield f"{room_id}: {first.name} and {other.name} differ: {problem}"
        for server in inside:
            for client in world.clients_of(server):
                if room_id in client.view.state and client.user_id in founder.joined:
                    yield from _hears_all(world, client, room_id, have[server.name][room_id], founder)


def _is_inside(world: World, server: SimServer, room_id: str, founder: Room) -> bool:
    return any(
        room_id in client.view.state and client.user_id in founder.joined
        for client in world.clients_of(server)
    )


def _compare(world: World, one: Room, other: Room) -> Iterator[str]:
    liar = world.liar
    if liar is None or not liar.could_fork:
        if one.state != other.state:
            keys = sorted(
                key
                for key in {*one.state, *other.state}
                if one.state.get(key) != other.state.get(key)
                and not _was_told_to_one(world, one, other, one.state.get(key))
                and not _was_told_to_one(world, other, one, other.state.get(key))
            )
            if keys:
                yield f"state {[(key, one.state.get(key), other.state.get(key)) for key in keys]}"
        yield from _compare_events(world, one, other)
        # What filled a gap ends nothing (rooms/arrivals.py), so a server may have older ends beside the last word.
        if not set(one.ends) & set(other.ends):
            yield f"ends {one.ends} and {other.ends}"


def _was_told_to_one(world: World, here: Room, there: Room, event_id: str | None) -> bool:
    """Whether an event of a liar came to one server alone; who has spoken their last word names it to nobody."""
    if world.liar is None or event_id is None or event_id in there.senders:
        return False
    return here.senders[event_id].endswith(":" + world.servers[-1].name)


def _compare_events(world: World, one: Room, other: Room) -> Iterator[str]:
    """A liar's own events may be known to those alone whom it told, and nobody names what is soft-failed."""
    lying = ":" + world.servers[-1].name if world.liar is not None else "no liar"
    for here, there, number in ((one, other, "first"), (other, one, "second")):
        alone = sorted(
            event_id
            for event_id, sender in here.senders.items()
            if event_id not in there.senders and event_id in here.shown and not sender.endswith(lying)
        )
        if alone:
            why = {event_id: there.rejected.get(event_id, "unknown") for event_id in alone}
            yield f"events of the {number} alone {why}"


def _hears_all(world: World, client: SimClient, room_id: str, room: Room, founder: Room) -> Iterator[str]:
    history = set(client.history.get(room_id, ()))
    for sender in world.clients:
        if sender.server not in world.honest:
            continue
        for where, body, event_id in sender.acknowledged:
            if where != room_id or event_id in history:
                continue
            # Heard of late, after its sender had left or lost the right to it: then it is soft-failed.
            may_fail = world.options.contested or (room_id, sender.user_id) in world.workload.leavers
            if may_fail and (_is_held_back(room, event_id) or _is_nowhere(room, founder, event_id)):
                continue
            if world.liar is not None and world.liar.could_fork:
                continue
            yield f"{client.name} never heard {body!r} of {sender.name} in {room_id} ({event_id})"


def _is_held_back(room: Room, event_id: str) -> bool:
    """Stored, and soft-failed."""
    return event_id in room.senders and event_id not in room.shown


def _is_nowhere(room: Room, founder: Room, event_id: str) -> bool:
    """Unknown to a server that came later, and soft-failed where it was sent to: nothing that is shown names it."""
    return event_id not in room.senders and event_id not in founder.shown
