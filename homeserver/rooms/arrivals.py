"""Events from elsewhere take their place in a room: checks 4 to 7, the state before them, forks, and the new head.

Rules:
1. What comes here has passed checks 1 to 3: its format, its signatures, its hash (it is redacted where that failed).
2. An event is placed when all that it names is here. Of whom something is missing is answered ``Missing``, and not
   stored: the caller keeps it (``store/staging.py``), fetches what is missing, and comes back.
3. Everything in one call is stored together, or nothing is.
4. An extremity goes when an event whose state was made from the state after it becomes one, and for no other reason.
   What fills a gap becomes one; what goes below does not, and ends nothing. When a gap is closed, one may turn out to be
   none (``covered.py``).
5. Rejected events are stored and shown to nobody; soft-failed ones too, but they are part of the graph. Neither is ever
   an extremity.
6. What stands aside (``Arrival.aside``) is stored as an outlier: check 4 and checks 6 and 7 decide whether it is shown.
7. A redaction without effect has its place like any event, but no client is told (``Mark.IDLE``); above a hole, where the
   timeline needs the other mark, it has none, as if it were soft-failed.

# spec: server-server-api#checks-performed-on-receipt-of-a-pdu
# spec: server-server-api#soft-failure
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from federation.auth.power import PowerLevels
from federation.auth.select import CREATE, JOIN_RULES, MEMBER, POWER_LEVELS, auth_keys_for
from federation.checks import AuthEvents, check_auth_events, check_current_state, check_state_before
from federation.event import Event, stored_bytes
from federation.ids import EventId, domain_of
from federation.policy import check as check_policy_signature
from federation.verdict import ACCEPT, Accept, Drop, Reject, SoftFail, Verdict
from homeserver.rooms.hold import Earlier, Hold, described
from homeserver.rooms.redactions import find_early_redaction, is_redaction_in_force
from homeserver.rooms.turn import Turn
from homeserver.store.history import END
from homeserver.store.known import Known
from homeserver.store.placement import Extremity, Place, Placement
from homeserver.store.state import Snapshot, empty_snapshot
from homeserver.store.timeline import load_moves_of_key

# LIMIT(each end of a room is in every resolution of its state; an honest server's events stand on its own earlier ones)
FORKS_MOST = 100

_SECOND_CREATE: Final = Drop("the room has another create event")


@dataclass(frozen=True, slots=True)
class Arrival:
    """An event from elsewhere.

    What others tell of states is believed only as far as parents are missing. ``states``: the whole states after those
    of its ``prev_events`` that are not here, each as event ids, all of them here; they are resolved together with the
    states after the parents that are here. ``state_before``: the whole state before the event, in their stead.
    ``aside``: a sticky event that is older than what this server knows of the room: it gets no place in the graph.
    ``historic``: of backfill; it goes where history is missing (``store/past.py``), and the current state is not asked.
    """

    event: Event
    state_before: tuple[EventId, ...] | None = None
    states: tuple[tuple[EventId, ...], ...] = ()
    historic: bool = False
    doubted: bool = False
    aside: bool = False


@dataclass(frozen=True, slots=True)
class AlreadyHere:
    """The event has its place already (or, of an outlier: is stored)."""

    nid: int
    is_shown: bool = False  # it stands in the timeline


@dataclass(frozen=True, slots=True)
class Placed:
    """The event is stored when the turn's commit is; what became of it."""

    nid: int
    verdict: Verdict
    by_state: bool = False  # rejected by the state before it, and not by its own auth events: check 5


@dataclass(frozen=True, slots=True)
class Missing:
    """Not stored: these are not here."""

    prev_ids: tuple[EventId, ...]
    auth_ids: tuple[EventId, ...]
    state_ids: bool = (
        False  # True: an event of a state that came with it is not here, or that state is doubted
    )


Arrived = AlreadyHere | Placed | Missing


