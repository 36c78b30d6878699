"""What kind of world a seed makes: from one server and nothing wrong to everything at once."""

from __future__ import annotations

from dataclasses import dataclass

from tests.sim.draws import Draws


@dataclass(frozen=True, slots=True)
class Options:
    """See the module. Numbers of faults are percentages, but for crashes and partitions."""

    servers: int
    clients: int
    rooms: int
    steps: int
    write_faults: int
    read_faults: int
    lost: int
    crashes: int
    slow_ms: int
    version: str
    peers_lost: int
    peers_twice: int
    peers_slow: int
    latency_ms: int
    partitions: int
    lies: int  # of the last server; 0: it is honest
    contested: bool  # people are sent away and powers change while others go on
    sliding: tuple[int, ...]  # the clients that use sliding sync


def draw_options(draws: Draws) -> Options:
    """Draw everything, also what a world of one server has no use for: the list of draws keeps its places."""
    servers = draws.pick((1, 2, 3, 2, 1, 3, 4, 5))
    lies = draws.pick((0, 0, 0, 20, 60))
    return Options(
        servers=servers,
        clients=max(servers, 2 + draws.below(3)),
        rooms=1 + draws.below(3),
        steps=5 + draws.below(15),
        write_faults=draws.pick((0, 2, 10, 25)),
        read_faults=draws.pick((0, 1, 5)),
        lost=draws.pick((0, 3, 10)),
        crashes=draws.below(4),
        slow_ms=draws.pick((1, 4, 40)),
        version=draws.pick(("12", "11", "10", "6", "3", "1")),
        peers_lost=draws.pick((0, 2, 10, 30)),
        peers_twice=draws.pick((0, 5, 20)),
        peers_slow=draws.pick((0, 2, 10)),
        latency_ms=draws.pick((5, 50, 500)),
        partitions=draws.below(4),
        lies=lies if servers > 2 else 0,
        contested=draws.chance(40),
        sliding=draws.pick(((), (1,), (0,), (1, 2), (0, 1, 2, 3, 4))),
    )
