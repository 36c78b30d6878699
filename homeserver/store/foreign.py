"""Changes that another process committed: what they stand for, read back from the tables.

In the process that writes an event the followers get its ``Placement``; of another process's (a command on the same
database, another server process) only the row of ``changes`` is seen. ``with_payloads`` makes the two alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sqlalchemy import and_, select

from federation.sticky import STICKY
from homeserver.db.schema.rooms import state_keys, state_log, timeline, user_ids
from homeserver.db.schema.start import WELL_KNOWN_TYPES
from homeserver.db.statements import any_of, statement
from homeserver.db.tx import Tx
from homeserver.store.changes import Change, Kind, load_changes
from homeserver.store.cross_signing import OthersSigned
from homeserver.store.device_lists import ListChanged, load_rooms_of
from homeserver.store.erasures import load_erasures
from homeserver.store.events import load_json, load_memberships, load_redacting, load_rows
from homeserver.store.members import load_user_rooms
from homeserver.store.outside import load_told
from homeserver.store.parsed import EventCache, load_events
from homeserver.store.past import IS_TOLD
from homeserver.store.placement import MEMBERSHIPS, MOVING, Membership, Placement, StateMove, StateMoved
from homeserver.store.state import empty_snapshot
from homeserver.store.sticky import find_sticky, load_ends
from homeserver.store.users import AccountChanged

_READ_AT_ONCE = 1_000
_MEMBER_TYPE = WELL_KNOWN_TYPES["m.room.member"]

_MOVES = statement(
    select(
        state_log.c.pos,
        state_log.c.state_key_nid,
        state_log.c.event_nid,
        state_log.c.prev_nid,
        state_keys.c.type_nid,
        state_keys.c.state_key,
        user_ids.c.nid,
    )
    .select_from(
        state_log.join(state_keys, state_keys.c.nid == state_log.c.state_key_nid).outerjoin(
            user_ids,
            and_(user_ids.c.user_id == state_keys.c.state_key, state_keys.c.type_nid == _MEMBER_TYPE),
        )
    )
    .where(and_(any_of(state_log.c.room_nid, "room_nids"), any_of(state_log.c.pos, "positions")))
)

_IDLE = statement(select(timeline.c.event_nid).where(and_(any_of(timeline.c.event_nid, "nids"), ~IS_TOLD)))


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


def _with_rooms(tx: Tx, change: Change) -> Change:
    if change.ref:
        return change._replace(payload=OthersSigned(change.ref))
    rooms = load_rooms_of(tx, -change.topic)
    # Which of the devices it was is in the tables, for those who tell it to other servers.
    return change._replace(payload=ListChanged(-change.topic, room_nids=rooms))


def _with_members(tx: Tx, change: Change) -> Change:
    # Which of the three it was matters to nobody who follows: each looks at what the tables say now.
    members = load_user_rooms(tx, -change.topic)
    erasures = load_erasures(tx, [-change.topic])
    payload = AccountChanged(-change.topic, "created", members, guest=True, erasures=erasures)
    return change._replace(payload=payload)


def _with_told(tx: Tx, change: Change) -> Change:
    # A later change of the same membership has one of its own, and this one says the same then.
    return change._replace(payload=load_told(tx, -change.topic, change.ref))


def _with_sticky(tx: Tx, change: Change) -> Change:
    return change._replace(payload=find_sticky(tx, change.ref))


_OTHERS: dict[int, Callable[[Tx, Change], Change]] = {
    Kind.ACCOUNT: _with_members,
    Kind.DEVICE_LIST: _with_rooms,
    Kind.SIGNING_KEYS: _with_rooms,
    Kind.OUTSIDE: _with_told,
    Kind.STICKY: _with_sticky,
}


def with_payloads(tx: Tx, changes: Sequence[Change]) -> list[Change]:
    """Changes of events get their placements. Snapshots are not loaded: nothing that follows the log asks for them."""
    changes = [_OTHERS[change.kind](tx, change) if change.kind in _OTHERS else change for change in changes]
    moving = [change for change in changes if change.kind in MOVING]
    if not moving:
        return changes
    moves = _load_moves(tx, moving)
    placed = _load_placements(tx, [change for change in moving if change.kind == Kind.EVENT], moves)
    result: list[Change] = []
    for change in changes:
        if change.kind == Kind.STATE_MOVED:
            change = change._replace(payload=StateMoved(tuple(moves.get(change.pos, ()))))
        elif change.kind == Kind.EVENT and change.ref in placed:
            change = change._replace(payload=placed[change.ref])
        result.append(change)
    return result


def _load_moves(tx: Tx, changes: Sequence[Change]) -> dict[int, list[StateMove]]:
    """How current states moved at the positions of some changes."""
    rooms = sorted({change.topic for change in changes})
    found = tx.all(_MOVES, room_nids=rooms, positions=[change.pos for change in changes])
    words = load_memberships(tx, [row[2] for row in found if row[2] and row[6] is not None])
    moves: dict[int, list[StateMove]] = {}
    for pos, key_nid, event_nid, prev_nid, _, state_key, user_nid in found:
        membership = MEMBERSHIPS.get(words.get(event_nid, ""), Membership.LEAVE)
        move = StateMove(
            key_nid, event_nid, prev_nid, user_nid or 0, state_key if user_nid else "", membership
        )
        moves.setdefault(pos, []).append(move)
    return moves


def _load_placements(
    tx: Tx, changes: Sequence[Change], moves: Mapping[int, Sequence[StateMove]]
) -> dict[int, Placement]:
    """Placements by event nid; see ``with_payloads``."""
    nids = [change.ref for change in changes]
    if not nids:
        return {}
    rows = load_rows(tx, nids)
    texts = {row.nid: row.json for row in load_json(tx, nids)}
    parsed = load_events(tx, nids, EventCache())
    targets = {nid: event.redacts for nid, event in parsed.items() if event.redacts is not None}
    redactions = load_redacting(tx, list(targets.values())) if targets else {}
    idle = set(tx.column(_IDLE, nids=list(targets))) if targets else set()
    stuck = [nid for nid, event in parsed.items() if STICKY in event.json]
    ends = load_ends(tx, stuck) if stuck else {}
    found: dict[int, Placement] = {}
    for change in changes:
        row = rows.get(change.ref)
        if row is None:
            continue
        nowhere = empty_snapshot(row.room_nid)
        moved = tuple(moves.get(change.pos, ()))
        own = next((move.prev_nid for move in moved if move.event_nid == row.nid), 0)
        found[row.nid] = Placement(
            parsed[row.nid],
            texts[row.nid],
            row.nid,
            row.room_nid,
            row.type_nid,
            row.state_key_nid,
            row.sender_nid,
            nowhere,
            nowhere,
            prev_nid=own,
            redacts_target=redactions.get(row.nid),
            pos=change.pos,
            moves=moved,
            linear=False,
            idle=row.nid in idle,
            sticky_until_ms=ends.get(row.nid, 0),
        )
    return found
