"""When nobody has asked for anything for long, nothing of it is left in memory: actors, waiters, requests under way."""

from __future__ import annotations

from collections.abc import Iterator

from tests.sim.server import SimServer
from tests.sim.world import World


def check(world: World) -> Iterator[str]:
    """See the module. Runs after a long quiet time."""
    for server in world.servers:
        for problem in _look(server, is_honest=server in world.honest):
            yield f"{server.name}: {problem}"
    if world.network.waiting:
        yield f"{world.network.waiting} requests between servers have no answer"


def _look(server: SimServer, *, is_honest: bool) -> Iterator[str]:
    app = server.app
    if app is None:
        yield "the server did not come up again"
        return
    # Events whose room will not give what they stand on are tried again now and then.
    # Whoever lied may have had to do with its lies a moment ago.
    if is_honest and app.core.rooms._actors and not app.services.incoming.filler.waiting:
        yield f"{len(app.core.rooms._actors)} rooms are still active"
    if len(app.core.notifier):
        yield f"{len(app.core.notifier)} still wait"
    if app.services.rooms.transactions._running:
        yield f"{len(app.services.rooms.transactions._running)} transactions are still under way"
    if app.core.committer._waiting or app.core.committer._weight:
        yield "something still waits for the committer"
    if server._open:
        yield f"{len(server._open)} requests have no answer"
