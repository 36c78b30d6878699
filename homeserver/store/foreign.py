"""Changes that another process committed: what they stand for, read back from the tables.

In the process that writes an event the followers get its ``Placement``; of another process's (a command on the same
database, another server process) only the row of ``changes`` is seen. ``with_payloads`` makes the two alike.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from homeserver.db.schema.rooms import events, state_keys, state_log, user_ids
from homeserver.db.schema.start import WELL_KNOWN_TYPES
from homeserver.db.statements import any_of, statement
from homeserver.db.tx import Tx
from homeserver.store.changes import Change, Kind, load_changes
from homeserver.store.events import load_json, load_rows
from homeserver.store.members import load_user_rooms
from homeserver.store.parsed import EventCache, load_events
from homeserver.store.placement import Placement
from homeserver.store.state import empty_snapshot
from homeserver.store.users import AccountChanged

_READ_AT_ONCE = 1_000
_MEMBER_TYPE = WELL_KNOWN_TYPES["m.room.member"]

_REPLACED = statement(
    select(state_log.c.event_nid, state_log.c.prev_nid).where(any_of(state_log.c.event_nid, "nids"))
)
_WHOSE = statement(
    select(events.c.nid, user_ids.c.nid)
    .select_from(
        events.join(state_keys, state_keys.c.nid == events.c.state_key_nid).join(
            user_ids, user_ids.c.user_id == state_keys.c.state_key
        )
    )
    .where(any_of(events.c.nid, "nids"))
)


def load_foreign(tx: Tx, after: int, upto: int) -> list[Change]:
    """The changes in ``(after, upto]``, with payloads."""
    found: list[Change] = []
    while after < upto:
        changes = [change for change in load_changes(tx, after, _READ_AT_ONCE) if change.pos <= upto]
        if not changes:
            break
        found += with_payloads(tx, changes)
        after = changes[-1].pos
    return found


def _with_members(tx: Tx, change: Change) -> Change:
    # Which of the three it was matters to nobody who follows: each looks at what the tables say now.
    members = load_user_rooms(tx, -change.topic)
    return change._replace(payload=AccountChanged(-change.topic, "created", members))


def with_payloads(tx: Tx, changes: Sequence[Change]) -> list[Change]:
    """Changes of events get their placements. Snapshots are not loaded: nothing that follows the log asks for them."""
    nids = [change.ref for change in changes if change.kind == Kind.EVENT]
    changes = [_with_members(tx, change) if change.kind == Kind.ACCOUNT else change for change in changes]
    if not nids:
        return changes
    rows = load_rows(tx, nids)
    texts = {row.nid: row.json for row in load_json(tx, nids)}
    parsed = load_events(tx, nids, EventCache())
    replaced: dict[int, int] = dict(tx.all(_REPLACED, nids=nids))
    members = [
        nid for nid, row in rows.items() if row.type_nid == _MEMBER_TYPE and row.state_key_nid is not None
    ]
    whose: dict[int, int] = dict(tx.all(_WHOSE, nids=members)) if members else {}
    result: list[Change] = []
    for change in changes:
        row = rows.get(change.ref) if change.kind == Kind.EVENT else None
        if row is None:
            result.append(change)
            continue
        nowhere = empty_snapshot(row.room_nid)
        placed = Placement(
            parsed[row.nid],
            texts[row.nid].encode(),
            row.nid,
            row.room_nid,
            row.type_nid,
            row.state_key_nid,
            row.sender_nid,
            nowhere,
            nowhere,
            prev_nid=replaced.get(row.nid, 0),
            member_nid=whose.get(row.nid, 0),
            pos=change.pos,
        )
        result.append(change._replace(payload=placed))
    return result
