"""What leaves of its own accord: the followers of the log, and the senders to other servers. Built last.

Nothing is sent before ``begin``: commands that only open the database have no business with the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from homeserver.core import Core
from homeserver.peering import Peering
from homeserver.peers.delivery import Carrier, PduBytes
from homeserver.peers.events_out import EventsOut
from homeserver.peers.sender import FOLLOWER, STATES, Sender
from homeserver.runtime.metrics import Metrics
from homeserver.runtime.tasks import TaskGroup
from homeserver.stream.followers import Follower, Followers


@dataclass(frozen=True, slots=True)
class Outgoing:
    """The followers of this process, and the senders."""

    followers: Followers
    sender: Sender
    events: EventsOut
    tasks: TaskGroup
    all: Sequence[Follower]

    def begin(self) -> None:
        """Go on where an earlier process was. A database that does not answer yet is asked again."""
        self.tasks.spawn_restarting("start to follow the log", self._start)

    async def _start(self) -> None:
        await self.sender.start()
        await self.followers.start(self.all)

    async def stop(self) -> None:
        """Send nothing more. The followers stop last, when all is stored that they may hear of."""
        await self.tasks.stop()
        await self.sender.stop()

    def watch(self, metrics: Metrics) -> None:
        """Tell how far behind followers are, and how many destinations are in which state."""
        self.followers.watch(metrics)
        for state in STATES:
            metrics.watch("destinations", partial(self.sender.count, state), state=state)


def build_outgoing(core: Core, peering: Peering) -> Outgoing:
    """Everything that leaves."""
    around, servers, last_pos = core.around, core.servers, core.index.last_pos
    server_name = core.config.parsed_server_name
    followers = Followers(
        around.database, core.committer, core.changes, around.clock, around.entropy, around.log
    )
    pdus = PduBytes()

    def rooms_since(pos: int) -> list[int]:
        return [topic for topic, newest in last_pos.items() if topic > 0 and newest > pos]

    sender = Sender(
        Carrier(server_name, peering.client, around.database, pdus, around.log),
        around.database,
        peering.settings,
        around.clock,
        around.entropy,
        around.log,
        rooms_since,
        lambda server, room_nid: server in servers.others(room_nid),
        followers.store_soon,
    )
    peering.health.consult(sender.is_down)
    peering.health.observe(on_success=sender.heard_from, on_contact=sender.heard_from)
    events = EventsOut(server_name, servers, sender, pdus, around.database)
    following = [Follower(FOLLOWER, events.handle, memory=sender)] if core.config.federation.enabled else []
    return Outgoing(followers, sender, events, TaskGroup(around.clock, around.log), following)
