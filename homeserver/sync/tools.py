"""What both kinds of sync work with."""

from __future__ import annotations

from dataclasses import dataclass

from homeserver.db.threads import Database
from homeserver.runtime.clock import Clock
from homeserver.store.client_events import ClientEventCache
from homeserver.store.ids import Interner
from homeserver.store.visibility_reads import StateFacts
from homeserver.stream.index import MembershipIndex
from homeserver.stream.log import ChangeLog
from homeserver.stream.notifier import Notifier
from homeserver.sync.ignored import IgnoreLists
from homeserver.sync.keys import KeyNumbers
from homeserver.sync.shared import SharedRooms
from homeserver.sync.window import Windows


@dataclass(frozen=True, slots=True)
class SyncTools:
    """The core's parts, and what is made once for every reader."""

    database: Database
    interner: Interner
    log: ChangeLog
    index: MembershipIndex
    notifier: Notifier
    clock: Clock
    events: ClientEventCache
    facts: StateFacts
    ignored: IgnoreLists
    keys: KeyNumbers
    windows: Windows
    shared: SharedRooms