async def arrive(
    turn: Turn,
    arrivals: Sequence[Arrival],
    outliers: Sequence[Event] = (),
    earlier: Earlier | None = None,
    *,
    presuming: bool = False,
) -> list[Arrived]:
    """Place events, in the order given (parents first); what became of each arrival.

    ``outliers`` come before them: events without a known place that the arrivals name (auth events, states), each after
    its own auth events. What is wrong with one of them is noted with it, and shows in those that build on it.
    ``earlier``: see ``Hold.load``. ``presuming``: see ``Hold.presume``; ``turn.unseen`` says whether it was done, and then
    ``earlier`` was not asked.
    """
    hold = Hold(turn)
    events = [arrival.event for arrival in arrivals]
    if not (presuming and not outliers and hold.presume(events)):
        await _load(hold, events, outliers, earlier)
    for event in outliers:
        await _place_outlier(hold, event)
    return [await _arrive_anywhere(hold, arrival) for arrival in arrivals]


async def store_outliers(turn: Turn, events: Sequence[Event]) -> list[Arrived]:
    """Store events without a place, each after its own auth events, checked by these."""
    hold = Hold(turn)
    await _load(hold, (), events)
    return [await _place_outlier(hold, event) for event in events]


async def adopt_room(turn: Turn, join: Event, state: Sequence[EventId], *, partial: bool = False) -> Arrived:
    """Make a room that this server has joined: ``state`` is the whole state before the join event, all of it here.

    ``partial``: but for members, who come later (``completion.py``).

    What the room was here before (we had left it) ends: its newest events have no successors that we know of. Where it
    was not complete, the room is partial until it is: what is told of the time between builds on it.
    """
    turn.is_new = False
    hold = Hold(turn)
    await _load(hold, [join], ())
    auth_ids = _absent(hold, join.auth_event_ids)
    before = await hold.snapshot_of(state)
    if before is None or auth_ids:
        return Missing((), auth_ids, before is None)
    verdict = await _judge(hold, join, before)
    if not isinstance(verdict, Accept):
        return Placed(0, verdict)
    old = turn.head
    placed = await _make(hold, join, before, ACCEPT)
    turn.note(placed)
    placed.linear = False
    placed.told = True  # by who let us in
    placed.missing = tuple(one for one in join.prev_event_ids if not hold.has_state(one))
    placed.above_hole = bool(placed.missing) and bool(old.version)
    placed.state_after = turn.keep(before, {placed.state_key_nid or 0: placed.nid})
    placed.moves = await turn.moves(old.snapshot, placed.state_after)
    extremity = Extremity(placed.nid, join.reference(), join.depth, placed.state_after)
    turn.ends = tuple(one.nid for one in old.extremities)
    turn.head = replace(
        old,
        version=old.version + 1,
        extremities=(extremity,),
        snapshot=placed.state_after,
        depth=join.depth,
        partial=partial or old.partial,
    )
    turn.forget_state()
    return Placed(placed.nid, ACCEPT)


# --- one event -------------------------------------------------------------------------------------------------------


async def _load(
    hold: Hold, events: Sequence[Event], outliers: Sequence[Event], earlier: Earlier | None = None
) -> None:
    both = [*events, *outliers]
    new = [event.event_id for event in both]
    parents = [parent for event in events for parent in event.prev_event_ids]
    others: list[str] = [
        named for event in both for named in (*event.auth_event_ids, event.redacts) if named is not None
    ]
    head = hold.turn.head
    if head.rules.room_id_is_create_hash and not head.version:
        others.append("$" + head.room_id[1:])
    await hold.load(new, parents, others, earlier)
    await hold.prefetch_names(both)


def _absent(hold: Hold, event_ids: Sequence[EventId]) -> tuple[EventId, ...]:
    return tuple(one for one in event_ids if hold.known(one) is None and one not in hold.found.elsewhere)


