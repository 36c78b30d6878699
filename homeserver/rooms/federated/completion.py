"""A join becomes complete: the members have come, and everything that was placed without them is judged once more.

While a room is *partial*, its states lack members, and events are held to the members that they cite themselves. When
the whole state before the join is here, one turn of the room goes through all that builds on the join, parents first:
the state before each event, checks 4 and 5 by it, the state after it. What fails is rejected and leaves the timeline;
the current state moves to what the newest of the others make it.

Where a few events of that state still lack, for want of keys, the room stays partial after that, and goes through the
same once more when they have come or nobody waits for them any longer.

A room that everybody left before that and somebody came back to has two joins that are to be complete, or more. Each goes
through this by itself, in any order, and the room is partial until the last has.

# spec: server-server-api#checks-performed-on-receipt-of-a-pdu
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from federation.auth.select import CREATE, POWER_LEVELS, auth_keys_for
from federation.checks import AuthEvents, check_auth_events, check_state_before, lookup_of
from federation.ids import EventId
from federation.verdict import ACCEPT, Accept, Reject, Verdict
from homeserver.db.tx import Tx
from homeserver.rooms.federated.lots import Stored
from homeserver.rooms.hold import Hold, near
from homeserver.rooms.turn import Turn
from homeserver.store.commit import move_state
from homeserver.store.outliers import are_sound
from homeserver.store.partial import (
    PartialJoin,
    Since,
    count_attempts,
    end_partial_join,
    is_partial,
    load_since,
    withdraw_events,
)
from homeserver.store.placement import Extremity, Place, Placement
from homeserver.store.state import Snapshot


@dataclass(slots=True)
class _Review:
    """What became of the events so far."""

    after: dict[EventId, Snapshot] = field(default_factory=dict)
    rejected: set[EventId] = field(default_factory=set)
    withdrawn: list[int] = field(default_factory=list)
    shown: list[Since] = field(default_factory=list)  # accepted, and in the timeline


async def complete_room(
    turn: Turn,
    join: PartialJoin,
    state: Sequence[EventId] | None,
    *,
    lacking: PartialJoin | None = None,
    stored: Mapping[EventId, Stored] | None = None,
) -> bool:
    """Make a partial room whole; ``state`` is the whole state before the join. False: an event of it is not here.

    ``state`` None: what is here has to do. ``lacking``: it is not quite whole, and this is noted for it: events are
    still held to the members that they cite. ``stored``: what is known of events of that state that were stored just now.
    Everything that was placed before MUST be stored already.
    """
    if not turn.head.partial:
        return True
    tools = turn.tools
    hold = Hold(turn)
    full = await _snapshot_of(turn, hold, state, stored or {}) if state is not None else None
    if state is not None and full is None:
        return False

    def look(tx: Tx) -> tuple[list[Since], bool]:
        since = load_since(tx, join.join_nid, tools.events, tools.bases)
        return since, is_partial(tx, join.room_nid, join.join_nid)

    found, others = await tools.database.read(look)
    parents = {parent for one in found for parent in one.event.prev_event_ids}
    cited = {auth_id for one in found for auth_id in one.event.auth_event_ids}
    await hold.load((), sorted(parents), sorted(cited))
    review = _Review()
    turn.head = replace(turn.head, partial=others or lacking is not None)
    ordered = _parents_first(found, join.join_id)
    for since in ordered:
        told = (full or since.before) if since.row.nid == join.join_nid else None
        await _review(turn, hold, review, since, told)
    words = {one.nid: one.membership for one in (stored or {}).values()}
    newest = _extremities(turn, review, ordered)
    moves = await turn.settle(turn.head, newest, words)
    withdrawn = review.withdrawn
    if lacking is None:
        turn.extra.append(lambda tx: end_partial_join(tx, join.room_nid, join.join_nid))
    else:
        turn.extra.append(lambda tx: count_attempts(tx, lacking))
    if withdrawn:
        turn.extra.append(lambda tx: withdraw_events(tx, withdrawn))
    if moves:
        turn.extra.append(lambda tx: move_state(tx, join.room_nid, moves))
    return True


async def _snapshot_of(
    turn: Turn, hold: Hold, state: Sequence[EventId], stored: Mapping[EventId, Stored]
) -> Snapshot | None:
    rows = [stored[one] for one in state if one in stored]
    if len(rows) == len(state):
        # But for what became of them since: they may have come by another way as well, and been rejected.
        if await turn.tools.database.read(are_sound, [row.nid for row in rows]):
            return near(turn, {row.key_nid: row.nid for row in rows})
    return await hold.snapshot_of(state)


def _parents_first(found: Sequence[Since], join_id: EventId) -> list[Since]:
    """The join, then what builds on it, each event after those that it names.

    Not what comes after an event that is here without a state: when somebody comes back, the state is told.
    """
    by_id = {one.event.event_id: one for one in found}
    children: dict[EventId, list[EventId]] = {}
    for event_id, one in by_id.items():
        for parent in dict.fromkeys(one.event.prev_event_ids) if event_id != join_id else ():
            children.setdefault(parent, []).append(event_id)
    unplaced = dict.fromkeys(by_id, 0)  # how many of those that it names are still to come
    reached, ready = {join_id}, deque([join_id])
    while ready:
        for child in children.get(ready.popleft(), ()):
            unplaced[child] += 1
            if child not in reached:
                reached.add(child)
                ready.append(child)
    ordered: list[Since] = []
    ready.append(join_id)
    while ready:
        event_id = ready.popleft()
        ordered.append(by_id[event_id])
        for child in sorted(children.get(event_id, ())):
            unplaced[child] -= 1
            if not unplaced[child]:
                ready.append(child)
    return ordered


async def _review(turn: Turn, hold: Hold, review: _Review, since: Since, told: Snapshot | None) -> None:
    event, row = since.event, since.row
    before = told if told is not None else await _state_before(turn, hold, review, since)
    verdict: Verdict = ACCEPT
    if row.rejected_reason is not None:
        verdict = Reject(row.rejected_reason)
    elif told is None:
        verdict = await _judge(hold, review, since, before)
    after = before
    if isinstance(verdict, Reject):
        review.rejected.add(event.event_id)
        if row.pos is not None:
            review.withdrawn.append(row.nid)
    else:
        if row.state_key_nid is not None:
            after = turn.keep(before, {row.state_key_nid: row.nid})
        if row.pos is not None:
            review.shown.append(since)
    review.after[event.event_id] = after
    turn.note(
        Placement(
            event,
            since.text.encode(),
            row.nid,
            row.room_nid,
            row.type_nid,
            row.state_key_nid,
            row.sender_nid,
            before,
            after,
            linear=False,
            place=Place.NOWHERE,  # its row is written anew; its place, where it has one, stays
            rejected=verdict.reason if isinstance(verdict, Reject) else None,
            is_new=False,
        )
    )


async def _state_before(turn: Turn, hold: Hold, review: _Review, since: Since) -> Snapshot:
    """By its parents; of an event with a parent that is not here, what was told of it stays."""
    states: list[Snapshot] = []
    for parent_id in since.event.prev_event_ids:
        known = hold.known(parent_id)
        if parent_id in review.after:
            states.append(review.after[parent_id])
        elif known is not None and known.after is not None and hold.has_state(parent_id):
            states.append(known.after)
        else:
            return since.before
    return await turn.resolve(states)


async def _judge(hold: Hold, review: _Review, since: Since, before: Snapshot) -> Verdict:
    """Checks 4 and 5, now that nothing is missing that can be had."""
    event = since.event
    cited = [known for one in event.auth_event_ids if (known := hold.known(one)) is not None]
    rejected = {
        one.event.event_id for one in cited if one.is_rejected or one.event.event_id in review.rejected
    }
    keys = [CREATE, POWER_LEVELS]
    keys += auth_keys_for(event.rules, event.type, event.sender, event.state_key, event.content)
    state = await hold.state_at(before, keys)
    create = state.get(CREATE) if event.rules.create_not_in_auth_events else None
    verdict = check_auth_events(event, AuthEvents([one.event for one in cited], rejected, create))
    if not isinstance(verdict, Accept):
        return verdict
    lookup = hold.filled(lookup_of(state), event)
    return check_state_before(event, lookup, await hold.levels(before, state))


def _extremities(turn: Turn, review: _Review, found: Sequence[Since]) -> list[Extremity]:
    """The newest of what is left, oldest first; in place of one that was rejected, what it named.

    What ended an earlier stay is not among them.
    """
    reviewed = {one.event.event_id: one for one in found}
    shown = {one.event.event_id for one in review.shown}
    named = {parent for one in review.shown for parent in one.event.prev_event_ids}
    ends, seen = set[EventId](), set[EventId]()
    waiting = [one.reference.event_id for one in turn.head.extremities]
    while waiting:
        event_id = waiting.pop()
        since = reviewed.get(event_id)
        if since is None or event_id in seen:
            continue
        seen.add(event_id)
        if event_id not in shown:
            waiting += since.event.prev_event_ids
        elif event_id not in named:
            ends.add(event_id)
    kept = [one for one in turn.head.extremities if one.reference.event_id not in reviewed]
    for one in review.shown:
        event = one.event
        if event.event_id in ends:
            kept.append(Extremity(one.row.nid, event.reference(), event.depth, review.after[event.event_id]))
    return kept
