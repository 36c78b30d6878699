"""Whether a redaction from elsewhere takes effect, whichever of the two events came first.

# spec: rooms/v3#handling-redactions
"""

from __future__ import annotations

from collections.abc import Sequence

from federation.auth.select import CREATE, POWER_LEVELS
from federation.event import Event
from federation.ids import domain_of
from homeserver.db.tx import Tx
from homeserver.rooms.hold import Hold
from homeserver.store.events import load_rows
from homeserver.store.state import BaseCache, Snapshot, load_snapshots


async def is_redaction_in_force(hold: Hold, redaction: Event, target: Event, before: Snapshot) -> bool:
    """Whether an accepted redaction may redact an event, by the state before the redaction."""
    if target.room_id != redaction.room_id or target.type == "m.room.create":
        return False
    if redaction.rules.redaction_authorised_by_rules:
        return True  # the rules that accepted it looked at that already
    if domain_of(redaction.sender) == domain_of(target.sender):
        return True
    state = await hold.state_at(before, [CREATE, POWER_LEVELS])
    levels = await hold.levels(before, state)
    return levels is not None and levels.user(redaction.sender) >= levels.redact


async def find_early_redaction(hold: Hold, target: Event, nids: Sequence[int]) -> int:
    """Of redactions that came before what they redact, the nid of one that takes effect; 0 where none does."""
    turn = hold.turn
    events = await turn.events(list(nids))
    befores = {one.nid: one.state_before for one in turn.unstored() if one.nid in nids}
    stored = [nid for nid in nids if nid not in befores]
    if stored:
        befores.update(await turn.tools.database.read(_load_befores, stored, turn.tools.bases))
    for nid in sorted(nids):
        before = befores.get(nid)
        if nid in events and before is not None:
            if await is_redaction_in_force(hold, events[nid], target, before):
                return nid
    return 0


def _load_befores(tx: Tx, nids: Sequence[int], bases: BaseCache) -> dict[int, Snapshot]:
    """The states before some events."""
    rows = {nid: row.state_before for nid, row in load_rows(tx, nids).items() if row.state_before is not None}
    snapshots = load_snapshots(tx, sorted(set(rows.values())), bases)
    return {nid: snapshots[state] for nid, state in rows.items()}