async def _place_outlier(hold: Hold, event: Event) -> Arrived:
    known = hold.known(event.event_id)
    if known is not None:
        return AlreadyHere(known.nid)
    if await _is_second_create(hold, event):
        return Placed(0, _SECOND_CREATE)
    auth_ids = _absent(hold, event.auth_event_ids)
    if auth_ids:
        return Missing((), auth_ids)
    verdict = await _check_auth_events(hold, event)
    placed = await _make(hold, event, empty_snapshot(hold.turn.head.room_nid), verdict)
    placed.place, placed.linear = Place.OUTLIER, False
    placed.redacted_by = await _find_redaction(hold, event)
    hold.turn.note(placed)
    hold.note(placed)
    return Placed(placed.nid, verdict)


async def _arrive_anywhere(hold: Hold, arrival: Arrival) -> Arrived:
    event = arrival.event
    if event.event_id in hold.found.elsewhere or event.room_id != hold.turn.head.room_id:
        return Placed(0, Drop("an event of another room has this id"))
    if await _is_second_create(hold, event):
        return Placed(0, _SECOND_CREATE)
    return await (_arrive_aside(hold, event) if arrival.aside else _arrive(hold, arrival))


async def _is_second_create(hold: Hold, event: Event) -> bool:
    """Whether a room that is here began otherwise.

    Not of the specification, by which the server that a room is named after may put a create event of today beside the
    first, and resolution takes that for the room's.
    """
    if event.type != "m.room.create" or not hold.turn.head.version:
        return False
    create = await hold.create()
    return create is not None and create.event_id != event.event_id


async def _arrive_aside(hold: Hold, event: Event) -> Arrived:
    # Who sends it would also be the one to tell the state before it: check 5 would say no more than the others do.
    arrived = await _place_outlier(hold, event)
    if not isinstance(arrived, Placed) or not isinstance(arrived.verdict, Accept):
        return arrived
    now = await _judge_now(hold, event, event, None, is_current=False)
    if not _is_final(now):
        hold.turn.stick(hold.turn.placements[-1], shown=isinstance(now, Accept))
    return Placed(arrived.nid, now)


async def _arrive(hold: Hold, arrival: Arrival) -> Arrived:
    event = signed = arrival.event
    known = hold.known(event.event_id)
    if known is not None:
        if hold.has_state(event.event_id):
            return AlreadyHere(known.nid, known.is_shown)
        # What is stored of it stays: another copy may have been redacted on its way, or be less so.
        event = known.event
        arrival = replace(arrival, event=event)
    if hold.is_elsewhere(event.prev_event_ids):
        return Placed(0, Drop("one of its prev_events is of another room"))
    auth_ids = _absent(hold, event.auth_event_ids)
    prev_ids = tuple(one for one in event.prev_event_ids if not hold.has_state(one))
    is_told = bool(prev_ids) and (arrival.state_before is not None or bool(arrival.states))
    if auth_ids or (prev_ids and not is_told):
        return Missing(() if is_told else prev_ids, auth_ids)
    if not event.prev_event_ids and event.type != "m.room.create" and not is_told:
        return Placed(0, Drop("the event has no prev_events"))
    before = await _state_before(hold, arrival, is_told=is_told)
    if before is None:
        return Missing((), (), state_ids=True)
    linear = not is_told and not arrival.historic and _is_on_top(hold.turn, event)
    own = await _check_auth_events(hold, event)
    verdict = await _check_before(hold, event, before) if isinstance(own, Accept) else own
    by_state = isinstance(own, Accept) and isinstance(verdict, Reject)
    if arrival.doubted and by_state:
        return Missing((), (), state_ids=True)
    if isinstance(verdict, Accept) and not arrival.historic:
        # Who came in on a branch that nobody knew of here is in the room, unless the current state says otherwise.
        branch = (
            before if is_told or (not linear and await _is_of_ended_branch(hold, event, before)) else None
        )
        verdict = await _judge_now(hold, event, signed, branch, is_current=linear)
    if not isinstance(verdict, Accept) and await hold.ask_after_all(event.event_id):
        return await _arrive(hold, arrival)
    placed = await _make(hold, event, before, verdict)
    if placed.state_key_nid is not None and not isinstance(verdict, Reject):
        placed.state_after = hold.turn.keep(before, {placed.state_key_nid: placed.nid})
    if arrival.historic or not isinstance(verdict, Reject):
        # What is new and rejected names no history: who goes after that takes what others just said for old.
        placed.missing = prev_ids
    if isinstance(verdict, Accept):
        await _note_redactions(hold, placed, before)
    await _settle(hold, arrival, placed, verdict, linear=linear)
    return Placed(placed.nid, verdict, by_state)


