"""Queues stay within their bounds, at every step."""

from __future__ import annotations

from collections.abc import Iterator

from homeserver.rooms.actor import INBOX_MOST
from homeserver.rooms.committer import BATCH_EVENTS, WAITING_MOST
from tests.sim.world import World


def check(world: World) -> Iterator[str]:
    """See the module."""
    for server in world.servers:
        app = server.app
        if app is None:
            continue
        if app.core.committer._weight > WAITING_MOST + BATCH_EVENTS:
            yield f"{server.name}: {app.core.committer._weight} events wait for the committer"
        for actor in app.core.rooms._actors.values():
            if len(actor._inbox) > INBOX_MOST:
                yield f"{server.name}: {len(actor._inbox)} jobs wait for {actor.room_id}"
