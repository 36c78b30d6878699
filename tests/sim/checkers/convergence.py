"""When all is quiet, honest servers that are in a room have the same of it: ends, state, events; and all that was said.

A server that lies about states makes rooms that the protocol itself lets fall apart; where that happened, only the
soundness of each server is demanded. What a server soft-failed it has, and does not show.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.sim.client import SimClient
from tests.sim.server import SimServer
from tests.sim.world import World
from tests.support.kept_rooms import Room, load


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
