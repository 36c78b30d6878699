"""Invariants of one room's state: snapshots, the head, the current state, its log and the memberships agree.

Everything is compared with everything that says the same in another way; nothing is taken from a cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import msgspec
from sqlalchemy import and_, bindparam, func, select

from homeserver.db.schema.rooms import (
    current_state,
    edges,
    ends,
    event_json,
    events,
    gaps,
    members,
    room_heads,
    rooms,
    snapshots,
    state_keys,
    state_log,
    timeline,
    user_ids,
)
from homeserver.db.schema.start import WELL_KNOWN_TYPES
from homeserver.db.statements import any_of, statement
from homeserver.db.tx import Row, Tx
from homeserver.store.history import BEGINNING
from homeserver.store.past import is_past
from homeserver.store.placement import MEMBERSHIPS, PAST, Mark
from homeserver.store.state import Base, Snapshot, diff, empty_snapshot, unpack

_IN_ROOM: Any = bindparam("room_nid")
_HEADS = statement(
    select(
        room_heads.c.room_nid,
        rooms.c.room_id,
        room_heads.c.snapshot_nid,
        room_heads.c.depth,
        room_heads.c.extremities,
    )
    .select_from(room_heads.join(rooms, rooms.c.nid == room_heads.c.room_nid))
    .order_by(room_heads.c.room_nid)
)
_STATE_EVENTS = statement(
    select(events.c.nid, events.c.state_key_nid).where(
        events.c.room_nid == _IN_ROOM, events.c.state_key_nid.is_not(None)
    )
)
_SNAPSHOTS = statement(
    select(snapshots.c.nid, snapshots.c.base_nid, snapshots.c.size, snapshots.c.data)
    .where(snapshots.c.room_nid == _IN_ROOM)
    .order_by(snapshots.c.nid)
)
_CURRENT = statement(
    select(current_state.c.state_key_nid, current_state.c.event_nid).where(
        current_state.c.room_nid == _IN_ROOM
    )
)
_LOG = statement(
    select(state_log.c.pos, state_log.c.state_key_nid, state_log.c.event_nid, state_log.c.prev_nid)
    .where(state_log.c.room_nid == _IN_ROOM)
    .order_by(state_log.c.pos, state_log.c.state_key_nid)
)
_MEMBERS = statement(
    select(members.c.user_nid, user_ids.c.user_id, members.c.membership, members.c.event_nid, members.c.pos)
    .select_from(members.join(user_ids, user_ids.c.nid == members.c.user_nid))
    .where(members.c.room_nid == _IN_ROOM, members.c.outside == 0)
)
_TOLD = statement(
    select(user_ids.c.user_id)
    .select_from(members.join(user_ids, user_ids.c.nid == members.c.user_nid))
    .where(members.c.room_nid == _IN_ROOM, members.c.outside == 1)
)
_MEMBER_EVENTS = statement(
    select(
        current_state.c.event_nid, current_state.c.state_key_nid, state_keys.c.state_key, event_json.c.json
    )
    .select_from(
        current_state.join(state_keys, state_keys.c.nid == current_state.c.state_key_nid).join(
            event_json, event_json.c.nid == current_state.c.event_nid
        )
    )
    .where(
        and_(
            current_state.c.room_nid == _IN_ROOM,
            state_keys.c.type_nid == WELL_KNOWN_TYPES["m.room.member"],
        )
    )
)
_DEPTHS = statement(
    select(events.c.nid, events.c.room_nid, events.c.depth).where(any_of(events.c.nid, "nids"))
)
_CHILDREN = statement(
    select(edges.c.parent_id, events.c.event_id, timeline.c.pos, timeline.c.mark)
    .select_from(
        edges.join(events, events.c.nid == edges.c.child_nid).outerjoin(
            timeline, timeline.c.event_nid == events.c.nid
        )
    )
    # An outlier has no place in the graph: what it names is not ended by it.
    .where(events.c.room_nid == _IN_ROOM, events.c.state_before.is_not(None))
)
_NEWER = statement(
    select(events.c.event_id, events.c.nid, timeline.c.pos)
    .select_from(timeline.join(events, events.c.nid == timeline.c.event_nid))
    .where(timeline.c.room_nid == _IN_ROOM, ~is_past(timeline))
)
_ENDS = statement(
    select(ends.c.event_nid)
    .select_from(ends.join(events, events.c.nid == ends.c.event_nid))
    .where(events.c.room_nid == _IN_ROOM)
)
_children, _parents = events.alias("children"), events.alias("parents")
_child_place, _parent_place = timeline.alias("child_place"), timeline.alias("parent_place")
# Parents that came after their child (a gap was filled) are left out: the child's state is what others told.
_STEPS = statement(
    select(
        _children.c.nid,
        _children.c.state_before,
        _parents.c.nid,
        _parents.c.state_before,
        _parents.c.state_after,
    )
    .select_from(
        edges.join(_parents, _parents.c.event_id == edges.c.parent_id)
        .join(_parent_place, _parent_place.c.event_nid == _parents.c.nid)
        .join(_children, _children.c.nid == edges.c.child_nid)
        .join(_child_place, _child_place.c.event_nid == _children.c.nid)
    )
    .where(
        _parents.c.room_nid == _IN_ROOM,
        ~is_past(_parent_place),
        _child_place.c.mark == int(Mark.NONE),
        _child_place.c.pos > _parent_place.c.pos,
    )
)
_FORKED = statement(
    select(edges.c.child_nid)
    .select_from(edges.join(events, events.c.nid == edges.c.child_nid))
    .where(events.c.room_nid == _IN_ROOM)
    .group_by(edges.c.child_nid)
    .having(func.count() > 1)
)
_AFTERS = statement(
    select(
        events.c.nid,
        events.c.state_before,
        events.c.state_after,
        events.c.state_key_nid,
        events.c.rejected_reason,
    ).where(events.c.room_nid == _IN_ROOM, events.c.state_before.is_not(None))
)
_AFTER_GAPS = statement(
    select(edges.c.child_nid).where(gaps.c.room_nid == _IN_ROOM, edges.c.parent_id == gaps.c.missing_id)
)
# Where somebody came back to a room that all had left, the state is what another server told; and it may not have heard
# yet that they had left, so that they stand on something older.
_end_place = timeline.alias("end_place")
_AFTER_ENDS = statement(
    select(edges.c.child_nid)
    .select_from(
        ends.join(_end_place, _end_place.c.event_nid == ends.c.event_nid)
        .join(
            _child_place,
            and_(_child_place.c.room_nid == _end_place.c.room_nid, _child_place.c.pos > _end_place.c.pos),
        )
        .join(edges, edges.c.child_nid == _child_place.c.event_nid)
        .join(_parents, _parents.c.event_id == edges.c.parent_id)
        .join(_parent_place, _parent_place.c.event_nid == _parents.c.nid)
    )
    .where(_end_place.c.room_nid == _IN_ROOM, _parent_place.c.pos <= _end_place.c.pos)
)


class _Membership(msgspec.Struct):
    membership: str


class _MemberEvent(msgspec.Struct):
    content: _Membership


_decode_member = msgspec.json.Decoder(_MemberEvent).decode
_decode_nids = msgspec.json.Decoder(list[int]).decode


def room_problems(tx: Tx) -> Iterator[str]:
    """Of every room that has a head."""
    for head in tx.all(_HEADS):
        for problem in _of_room(tx, head):
            yield f"room {head[1]}: {problem}"


def _of_room(tx: Tx, head: Row) -> Iterator[str]:
    room_nid, _, snapshot_nid, _, _ = head
    state_events: dict[int, int] = dict(tx.all(_STATE_EVENTS, room_nid=room_nid))
    problems: list[str] = []
    known = _read_snapshots(tx, room_nid, state_events, problems)
    yield from problems
    yield from _head_problems(tx, head)
    yield from _step_problems(tx, room_nid, known)
    current: dict[int, int] = dict(tx.all(_CURRENT, room_nid=room_nid))
    at_head = known.get(snapshot_nid)
    if at_head is None:
        yield f"its head's snapshot {snapshot_nid} cannot be read"
    elif at_head.as_dict() != current:
        yield "its current state is not that of its head"
    moved: dict[int, int] = {}
    yield from _log_problems(tx, room_nid, state_events, current, moved)
    yield from _member_problems(tx, room_nid, moved)


# --- snapshots ---------------------------------------------------------------------------------------------------


def _read_snapshots(
    tx: Tx, room_nid: int, state_events: dict[int, int], problems: list[str]
) -> dict[int, Snapshot]:
    """Every readable snapshot of the room; what is wrong with them and the others goes into ``problems``."""
    found: dict[int, Snapshot] = {0: empty_snapshot(room_nid)}
    bases: dict[int, Base] = {}
    deltas: list[tuple[int, int, int, dict[int, int]]] = []
    for nid, base_nid, size, data in tx.all(_SNAPSHOTS, room_nid=room_nid):
        try:
            keys, values = unpack(data)
        except ValueError as error:
            problems.append(f"snapshot {nid}: {error}")
            continue
        if any(first >= second for first, second in pairwise(keys)):
            problems.append(f"snapshot {nid}: its keys are not in order")
        for key, event in zip(keys, values, strict=True):
            if (event or base_nid is None) and state_events.get(event) != key:
                problems.append(
                    f"snapshot {nid}: event {event} at key {key} is no such state event of this room"
                )
                break
        if base_nid is None:
            bases[nid] = Base(nid, keys, values)
            found[nid] = Snapshot(nid, room_nid, bases[nid], {}, size)
        else:
            deltas.append((nid, base_nid, size, dict(zip(keys, values, strict=True))))
    for nid, base_nid, size, delta in deltas:
        if base_nid in bases:
            found[nid] = Snapshot(nid, room_nid, bases[base_nid], delta, size)
        else:
            problems.append(f"snapshot {nid}: it builds on {base_nid}, which is no base of this room")
    problems += [
        f"snapshot {nid}: its size is not {one.size}" for nid, one in found.items() if _size(one) != one.size
    ]
    return found


def _size(snapshot: Snapshot) -> int:
    base = snapshot.base
    size = len(base.keys)
    for key, event in snapshot.delta.items():
        size += bool(event) - bool(base.get(key))
    return size


def _step_problems(tx: Tx, room_nid: int, known: dict[int, Snapshot]) -> Iterator[str]:
    """Where an event has one parent, the state before it is that after the parent; a state event adds itself."""
    skipped = {
        *tx.column(_AFTER_GAPS, room_nid=room_nid),
        *tx.column(_AFTER_ENDS, room_nid=room_nid),
        *tx.column(_FORKED, room_nid=room_nid),
    }
    for nid, before_nid, parent_nid, parent_before_nid, parent_after_nid in tx.all(_STEPS, room_nid=room_nid):
        before = known.get(before_nid)
        after = known.get(parent_before_nid if parent_after_nid is None else parent_after_nid)
        if nid in skipped or before is None or after is None or before is after:
            continue
        if diff(after, before):
            yield f"the state before event {nid} is not that after its parent {parent_nid}"
    for nid, before_nid, after_nid, key, rejected in tx.all(_AFTERS, room_nid=room_nid):
        before, after = known.get(before_nid), known.get(before_nid if after_nid is None else after_nid)
        if before is None or after is None:
            yield f"a state around event {nid} cannot be read"
            continue
        expected = {} if key is None or rejected is not None else {key: (before.get(key), nid)}
        if diff(before, after) != expected:
            yield f"the state after event {nid} does not follow from that before it"


# --- the head ----------------------------------------------------------------------------------------------------


def _head_problems(tx: Tx, head: Row) -> Iterator[str]:
    room_nid, _, _, depth, text = head
    try:
        extremities = _decode_nids(text.encode())
    except msgspec.DecodeError:
        yield "its extremities cannot be read"
        return
    if len(set(extremities)) != len(extremities):
        yield "its extremities repeat themselves"
    found = {nid: (of_room, at) for nid, of_room, at in tx.all(_DEPTHS, nids=extremities)}
    if any(found.get(nid, (0, 0))[0] != room_nid for nid in extremities):
        yield "an extremity is no event of this room"
    elif not found:
        yield "it has no extremities"
    elif depth != max(at for _, at in found.values()):
        yield f"its depth is not {depth}"
    graph = _Timeline(tx, room_nid)
    leaves = graph.leaves(set(tx.column(_ENDS, room_nid=room_nid)))
    if not leaves <= set(extremities) or not all(map(graph.is_fork_end, set(extremities) - leaves)):
        yield f"its extremities are {sorted(extremities)}, its events without successors {sorted(leaves)}"


class _Timeline:
    """The events of a room that came here as new, and what stands on them, be it by way of events that nobody is shown."""

    def __init__(self, tx: Tx, room_nid: int) -> None:
        self._children: dict[str, list[str]] = {}
        # By event id, where; what was fetched ends nothing, as if it were the oldest.
        self._shown: dict[str, int] = {}
        for parent_id, child_id, pos, mark in tx.all(_CHILDREN, room_nid=room_nid):
            self._children.setdefault(parent_id, []).append(child_id)
            if pos is not None:
                self._shown[child_id] = BEGINNING if mark in PAST else pos
        self._newer = {nid: (event_id, pos) for event_id, nid, pos in tx.all(_NEWER, room_nid=room_nid)}

    def leaves(self, ended: set[int]) -> set[int]:
        """Those without successors in the timeline, but for what was the newest when all had left."""
        return {
            nid
            for nid, (event_id, _) in self._newer.items()
            if nid not in ended and next(self._successors(event_id), None) is None
        }

    def is_fork_end(self, nid: int) -> bool:
        """Whether an extremity has a successor that was here before it, and so could not end it."""
        event_id, pos = self._newer.get(nid, ("", 0))
        return any(at < pos for at in self._successors(event_id))

    def _successors(self, event_id: str) -> Iterator[int]:
        """Where the nearest ones that are shown stand."""
        seen, waiting = {event_id}, [event_id]
        while waiting:
            for child_id in self._children.get(waiting.pop(), ()):
                if child_id in self._shown:
                    yield self._shown[child_id]
                elif child_id not in seen:
                    seen.add(child_id)
                    waiting.append(child_id)


# --- the current state -------------------------------------------------------------------------------------------


def _log_problems(
    tx: Tx, room_nid: int, state_events: dict[int, int], current: dict[int, int], moved: dict[int, int]
) -> Iterator[str]:
    """Also notes in ``moved`` the position of the last move of each key."""
    state: dict[int, int] = {}
    for pos, key, event, previous in tx.all(_LOG, room_nid=room_nid):
        if state.get(key, 0) != previous:
            yield f"at {pos} key {key} moves from {previous}, and was at {state.get(key, 0)}"
        if event and state_events.get(event) != key:
            yield f"at {pos} key {key} moves to {event}, which is no such state event"
        state[key] = event
        moved[key] = pos
    if {key: event for key, event in state.items() if event} != current:
        yield "its current state is not where its log of moves leads"


def _member_problems(tx: Tx, room_nid: int, moved: dict[int, int]) -> Iterator[str]:
    rows = {user_id: row for row in tx.all(_MEMBERS, room_nid=room_nid) for user_id in [row[1]]}
    # Of a room that this server has left, another one may have told something newer.
    told = set(tx.column(_TOLD, room_nid=room_nid))
    for event_nid, key_nid, user_id, text in tx.all(_MEMBER_EVENTS, room_nid=room_nid):
        row = rows.pop(user_id, None)
        if row is None and user_id in told:
            continue
        if row is None:
            yield f"{user_id} has a membership event and no row"
            continue
        _, _, membership, by_nid, pos = row
        word = _decode_member(text.encode()).content.membership
        if by_nid != event_nid or MEMBERSHIPS.get(word) != membership:
            yield f"{user_id} is {word} by {event_nid}, and their row says {membership} by {by_nid}"
        elif moved.get(key_nid) != pos:
            yield f"{user_id} became a member at {moved.get(key_nid)}, and their row says {pos}"
    for user_id in sorted(rows):
        yield f"{user_id} has a membership row and no such state"