def _is_on_top(turn: Turn, event: Event) -> bool:
    """Whether an event is the successor of all the room's newest events, and of nothing else."""
    newest = turn.head.extremities
    parents = event.prev_event_ids
    if len(newest) == 1 and len(parents) == 1:
        return newest[0].reference.event_id == parents[0]
    return {one.reference.event_id for one in newest} == set(parents)


async def _state_before(hold: Hold, arrival: Arrival, *, is_told: bool) -> Snapshot | None:
    """The state before an event; None where an event of a state that came with it is not here."""
    turn, event = hold.turn, arrival.event
    told = [arrival.state_before] if arrival.state_before is not None else [*arrival.states]
    if not is_told:
        if _is_on_top(turn, event):
            return turn.head.snapshot
        told = []
    states: list[Snapshot] = []
    for event_ids in told:
        state = await hold.snapshot_of(event_ids)
        if state is None:
            return None
        states.append(state)
    for parent_id in event.prev_event_ids:
        known = hold.known(parent_id)
        if known is not None and known.after is not None and hold.has_state(parent_id):
            states.append(known.after)
    return await turn.resolve(states) if states else empty_snapshot(turn.head.room_nid)


# --- the checks ------------------------------------------------------------------------------------------------------


async def _check_auth_events(hold: Hold, event: Event) -> Verdict:
    """Check 4."""
    if hold.is_elsewhere(event.auth_event_ids):
        return Reject("an auth event is of another room")
    cited = [known for one in event.auth_event_ids if (known := hold.known(one)) is not None]
    rejected = {known.event.event_id for known in cited if known.is_rejected}
    create = await hold.create() if event.rules.create_not_in_auth_events else None
    auth = AuthEvents([known.event for known in cited], rejected, create)
    return check_auth_events(event, auth, power=_levels_of(hold.turn, cited))


def _levels_of(turn: Turn, cited: Sequence[Known]) -> PowerLevels | None:
    """The levels at the head, where these auth events are what they were parsed from: in a large room they are long."""
    power, create = turn.warm.get(POWER_LEVELS), turn.warm.get(CREATE)
    if turn.power is None or power is None or create is None:
        return None
    nids = {known.nid for known in cited}
    is_same = power[0] in nids and (create[0] in nids or turn.head.rules.create_not_in_auth_events)
    return turn.power if is_same else None


async def _judge(hold: Hold, event: Event, before: Snapshot) -> Verdict:
    """Checks 4 and 5."""
    verdict = await _check_auth_events(hold, event)
    return await _check_before(hold, event, before) if isinstance(verdict, Accept) else verdict


async def _check_before(hold: Hold, event: Event, before: Snapshot) -> Verdict:
    """Check 5."""
    if event.type == "m.room.create":
        return ACCEPT
    lookup, levels = await hold.lookup_at(before, event)
    return check_state_before(event, lookup, levels)


