"""What leaves of its own accord: the followers of the log, and the senders to other servers. Built last.

Nothing is sent before ``begin``: commands that only open the database have no business with the network.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

from homeserver.appservices.following import FOLLOWER as APPSERVICES
from homeserver.composition.bridging import Telling, build_telling
from homeserver.composition.core import Core
from homeserver.composition.notifying import Pushing, build_pushing
from homeserver.composition.peering import Peering
from homeserver.composition.services import Services
from homeserver.db.tx import Tx
from homeserver.e2ee.outgoing import Due, load_device_edus
from homeserver.peers.delivery import Carrier, PduBytes
from homeserver.peers.devices_out import DevicesOut
from homeserver.peers.edus_out import ReceiptsOut, RoomEdus, TypingOut
from homeserver.peers.events_out import EventsOut
from homeserver.peers.presence_out import PresenceOut
from homeserver.peers.sender import FOLLOWER, STATES, Sender
from homeserver.runtime.metrics import Metrics
from homeserver.runtime.tasks import TaskGroup
from homeserver.store.appservices import forget_all_services
from homeserver.store.changes import Change, Kind, forget_cursor
from homeserver.store.placement import MOVING
from homeserver.store.work import Worker
from homeserver.stream.followers import Follower, Followers

# What other servers may have to hear of.
_SENT = MOVING | {Kind.RELAYED, Kind.RECEIPT, Kind.TO_DEVICE, Kind.DEVICE_LIST, Kind.SIGNING_KEYS}


@dataclass(frozen=True, slots=True)
class Outgoing:
    """The followers of this process, and the senders."""

    followers: Followers
    sender: Sender
    edus: RoomEdus
    receipts: ReceiptsOut
    presence: PresenceOut | None
    tasks: TaskGroup
    worker: Worker
    all: Sequence[Follower]
    federates: bool
    pushing: Pushing | None
    telling: Telling | None

    def begin(self) -> None:
        """Go on where an earlier process was. A database that does not answer yet is asked again."""
        self.tasks.spawn_restarting("start to follow the log", self._start)
        if self.presence is not None:
            self.presence.begin()

    async def _start(self) -> None:
        if self.federates:
            await self.sender.start()
        else:
            # The log must not wait for its follower.
            await self.worker.work(forget_cursor, FOLLOWER)
        if self.pushing is not None:
            await self.pushing.start()
        if self.telling is not None:
            await self.telling.following.start()
        else:
            await self.worker.work(forget_all_services, APPSERVICES)
        await self.followers.start(self.all)

    def say_goodbye(self) -> None:
        """The server is about to stop: what can still be told while requests are answered."""
        if self.presence is not None:
            self.presence.say_goodbye()

    async def stop(self) -> None:
        """Send nothing more. The followers stop last, when all is stored that they may hear of."""
        self.edus.closed = True
        self.receipts.close()
        if self.presence is not None:
            self.presence.close()
        await self.tasks.stop()
        await self.sender.stop()
        if self.pushing is not None:
            await self.pushing.stop()
        if self.telling is not None:
            await self.telling.deliveries.stop()

    def watch(self, metrics: Metrics) -> None:
        """Tell how far behind followers are, and how many destinations are in which state."""
        self.followers.watch(metrics)
        for state in STATES:
            metrics.watch("destinations", partial(self.sender.count, state), state=state)
        if self.telling is not None:
            deliveries = self.telling.deliveries
            metrics.watch("appservices_down", lambda: deliveries.waiting)
        if self.pushing is not None:
            self.pushing.watch(metrics)


def build_outgoing(core: Core, peering: Peering, services: Services) -> Outgoing:
    """Everything that leaves."""
    typing, presence = services.typing, services.presence
    around, servers, index = core.around, core.servers, core.index
    server_name = core.config.parsed_server_name
    followers = Followers(
        around.database, core.committer, core.changes, around.clock, around.entropy, around.log
    )
    tasks, pdus = TaskGroup(around.clock, around.log), PduBytes()
    sender = Sender(
        Carrier(server_name, peering.client, around.database, pdus, around.log),
        around.database,
        peering.settings,
        around.clock,
        around.entropy,
        around.log,
        index.rooms_since,
        servers,
        core.committer,
        _load_devices,
        followers.store_soon,
    )
    peering.health.consult(sender.is_down)
    peering.health.observe(on_success=sender.heard_from, on_contact=sender.heard_from)
    edus = RoomEdus(server_name, servers, core.interner, sender, tasks)
    receipts = ReceiptsOut(edus, around.clock)
    notes: list[Callable[[Change], None]] = [receipts.note]
    presence_out: PresenceOut | None = None
    following: list[Follower] = []
    federates = core.config.federation.enabled
    if federates:
        typing.tell = TypingOut(edus, around.clock).tell
        if presence is not None:
            presence_out = PresenceOut(edus, presence, servers, index, sender, around.clock)
            presence.tell = presence_out.tell
            notes.append(presence_out.note)
        devices = DevicesOut(server_name, servers, index, sender, around.database, core.events, around.clock)
        events = EventsOut(server_name, servers, sender, pdus, around.database, devices, notes)
        following.append(Follower(FOLLOWER, events.handle, memory=sender, kinds=_SENT, passed=sender.passed))
    following.append(services.reading.finding.follower)
    following.append(services.rooms.profiles.follower)
    pushing = build_pushing(core, services.notifying, followers.store_soon)
    if pushing is not None:
        following.append(pushing.follower)
    telling = build_telling(core, services.bridging, typing, presence, followers.store_soon)
    if telling is not None:
        following.append(telling.follower)
    return Outgoing(
        followers,
        sender,
        edus,
        receipts,
        presence_out,
        tasks,
        core.committer,
        following,
        federates,
        pushing,
        telling,
    )


def _load_devices(
    tx: Tx, server: str, rooms: Collection[int], fresh: Collection[int], after: int, upto: int, most: int
) -> list[tuple[int, bytes]]:
    return load_device_edus(tx, Due(server, sorted(rooms), sorted(fresh)), after, upto, most)
