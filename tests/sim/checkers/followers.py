"""In the end the followers have read the whole log, and nobody honest is owed anything by anybody honest."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import select

from homeserver.db.schema.peers import destinations
from homeserver.db.statements import statement
from tests.sim.world import World

_OWED = statement(select(destinations.c.server_name, destinations.c.caught_up_to, destinations.c.failures))


def check(world: World) -> Iterator[str]:
    """See the module. Runs after a long quiet time."""
    names = {server.name for server in world.honest}
    for server in world.honest:
        if server.app is not None and not server.app.outgoing.followers.settled:
            yield f"{server.name}: a follower is behind"
        for name, position, failures in server.engine.writer().run(lambda tx: tx.all(_OWED)):
            if name in names:
                yield f"{server.name}: {name} has not got everything: {position}, {failures} failures"
