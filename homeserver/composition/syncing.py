"""Sync: both kinds of it, over the log and what is only in memory."""

from __future__ import annotations

from dataclasses import dataclass

from homeserver.composition.core import Core
from homeserver.e2ee.sections import DeviceNews
from homeserver.ephemeral.presence import Presence
from homeserver.ephemeral.typing import Typing
from homeserver.push.counts import Unread
from homeserver.push.service import default_content
from homeserver.store.visibility_reads import StateFacts
from homeserver.sync.ignored import IgnoreLists
from homeserver.sync.keys import KeyNumbers
from homeserver.sync.profiles import ProfileNews
from homeserver.sync.shared import SharedRooms
from homeserver.sync.sliding.connections import Connections
from homeserver.sync.sliding.facts import Facts
from homeserver.sync.sliding.service import SlidingSync
from homeserver.sync.sticky import StickySections
from homeserver.sync.tools import SyncTools
from homeserver.sync.v3 import SyncService
from homeserver.sync.window import Windows


@dataclass(frozen=True, slots=True)
class Syncing:
    """The two ways to hear of what is new."""

    classic: SyncService
    sliding: SlidingSync


def build_syncing(
    core: Core,
    facts: StateFacts,
    ignored: IgnoreLists,
    typing: Typing,
    presence: Presence | None,
    devices: DeviceNews,
    unread: Unread,
    sticky: StickySections,
) -> Syncing:
    """Classic and sliding sync; they share whatever is the same for both."""
    around = core.around
    tools = SyncTools(
        around.database,
        core.interner,
        core.changes,
        core.index,
        core.notifier,
        around.clock,
        core.client_events,
        facts,
        ignored,
        KeyNumbers(core.interner, core.index),
        Windows(core.changes),
        SharedRooms(around.database, core.client_events, facts),
    )
    boot = around.entropy.id(8)
    profiles = ProfileNews(around.database, core.interner, core.index, core.changes, facts)
    core.changes.subscribe(profiles.apply, profiles.kinds)
    classic = SyncService(
        tools,
        boot,
        typing=typing,
        presence=presence,
        unread=unread,
        devices=devices,
        defaults=_default_data,
        sticky=sticky,
        profiles=profiles,
    )
    room_facts = Facts(around.database, core.interner, core.index, core.client_events, facts.bases)
    core.changes.subscribe(room_facts.apply, room_facts.kinds)
    sliding = SlidingSync(
        tools,
        boot,
        Connections(around.database, core.committer, around.clock, around.entropy),
        room_facts,
        typing=typing,
        presence=presence,
        unread=unread,
        devices=devices,
        defaults=_default_data,
        profiles=profiles,
        sticky=sticky,
    )
    return Syncing(classic, sliding)


def _default_data(user_id: str) -> dict[str, str]:
    """Clients expect the push rules in their first sync, whether or not somebody has changed one."""
    return {"m.push_rules": default_content(user_id).decode()}
