"""What was handed from device to device, and acknowledged, arrives exactly once, on whatever server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tests.sim.world import World


def check(world: World) -> Iterator[str]:
    """See the module."""
    for sender, receiver, text in world.workload.handed:
        if sender.server not in world.honest or receiver.server not in world.honest:
            continue
        counts = Counter((user_id, content.get("text")) for user_id, content in receiver.handed)
        count = counts[sender.user_id, text]
        if count != 1:
            yield f"{receiver.name} got {text!r} of {sender.name} {count} times"
