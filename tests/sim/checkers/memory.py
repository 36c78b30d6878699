"""When nobody has asked for anything for long, nothing of it is left in memory: actors, waiters, requests under way."""

from __future__ import annotations

from collections.abc import Iterator

from tests.sim.world import World


def check(world: World) -> Iterator[str]:
    """See the module. Runs after a long quiet time."""
    app = world.server.app
    if app is None:
        yield "the server did not come up again"
        return
    if app.core.rooms._actors:
        yield f"{len(app.core.rooms._actors)} rooms are still active"
    if len(app.core.notifier):
        yield f"{len(app.core.notifier)} still wait"
    if app.services.rooms.transactions._running:
        yield f"{len(app.services.rooms.transactions._running)} transactions are still under way"
    if app.core.committer._waiting or app.core.committer._weight:
        yield "something still waits for the committer"
    if world.server._open:
        yield f"{len(world.server._open)} requests have no answer"
