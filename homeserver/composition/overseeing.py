"""What those in charge of the server hear, see and do. Built over the core and the services of rooms."""

from __future__ import annotations

from dataclasses import dataclass

from homeserver.composition.core import Core
from homeserver.moderation.evidence import Evidence
from homeserver.moderation.reports import Reports, SeeEvent
from homeserver.moderation.tasks import ModerationTasks
from homeserver.rooms.aliases import Aliases
from homeserver.rooms.blocks import RoomBlocks
from homeserver.rooms.create import RoomCreator
from homeserver.rooms.membership import Memberships
from homeserver.rooms.reads.listing import RoomListing
from homeserver.rooms.send import Sender
from homeserver.rooms.shutdowns import RoomShutdowns
from homeserver.rooms.stewardship import Stewardship
from homeserver.rooms.user_redactions import UserRedactions
from homeserver.runtime.tasks import TaskGroup
from homeserver.store.moderation_tasks import TaskKind


@dataclass(frozen=True, slots=True)
class Overseeing:
    """See the module."""

    reports: Reports
    evidence: Evidence
    tasks: ModerationTasks
    listing: RoomListing
    stewardship: Stewardship


def build_overseeing(
    core: Core,
    see_event: SeeEvent,
    sender: Sender,
    creator: RoomCreator,
    memberships: Memberships,
    blocks: RoomBlocks,
    aliases: Aliases,
    tasks: TaskGroup,
) -> Overseeing:
    """Its objects."""
    around, worker, interner = core.around, core.committer, core.interner
    database, server_name = around.database, core.config.server_name
    redactions = UserRedactions(server_name, core.rooms, sender)
    shutdowns = RoomShutdowns(core.rooms, core.index, blocks, creator, memberships, sender, around.log)
    doers = {TaskKind.REDACT_USER: redactions.run, TaskKind.DELETE_ROOM: shutdowns.run}
    return Overseeing(
        Reports(server_name, database, worker, interner, core.index, see_event, around.clock),
        Evidence(database, worker, interner),
        ModerationTasks(database, worker, tasks, around.clock, around.entropy, around.log, doers),
        RoomListing(database, interner),
        Stewardship(core.rooms, core.index, memberships, aliases),
    )
