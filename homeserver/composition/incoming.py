"""What comes from other servers: transactions into rooms, and history for readers. Built over the core and the peers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from homeserver.composition.core import Core
from homeserver.composition.peering import Peering
from homeserver.rooms.federated.acls import ServerAcls
from homeserver.rooms.federated.backfill import Backfills
from homeserver.rooms.federated.checking import EventChecker
from homeserver.rooms.federated.edus import EduDispatcher, EphemeralEdus, KeyEdus
from homeserver.rooms.federated.fetching import RoomFetcher
from homeserver.rooms.federated.filling import GapFiller
from homeserver.rooms.federated.moments import Moments
from homeserver.rooms.federated.policing import Policing
from homeserver.rooms.federated.receive import HearOutside, Joining, TransactionReceiver
from homeserver.rooms.federated.staged import Staged
from homeserver.runtime.tasks import TaskGroup


@dataclass(frozen=True, slots=True)
class Incoming:
    """Takes transactions, and goes after what is missing."""

    checker: EventChecker
    fetcher: RoomFetcher
    filler: GapFiller
    policing: Policing
    receiver: TransactionReceiver
    backfills: Backfills
    moments: Moments


def build_incoming(
    core: Core,
    peering: Peering,
    tasks: TaskGroup,
    ephemeral: EphemeralEdus | None,
    keys: KeyEdus | None,
    joining: Joining,
    hear_outside: HearOutside,
    whole: Callable[[int], Awaitable[object]],
) -> Incoming:
    """Opens nothing; ``filler.start`` goes on with what an earlier process left."""
    around, rooms = core.around, core.rooms
    database, worker, clock = around.database, core.committer, around.clock
    checker = EventChecker(peering.keys, around.run_in_thread)
    fetcher = RoomFetcher(peering.client, checker, database, core.events, clock)
    staged, acls = Staged(), ServerAcls(rooms)
    policing = Policing(peering.client, core.servers.shares)
    rooms.policing = policing
    filler = GapFiller(
        rooms,
        database,
        worker,
        core.index,
        staged,
        fetcher,
        checker,
        policing,
        core.servers.servers_in,
        clock,
        tasks,
        around.log,
    )
    edus = EduDispatcher(acls, ephemeral, keys, around.log)
    receiver = TransactionReceiver(
        rooms,
        database,
        worker,
        core.index,
        checker,
        acls,
        edus,
        policing,
        staged,
        filler,
        core.servers.may_share,
        clock,
        joining,
        hear_outside,
    )
    client = peering.client
    backfills = Backfills(database, rooms, core.index, fetcher, staged, client.allows, whole, clock, tasks)
    moments = Moments(client, fetcher, backfills, clock)
    return Incoming(checker, fetcher, filler, policing, receiver, backfills, moments)
