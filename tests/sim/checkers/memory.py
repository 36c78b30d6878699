"""When nobody has asked for anything for long, nothing of it is left in memory: actors, waiters, requests under way."""

from __future__ import annotations

from collections.abc import Iterator

from homeserver.app import App
from homeserver.rooms.registry import IDLE_S
from tests.sim.server import HOUSEKEEPING_S, SimServer
from tests.sim.world import World


def check(world: World) -> Iterator[str]:
    """See the module. Runs after a long quiet time."""
    for server in world.servers:
        for problem in _look(world, server):
            yield f"{server.name}: {problem}"
    if world.network.waiting:
        yield f"{world.network.waiting} requests between servers have no answer"


def _look(world: World, server: SimServer) -> Iterator[str]:
    app = server.app
    if app is None:
        yield "the server did not come up again"
        return
    # Events whose room will not give what they stand on are tried again now and then.
    if not app.services.incoming.filler.waiting and (active := _active(world, server, app)):
        yield f"{active} rooms are still active"
    if len(app.core.notifier):
        yield f"{len(app.core.notifier)} still wait"
    if app.services.rooms.transactions._running:
        yield f"{len(app.services.rooms.transactions._running)} transactions are still under way"
    if app.core.committer._waiting or app.core.committer._weight:
        yield "something still waits for the committer"
    if server._open:
        yield f"{len(server._open)} requests have no answer"


def _active(world: World, server: SimServer, app: App) -> int:
    """Rooms that ought to have left memory. Where somebody lied, its events may have found their place a moment ago."""
    actors = app.core.rooms._actors.values()
    if world.liar is None or server.life is None:
        return len(actors)
    before_s = server.life.monotonic() - IDLE_S - HOUSEKEEPING_S
    return sum(actor.last_used_s < before_s for actor in actors)
