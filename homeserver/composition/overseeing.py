"""What those in charge of the server hear, see and do. Built over the core and the services of rooms."""

from __future__ import annotations

from dataclasses import dataclass

from homeserver.composition.core import Core
from homeserver.moderation.evidence import Evidence
from homeserver.moderation.reports import Reports, SeeEvent


@dataclass(frozen=True, slots=True)
class Overseeing:
    """See the module."""

    reports: Reports
    evidence: Evidence


def build_overseeing(core: Core, see_event: SeeEvent) -> Overseeing:
    """Its objects."""
    around, worker, interner = core.around, core.committer, core.interner
    database, server_name = around.database, core.config.server_name
    return Overseeing(
        Reports(server_name, database, worker, interner, core.index, see_event, around.clock),
        Evidence(database, worker, interner),
    )
