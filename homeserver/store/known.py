"""What is known of events that others name: where they stand, the states after them, which redactions wait for them.

# spec: server-server-api#checks-performed-on-receipt-of-a-pdu
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import and_, bindparam, select

from federation.event import Event
from homeserver.db.schema.rooms import events, waiting_redactions
from homeserver.db.statements import any_of, statement
from homeserver.db.tx import Tx
from homeserver.store.events import EventRow, find_rows
from homeserver.store.parsed import EventCache, load_events
from homeserver.store.state import BaseCache, Snapshot, load_snapshots

_WAITING = statement(
    select(waiting_redactions.c.target_id, waiting_redactions.c.by_nid).where(
        any_of(waiting_redactions.c.target_id, "ids")
    )
)
_STATE_IDS = statement(
    select(events.c.event_id, events.c.nid, events.c.state_key_nid, events.c.rejected_reason).where(
        and_(events.c.room_nid == bindparam("room_nid"), any_of(events.c.event_id, "ids"))
    )
)


class Known(NamedTuple):
    """An event of this room that is here."""

    nid: int
    event: Event
    is_rejected: bool
    is_shown: bool  # it stands in the timeline
    after: Snapshot | None  # the state after it; None: an outlier, or nobody asked


@dataclass(slots=True)
class Found:
    """The answer of ``load_known``."""

    known: dict[str, Known] = field(default_factory=dict)
    outliers: set[str] = field(default_factory=set)  # of those: without known state
    elsewhere: set[str] = field(default_factory=set)  # ids that events of other rooms have
    redactions: dict[str, list[int]] = field(
        default_factory=dict
    )  # id -> nids of redactions that wait for it


def load_known(
    tx: Tx,
    room_nid: int,
    new_ids: Collection[str],
    parent_ids: Collection[str],
    other_ids: Collection[str],
    cache: EventCache,
    bases: BaseCache,
) -> Found:
    """What is known of new events, of their parents (with the states after them) and of others that they name."""
    found = Found()
    rows = find_rows(tx, [*{*new_ids, *parent_ids, *other_ids}])
    here: dict[str, EventRow] = {}
    for event_id, row in rows.items():
        if row.room_nid == room_nid:
            here[event_id] = row
        else:
            found.elsewhere.add(event_id)
    parents = set(parent_ids)
    after = {
        row.nid: row.state_after if row.state_after is not None else row.state_before
        for event_id, row in here.items()
        if event_id in parents
    }
    wanted = sorted({nid for nid in after.values() if nid is not None})
    snapshots = load_snapshots(tx, wanted, bases) if wanted else {}
    parsed = load_events(tx, [row.nid for row in here.values()], cache)
    for event_id, row in here.items():
        snapshot_nid = after.get(row.nid)
        found.known[event_id] = Known(
            row.nid,
            parsed[row.nid],
            row.rejected_reason is not None,
            row.pos is not None,
            snapshots[snapshot_nid] if snapshot_nid is not None else None,
        )
        if row.state_before is None:
            found.outliers.add(event_id)
    if new_ids:
        for target_id, by_nid in tx.all(_WAITING, ids=list(new_ids)):
            found.redactions.setdefault(target_id, []).append(by_nid)
    return found


class StateRow(NamedTuple):
    """A state event of this room by its id."""

    nid: int
    key_nid: int
    is_rejected: bool


def find_state_rows(tx: Tx, room_nid: int, event_ids: Collection[str]) -> Mapping[str, StateRow]:
    """State events by id, without their texts; unknown ones, and those that are no state, are absent."""
    return {
        event_id: StateRow(nid, key_nid, reason is not None)
        for event_id, nid, key_nid, reason in tx.all(_STATE_IDS, room_nid=room_nid, ids=list(event_ids))
        if key_nid is not None
    }
