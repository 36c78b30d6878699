"""What rooms go on with when whoever began it has left: delayed and sticky events, redactions of what relates to an event,
and forgetting rooms that were left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from homeserver.composition.core import Core
from homeserver.config.schema import Config
from homeserver.rooms.delayed import DelayedEvents
from homeserver.rooms.departed import Departed
from homeserver.rooms.related_redactions import RelatedRedactions
from homeserver.rooms.send import Sender
from homeserver.rooms.sticky import StickyKeeper
from homeserver.runtime.tasks import TaskGroup
from homeserver.stream.sticky import StickyIndex
from homeserver.sync.sticky import StickySections


@dataclass(frozen=True, slots=True)
class Unattended:
    """See the module."""

    delayed: DelayedEvents
    sticky: StickyKeeper
    related: RelatedRedactions
    departed: Departed

    def begin(self, config: Config) -> None:
        """Go on with what an earlier process has left."""
        self.delayed.start()
        self.related.start()
        self.sticky.start()
        if config.forget_rooms_on_leave:
            self.departed.start()


@dataclass(frozen=True, slots=True)
class StickyServices:
    """Sticky events: for rooms, and for those who sync."""

    keeper: StickyKeeper
    sections: StickySections


def build_sticky(core: Core, tasks: TaskGroup) -> StickyServices:
    """What follows sticky events."""
    around, index = core.around, StickyIndex(core.facts.erased)
    core.changes.subscribe(index.apply, index.kinds)
    keeper = StickyKeeper(
        core.config.server_name, core.rooms, core.committer, index, core.servers, tasks, around.clock
    )
    core.changes.subscribe(keeper.apply, keeper.kinds)
    return StickyServices(keeper, StickySections(index, around.database, core.client_events))


def build_unattended(core: Core, tasks: TaskGroup, sender: Sender, sticky: StickyKeeper) -> Unattended:
    """Its objects, over the core and what sends."""
    around = core.around
    related = RelatedRedactions(core.rooms, sender, tasks, around.clock)
    core.changes.subscribe(related.apply, related.kinds)
    departed = Departed(core.committer, core.index, tasks)
    if core.config.forget_rooms_on_leave:
        core.changes.subscribe(departed.apply, departed.kinds)
    return Unattended(
        DelayedEvents(
            around.database,
            core.committer,
            core.interner,
            core.index,
            sender.send_once,
            core.config.delayed_events,
            tasks,
            around.clock,
            around.entropy,
            around.log,
        ),
        sticky,
        related,
        departed,
    )


def unstable_features(config: Config) -> dict[str, bool]:
    """What of it ``/versions`` tells, where it is switched on."""
    return {
        "org.matrix.msc4140": config.delayed_events.max_delay_s > 0,
        "org.matrix.msc4354": True,
        "org.matrix.msc3912": True,
    }


def capabilities(config: Config) -> dict[str, Any]:
    """What of it ``/capabilities`` tells."""
    delayed = config.delayed_events
    found: dict[str, Any] = {"m.forget_forced_upon_leave": {"enabled": config.forget_rooms_on_leave}}
    if delayed.max_delay_s:
        limits = {"max_delay_ms": delayed.max_delay_s * 1000, "max_scheduled": delayed.max_scheduled}
        found["org.matrix.msc4140.delayed_events"] = limits
    return found
