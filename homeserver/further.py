"""What clients use beyond rooms, messages and keys: reports, calls, and their like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from homeserver.calls.turn import TurnCredentials
from homeserver.config.schema import Config
from homeserver.config.settings import Settings
from homeserver.core import Core
from homeserver.moderation.reports import Reports
from homeserver.rooms.delayed import DelayedEvents
from homeserver.rooms.mutual import MutualRooms
from homeserver.rooms.pagination import Pagination
from homeserver.rooms.send import Sender
from homeserver.runtime.tasks import TaskGroup


@dataclass(frozen=True, slots=True)
class Further:
    """See the module."""

    reports: Reports
    mutual: MutualRooms
    turn: TurnCredentials
    delayed: DelayedEvents


def build_further(
    core: Core, settings: Settings, tasks: TaskGroup, pagination: Pagination, sender: Sender
) -> Further:
    """Its objects, over the core and what reads rooms."""
    around, interner, index = core.around, core.interner, core.index
    database, clock = around.database, around.clock
    return Further(
        Reports(core.config.server_name, database, core.committer, interner, index, pagination.event, clock),
        MutualRooms(database, interner, index),
        TurnCredentials(lambda: settings.config.turn, clock),
        DelayedEvents(
            database,
            core.committer,
            interner,
            index,
            sender.send_once,
            core.config.delayed_events,
            tasks,
            clock,
            around.entropy,
            around.log,
        ),
    )


def unstable_features(config: Config) -> dict[str, bool]:
    """What of it ``/versions`` tells, where it is switched on."""
    return {"org.matrix.msc4140": config.delayed_events.max_delay_s > 0}


def capabilities(config: Config) -> dict[str, Any]:
    """What of it ``/capabilities`` tells."""
    delayed = config.delayed_events
    if not delayed.max_delay_s:
        return {}
    limits = {"max_delay_ms": delayed.max_delay_s * 1000, "max_scheduled": delayed.max_scheduled}
    return {"org.matrix.msc4140.delayed_events": limits}