async def _judge_now(
    hold: Hold, event: Event, signed: Event, branch: Snapshot | None, *, is_current: bool
) -> Verdict:
    """Checks 6 and 7. ``is_current``: the state before the event was the current one, and check 5 asked it.

    ``signed``: the same event with the signatures that came with it. ``branch``: a state that has not come into the
    current one, because its events have no place here.
    """
    turn = hold.turn
    if not turn.head.version:
        return ACCEPT
    if not is_current:
        state = turn.head.snapshot
        if branch is not None:
            present = await _without_the_past(hold, event, branch)
            state = await turn.resolve([*(one.after for one in turn.head.extremities), present])
        lookup, levels = await hold.lookup_at(state, event)
        verdict = check_current_state(event, lookup, levels)
        if isinstance(verdict, Accept):
            verdict = await _check_forks(hold, event)
        if not isinstance(verdict, Accept):
            return verdict
    server = await turn.policing.server_of(turn) if turn.policing is not None else None
    return check_policy_signature(signed, server)


def _is_final(verdict: Verdict) -> bool:
    """Whether an event is refused for good, so that it does not stick either: who sticks is looked at again."""
    return isinstance(verdict, SoftFail) and verdict.final


async def _check_forks(hold: Hold, event: Event) -> Verdict:
    """Not of the specification: a server that has so many ends of a room as no honest one could gets no more of them."""
    turn = hold.turn
    newest = turn.head.extremities
    if len(newest) < FORKS_MOST:
        return ACCEPT
    covered = await hold.behind_hidden(event.prev_event_ids)
    if any(one.reference.event_id in covered for one in newest):
        return ACCEPT
    server = domain_of(event.sender)
    ends = await turn.events([one.nid for one in newest])
    if sum(domain_of(one.sender) == server for one in ends.values()) < FORKS_MOST:
        return ACCEPT
    return SoftFail(f"{server} puts too many events beside all others", final=True)


async def _without_the_past(hold: Hold, event: Event, branch: Snapshot) -> Snapshot:
    """A branch, with the current state in place of what of it was current here before, as far as it decides about an event.

    Who wants to come in tells of a state when the door was open; resolved with the current one the past may win.
    """
    turn, now = hold.turn, hold.turn.head.snapshot
    changes: dict[int, int] = {}
    for key in dict.fromkeys([POWER_LEVELS, JOIN_RULES, *auth_keys_for(event.rules, *described(event))]):
        key_nid = turn.tools.interner.known_key(key) or await turn.tools.interner.find_key(key) or 0
        current, told = now.get(key_nid), branch.get(key_nid)
        if current and told and told != current and told in await _ever_current(turn, key_nid):
            changes[key_nid] = current
    return turn.keep(branch, changes) if changes else branch


async def _ever_current(turn: Turn, key_nid: int) -> set[int]:
    """Every event that has been the current state at a key, as far as the room has been here."""
    room_nid = turn.head.room_nid
    moves = await turn.tools.database.read(load_moves_of_key, [room_nid], key_nid, 0, END)
    flying = (move for placed in turn.unstored() for move in placed.moves if move.key_nid == key_nid)
    return {nid for move in (*moves.get(room_nid, ()), *flying) for nid in (move.event_nid, move.prev_nid)}


async def _is_of_ended_branch(hold: Hold, event: Event, before: Snapshot) -> bool:
    """Whether the sender is in the room by a join that stood here, and of which the current state has never heard.

    So it is where we came back through somebody who did not know of the join: its branch has ended here. A join that was
    soft-failed is no such: else who came in by the past would be heard.
    """
    key = (MEMBER, event.sender)
    if await hold.turn.state(*key) is not None:
        return False
    member = (await hold.state_at(before, [key])).get(key)
    if member is None or member.content.get("membership") != "join":
        return False
    await hold.load((), (), [member.event_id])
    known = hold.known(member.event_id)
    return known is not None and known.is_shown


# --- placing ---------------------------------------------------------------------------------------------------------


