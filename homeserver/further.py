"""What clients use beyond rooms, messages and keys: reports, calls, and their like."""

from __future__ import annotations

from dataclasses import dataclass

from homeserver.calls.turn import TurnCredentials
from homeserver.config.settings import Settings
from homeserver.core import Core
from homeserver.moderation.reports import Reports
from homeserver.rooms.mutual import MutualRooms
from homeserver.rooms.pagination import Pagination


@dataclass(frozen=True, slots=True)
class Further:
    """See the module."""

    reports: Reports
    mutual: MutualRooms
    turn: TurnCredentials


def build_further(core: Core, settings: Settings, pagination: Pagination) -> Further:
    """Its objects, over the core and what reads rooms."""
    around, interner, index = core.around, core.interner, core.index
    database, clock = around.database, around.clock
    return Further(
        Reports(core.config.server_name, database, core.committer, interner, index, pagination.event, clock),
        MutualRooms(database, interner, index),
        TurnCredentials(lambda: settings.config.turn, clock),
    )
