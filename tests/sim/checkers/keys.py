"""A one-time key is given out once, whoever claims it from wherever, and only if it was uploaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tests.sim.world import World


def check(world: World) -> Iterator[str]:
    """See the module."""
    honest = [client for client in world.clients if client.server in world.honest]
    claims = Counter(claim for client in honest for claim in client.claimed)
    for owner in honest:
        given = {key_id: count for (user_id, key_id), count in claims.items() if user_id == owner.user_id}
        for key_id, count in sorted(given.items()):
            if count != 1 and key_id not in owner.repeated:
                yield f"{owner.name}: key {key_id} was given out {count} times"
            if key_id not in owner.uploaded:
                yield f"{owner.name}: key {key_id} was given out and never uploaded"
        left = world.fresh[owner.name].one_time_keys
        # What was claimed in vain, by an answer that got lost, is neither here nor there.
        gone = len(given.keys() - owner.repeated)
        if left > len(owner.uploaded) - gone:
            yield f"{owner.name}: {left} keys are left of {len(owner.uploaded)}, and {gone} were given out"