async def _make(hold: Hold, event: Event, before: Snapshot, verdict: Verdict) -> Placement:
    """The placement of an event, without its effect on states and on the room."""
    turn, known = hold.turn, hold.known(event.event_id)
    interner = turn.tools.interner
    is_new = known is None
    nid = known.nid if known is not None else interner.take_nid()
    type_nid = interner.known_type(event.type) or await interner.event_type(event.type)
    sender_nid = interner.known_user(event.sender) or await interner.user(event.sender)
    cited = [known for one in event.auth_event_ids if (known := hold.known(one)) is not None]
    auth_nids = tuple(dict.fromkeys(one.nid for one in cited if one.event.state_key is not None))
    key_nid, rank, prev_nid = None, None, 0
    if event.state_key is not None:
        key_nid = interner.known_key(event.key()) or await interner.state_key(event.key())
        prev_nid = before.get(key_nid)
        rank = await turn.rank(auth_nids)
        turn.tools.ranks.put(nid, rank)
    return Placement(
        event,
        stored_bytes(event),
        nid,
        turn.head.room_nid,
        type_nid,
        key_nid,
        sender_nid,
        before,
        before,
        prev_nid,
        auth_nids,
        rank,
        rejected=verdict.reason if isinstance(verdict, Reject) else None,
        is_new=is_new,
    )


async def _note_redactions(hold: Hold, placed: Placement, before: Snapshot) -> None:
    event = placed.event
    if event.redacts is not None:
        target = hold.known(event.redacts)
        if target is None:
            placed.awaits_target = event.redacts not in hold.found.elsewhere
        elif await is_redaction_in_force(hold, event, target.event, before):
            placed.redacts_target = event.redacts
        # As a piece of state it has an effect; and in old rooms it will have one, or the rules would have refused it.
        has_effect = placed.redacts_target is not None or event.state_key is not None
        will_have = placed.awaits_target and event.rules.redaction_authorised_by_rules
        placed.idle = not (has_effect or will_have)
    placed.redacted_by = await _find_redaction(hold, event)


async def _find_redaction(hold: Hold, event: Event) -> int:
    """A redaction that came before the event and takes effect."""
    waiting = hold.found.redactions.get(event.event_id)
    return await find_early_redaction(hold, event, waiting) if waiting else 0


async def _settle(hold: Hold, arrival: Arrival, placed: Placement, verdict: Verdict, *, linear: bool) -> None:
    """What the event does to the room's head."""
    if not isinstance(verdict, Accept):
        placed.place, placed.linear = Place.NOWHERE, False
    elif arrival.historic:
        placed.place, placed.linear = Place.HISTORY, False
    elif placed.missing and hold.turn.head.version and not hold.turn.head.partial:
        # In a room that is not complete it may have to leave the timeline yet.
        if placed.idle:
            placed.place, placed.linear = Place.NOWHERE, False
        else:
            placed.above_hole = True
    # Before the head: a resolution asks for the event itself.
    hold.turn.note(placed, sticks=not _is_final(verdict))
    hold.note(placed)
    if placed.place is Place.TIMELINE:
        if linear:
            await _go_on_top(hold.turn, placed)
        else:
            await _join_fork(hold, placed)


async def _go_on_top(turn: Turn, placed: Placement) -> None:
    """The common case: the event is the only newest one now."""
    event, key_nid = placed.event, placed.state_key_nid
    if key_nid is not None:
        placed.moves = (await turn.own_move(event, key_nid, placed.nid, placed.prev_nid),)
        turn.warm[event.key()] = (placed.nid, event)
        if event.type in ("m.room.power_levels", "m.room.create"):
            turn.power = None
    turn.place_on_head(placed)


async def _join_fork(hold: Hold, placed: Placement) -> None:
    """The event stands beside others, or fills a gap below them: the current state is resolved anew."""
    turn, event = hold.turn, placed.event
    placed.linear = False
    # Where others wait above it, they were placed by a state that somebody told: it becomes an extremity all the same,
    # or who names it too early could keep what it says from ever counting here.
    covered = await hold.behind_hidden(event.prev_event_ids)
    extremities = [one for one in turn.head.extremities if one.reference.event_id not in covered]
    extremities.append(Extremity(placed.nid, event.reference(), event.depth, placed.state_after))
    placed.moves = await turn.settle(turn.head, extremities)
