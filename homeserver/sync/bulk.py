"""Rooms from the tables: many at once, in a few reads, whatever the log has forgotten.

Runs in a database thread, in one read unit. For each room: the newest events that the reader may see and wants, and
the state that leads to them.

1. The timeline is what was committed in ``(since, upto]``, the newest first until there are enough.
2. ``state`` plus the timeline MUST give the state at ``upto``: an event that changed the state and is not in the
   timeline (cut off, filtered out) is in ``state``.
3. Visibility is decided by what the room's state was at the event's place in our order.

spec: client-server-api#get_matrixclientv3sync
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from federation.visibility import may_see, visibility_of
from homeserver.db.tx import Tx
from homeserver.store import visibility_reads
from homeserver.store.bundles import Viewer, load_bundles
from homeserver.store.client_events import ClientEvent, ClientEventCache, load_client_events
from homeserver.store.placement import MEMBERSHIPS, Membership
from homeserver.store.sync_reads import Summary, load_raw_events, load_summaries, load_transaction_keys
from homeserver.store.timeline import (
    Move,
    Place,
    load_member_keys,
    load_moves,
    load_moves_of_key,
    load_moves_of_left,
    load_moves_of_newest,
    load_newest,
    load_newest_of_left,
    load_state,
    load_state_at,
    load_state_without_members,
    undo,
)
from homeserver.stream.index import Standing
from homeserver.sync.filters import SyncFilter
from homeserver.sync.lazy import Sent
from homeserver.sync.serialise import Writer, transaction_id

# How much further back than asked for it looks for events that pass the filter.
_REACH = (1, 5, 25)
# LIMIT(events looked at for one answer because the filter kept the first ones out)
_REACH_MOST = 20_000
_MEMBER = "m.room.member"


@dataclass(frozen=True, slots=True)
class Keys:
    """The numbers of state keys that sync looks at (0: no room has ever used it)."""

    own: int  # the reader's membership
    visibility: int
    name: int
    alias: int


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads, and how they want it."""

    user_id: str
    user_nid: int
    device_nid: int
    keys: Keys
    ignored: frozenset[str]
    filter: SyncFilter
    now_ms: int
    state_after: bool


@dataclass(frozen=True, slots=True)
class Order:
    """Rooms to build, with the reader's standing in each; see ``plan.Plan``."""

    since: int
    upto: int
    full_state: bool
    changed: Mapping[int, Standing]
    moved: Mapping[int, Standing]
    full: Mapping[int, Standing]
    left: Mapping[int, Standing]
    sent: Mapping[int, Sent]  # lazy loading: the members that the device has
    names: Mapping[int, str]  # the rooms' ids, for filters that differ by room


@dataclass(slots=True)
class Shown:
    """An event of a timeline, and what the reader was when it was sent."""

    event: ClientEvent
    membership: Membership
    previous_nid: int = 0
    hide_previous: bool = False


@dataclass(slots=True)
class RoomWork:
    """One room on its way."""

    room_nid: int
    standing: Standing
    since: int
    upto: int
    full: bool
    fresh: bool = False  # new to the client: its other sections are told in full as well
    left: bool = False
    only_nid: int = 0  # never in it: nothing but this event
    tail_nid: int = 0  # an event of their own after they left
    known_upto: int = 0  # the client may have events of the room up to here
    places: list[Place] = field(default_factory=list)
    more: bool = False
    moves: list[Move] = field(default_factory=list)
    keyed: dict[int, int] = field(default_factory=dict)
    shown: list[Shown] = field(default_factory=list)
    limited: bool = False
    start: int = 0
    state: list[ClientEvent] = field(default_factory=list)
    summary: Summary | None = None
    members: dict[str, int] = field(default_factory=dict)  # membership events that the client has after this


@dataclass(frozen=True, slots=True)
class Built:
    """The rooms, and what it takes to write their events."""

    rooms: list[RoomWork]
    events: Mapping[int, ClientEvent]
    transactions: Mapping[int, str]
    related: Mapping[int, bytes]  # what relates to them, summed up
    writer: Writer


def build_rooms(
    tx: Tx, reader: Reader, order: Order, cache: ClientEventCache, facts: visibility_reads.StateFacts
) -> Built:
    """See the module."""
    return _Builder(tx, reader, order, cache, facts).build()


class _Builder:
    """The state of one read unit."""

    def __init__(
        self,
        tx: Tx,
        reader: Reader,
        order: Order,
        cache: ClientEventCache,
        facts: visibility_reads.StateFacts,
    ) -> None:
        self._tx = tx
        self._reader = reader
        self._order = order
        self._cache = cache
        self._facts = facts
        self._events: dict[int, ClientEvent] = {}
        self._lazy = reader.filter.lazy

    def build(self) -> Built:
        works = [*self._steady(), *self._by_moves()]
        open_works = [work for work in works if not work.only_nid]
        self._find_timelines(open_works)
        self._load([nid for work in works for nid in (work.only_nid, work.tail_nid) if nid])
        self._add_own_ends(works)
        self._summarise(open_works)
        self._find_states(open_works)
        self._load([one.previous_nid for work in works for one in work.shown if one.previous_nid])
        for work in works:
            work.members.update({one.state_key or "": one.nid for one in work.state if one.type == _MEMBER})
            for shown in work.shown:
                if shown.event.type == _MEMBER and shown.event.state_key is not None:
                    work.members[shown.event.state_key] = shown.event.nid
        raw: dict[int, bytes] | None = None
        if self._reader.filter.federation_format:
            told = [one.event.nid for work in works for one in work.shown]
            raw = load_raw_events(self._tx, [*told, *(one.nid for work in works for one in work.state)])
        writer = Writer(self._reader.filter, self._reader.now_ms, raw)
        related = self._relate(works) if raw is None else {}
        return Built(works, self._events, self._load_transactions(works), related, writer)

    def _load(self, nids: Collection[int]) -> None:
        missing = sorted({nid for nid in nids if nid not in self._events})
        if missing:
            self._events.update(load_client_events(self._tx, missing, self._cache))

    # --- which rooms, from where to where ------------------------------------------------------------------------

    def _steady(self) -> list[RoomWork]:
        order = self._order
        works = [
            RoomWork(nid, standing, order.since, order.upto, order.full_state)
            for nid, standing in order.changed.items()
        ]
        fresh = order.since == 0
        for nid, standing in order.full.items():
            works.append(RoomWork(nid, standing, order.since, order.upto, full=True, fresh=fresh))
        return works

    def _by_moves(self) -> list[RoomWork]:
        """Rooms where the reader's own membership changed: what they were at the token decides."""
        order = self._order
        if not order.moved and not order.left:
            return []
        own = load_moves_of_key(
            self._tx, [*order.moved, *order.left], self._reader.keys.own, order.since, order.upto
        )
        self._load(
            [
                nid
                for moves in own.values()
                for move in moves
                for nid in (move.event_nid, move.prev_nid)
                if nid
            ]
        )
        works: list[RoomWork] = []
        for nid, standing in order.moved.items():
            before, steps = self._steps(own.get(nid, []), standing)
            if before == Membership.JOIN and all(one == Membership.JOIN for _, one in steps):
                works.append(RoomWork(nid, standing, order.since, order.upto, order.full_state))
            else:
                works.append(
                    RoomWork(nid, standing, 0, order.upto, full=True, fresh=True, known_upto=order.since)
                )
        for nid, standing in order.left.items():
            before, steps = self._steps(own.get(nid, []), standing)
            works.append(self._left(nid, standing, before, steps))
        return works

    def _steps(
        self, moves: Sequence[Move], standing: Standing
    ) -> tuple[Membership, list[tuple[int, Membership]]]:
        before = self._membership(moves[0].prev_nid) if moves else standing.membership
        return before, [(move.pos, self._membership(move.event_nid)) for move in moves]

    def _membership(self, event_nid: int) -> Membership:
        event = self._events.get(event_nid)
        return membership_in(event) if event is not None else Membership.LEAVE

    def _left(
        self, nid: int, standing: Standing, before: Membership, steps: Sequence[tuple[int, Membership]]
    ) -> RoomWork:
        order = self._order
        left_pos, again, was = 0, False, before
        for pos, membership in steps:
            if was == Membership.JOIN and membership != Membership.JOIN:
                left_pos = pos
            elif was != Membership.JOIN and membership == Membership.JOIN:
                again = True
            was = membership
        if not left_pos:
            return RoomWork(nid, standing, order.since, standing.pos, full=False, only_nid=standing.event_nid)
        work = RoomWork(nid, standing, order.since, left_pos, full=order.full_state, left=True)
        if again or order.since == 0:
            work.since, work.full, work.fresh, work.known_upto = 0, True, True, order.since
        if standing.pos > left_pos:
            work.tail_nid = standing.event_nid
        return work

    # --- timelines -----------------------------------------------------------------------------------------------

    def _find_timelines(self, works: Sequence[RoomWork]) -> None:
        wanted = list(works)
        limit = self._reader.filter.timeline.limit
        for reach in _REACH:
            if reach > 1 and len(wanted) * limit * reach > _REACH_MOST:
                break
            self._load_places(wanted, limit * reach)
            if reach == 1:
                self._load_keyed(wanted)
            self._load([nid for work in wanted for nid in self._to_look_at(work)])
            wanted = [work for work in wanted if not self._choose(work, limit)]
            if not wanted:
                break
        for work in wanted:
            self._choose(work, limit, enough=True)

    def _to_look_at(self, work: RoomWork) -> list[int]:
        """The events that decide about a room's timeline."""
        nids = [place.event_nid for place in work.places]
        nids += [nid for nid in work.keyed.values() if nid]
        if not work.full:
            # Of each key that moved, the newest: it is told, and says whether the summary changed.
            nids += {move.key_nid: move.event_nid for move in work.moves if move.pos <= work.upto}.values()
        watched = (self._reader.keys.own, self._reader.keys.visibility)
        for move in work.moves:
            if move.key_nid in watched:
                nids += (move.event_nid, move.prev_nid)
        return [nid for nid in nids if nid]

    def _load_places(self, works: Sequence[RoomWork], most: int) -> None:
        tx, user_nid = self._tx, self._reader.user_nid
        for group in _groups(
            works, lambda work: (work.left, work.since, work.upto if not work.left else 0, work.full)
        ):
            left, since, upto, full = group[0].left, group[0].since, group[0].upto, group[0].full
            nids = [work.room_nid for work in group]
            if left:
                places = load_newest_of_left(tx, user_nid, nids, since, most)
            else:
                places = load_newest(tx, nids, since, upto, most)
            if not full:
                moves = load_moves(tx, nids, since) if not group[0].moves else {}
            elif left:
                moves = load_moves_of_left(tx, user_nid, nids, since, most)
            else:
                moves = load_moves_of_newest(tx, nids, since, upto, most)
            for work in group:
                found = places.get(work.room_nid, [])
                work.more = len(found) > most
                work.places = [one for one in (found[1:] if work.more else found) if one.pos <= work.upto]
                work.moves = moves.get(work.room_nid, work.moves)

    def _load_keyed(self, works: Sequence[RoomWork]) -> None:
        """The keys that decide about visibility, and whether a room has a name."""
        keys = self._reader.keys
        wanted = [key for key in (keys.own, keys.visibility, keys.name, keys.alias) if key]
        found = load_state_at(self._tx, [work.room_nid for work in works], wanted)
        for work in works:
            work.keyed = found.get(work.room_nid, {})

    def _choose(self, work: RoomWork, limit: int, *, enough: bool = False) -> bool:
        """Take the events that the reader may see and wants. False: look further back, unless that was enough."""
        reader, filter_ = self._reader, self._reader.filter.timeline
        accepted: list[tuple[Place, Shown]] = []
        replaced = {move.event_nid: move.prev_nid for move in work.moves}
        if not filter_.rooms.accepts(self._order.names[work.room_nid]):
            work.start = work.upto + 1
            return True
        for place, shown in self._visible(work):
            event = shown.event
            if event.state_key is None and event.sender in reader.ignored:
                continue  # spec: client-server-api#ignoring-users (state events are sent all the same)
            if filter_.accepts(event.type, event.sender, event.has_url):
                shown.previous_nid = replaced.get(event.nid, 0)
                accepted.append((place, shown))
        if len(accepted) < limit and work.more and not enough:
            return False
        dropped = max(0, len(accepted) - limit)
        work.limited = work.more or dropped > 0
        accepted = accepted[dropped:]
        if accepted and len(accepted) == limit:
            work.start = accepted[0][0].pos
        elif work.places and not dropped:
            work.start = work.places[0].pos
        else:
            work.start = work.upto + 1
        work.shown = [shown for _, shown in accepted]
        if work.since == 0 and work.places and not work.limited:
            first = self._events.get(work.places[0].event_nid)
            # History may go further back, here or elsewhere; or the client has a part of it already.
            work.limited = (
                first is None or first.type != "m.room.create" or work.places[0].pos <= work.known_upto
            )
        return True

    def _visible(self, work: RoomWork) -> list[tuple[Place, Shown]]:
        """The events that the reader may see, each with their membership at it."""
        keys = self._reader.keys
        own_moves = [move for move in work.moves if move.key_nid == keys.own]
        first = work.places[0].pos if work.places else 0
        standing = work.standing.membership
        found = [
            (place, self._events[place.event_nid]) for place in work.places if place.event_nid in self._events
        ]
        if standing == Membership.JOIN and not any(move.pos >= first for move in own_moves):
            return [(place, Shown(event, standing)) for place, event in found]
        watched = [move for move in work.moves if move.key_nid in (keys.own, keys.visibility)]
        base = undo(work.keyed, watched, first - 1)
        walk = _Walk(self._membership(base.get(keys.own, 0)), self._visibility(base.get(keys.visibility, 0)))
        joins = [move.pos for move in own_moves if self._membership(move.event_nid) == Membership.JOIN]
        last_join = max(joins, default=first - 1 if standing == Membership.JOIN else 0)
        result: list[tuple[Place, Shown]] = []
        steps = iter([move for move in watched if move.pos >= first])
        move = next(steps, None)
        for place, event in found:
            before = (walk.membership, walk.visibility)
            while move is not None and move.pos <= place.pos:
                if move.key_nid == keys.own:
                    walk.membership = self._membership(move.event_nid)
                else:
                    walk.visibility = self._visibility(move.event_nid)
                if move.pos < place.pos:
                    before = (walk.membership, walk.visibility)
                move = next(steps, None)
            # spec: client-server-api#room-history-visibility (before or after, whichever allows)
            sides = {before, (walk.membership, walk.visibility)}
            later = last_join > place.pos
            if any(may_see(visibility, membership.word, later) for membership, visibility in sides):
                hide = before[0] != Membership.JOIN and not may_see(before[1], None, later)
                result.append((place, Shown(event, walk.membership, hide_previous=hide)))
        return result

    def _visibility(self, event_nid: int) -> str:
        event = self._events.get(event_nid)
        return visibility_of(event.content_dict() if event is not None else None)

    def _add_own_ends(self, works: Sequence[RoomWork]) -> None:
        """The reader's own event, where it is all that they may see, or where it came after they had left."""
        for work in works:
            nid = work.only_nid or work.tail_nid
            event = self._events.get(nid) if nid else None
            if event is None:
                continue
            if work.only_nid:
                work.start = work.standing.pos
            if self._reader.filter.timeline.accepts(event.type, event.sender, event.has_url):
                work.shown.append(Shown(event, work.standing.membership))

    # --- state ---------------------------------------------------------------------------------------------------

    def _summarise(self, works: Sequence[RoomWork]) -> None:
        keys = self._reader.keys
        wanted: list[RoomWork] = []
        for work in works:
            if work.left:
                continue
            touched = [move for move in work.moves if move.pos > work.since]
            if work.full or any(
                move.key_nid in (keys.name, keys.alias) or self._is_member(move.event_nid) for move in touched
            ):
                wanted.append(work)
        if not wanted:
            return
        unnamed = {work.room_nid for work in wanted if not self._is_named(work)}
        found = load_summaries(self._tx, [work.room_nid for work in wanted], unnamed)
        for work in wanted:
            work.summary = found[work.room_nid]

    def _is_member(self, event_nid: int) -> bool:
        event = self._events.get(event_nid)
        return event is not None and event.type == _MEMBER

    def _is_named(self, work: RoomWork) -> bool:
        keys = self._reader.keys
        for key_nid, name in ((keys.name, "name"), (keys.alias, "alias")):
            event = self._events.get(work.keyed.get(key_nid, 0))
            if event is not None and is_set(event, name):
                return True
        return False

    def _find_states(self, works: Sequence[RoomWork]) -> None:
        full = [work for work in works if work.full]
        part = [work for work in works if not work.full]
        wanted = {work.room_nid: self._wanted_members(work) for work in works} if self._lazy else {}
        nids: dict[int, list[int]] = {work.room_nid: self._delta(work) for work in part}
        if full:
            rooms = [work.room_nid for work in full]
            if self._lazy:
                users = sorted({user for nid in rooms for user in wanted[nid]})
                states = load_state_without_members(self._tx, rooms, users)
            else:
                states = load_state(self._tx, rooms)
            for work in full:
                nids[work.room_nid] = self._whole(work, states.get(work.room_nid, {}))
        if self._lazy and part:
            self._add_senders(part, nids, wanted)
        self._load([nid for found in nids.values() for nid in found])
        state_filter = self._reader.filter.state
        for work in works:
            if not state_filter.rooms.accepts(self._order.names[work.room_nid]):
                continue
            members = wanted.get(work.room_nid) if work.full else None
            for nid in dict.fromkeys(nids[work.room_nid]):
                event = self._events.get(nid)
                if event is None or not state_filter.accepts(event.type, event.sender, event.has_url):
                    continue
                if members is not None and event.type == _MEMBER and event.state_key not in members:
                    continue
                work.state.append(event)

    def _wanted_members(self, work: RoomWork) -> set[str]:
        """Lazy loading: whose membership the client needs."""
        # spec: client-server-api#lazy-loading-room-members
        wanted = {shown.event.sender for shown in work.shown}
        if work.full:
            wanted.add(self._reader.user_id)
        if work.summary is not None:
            wanted.update(work.summary.heroes(self._reader.user_id))
        return wanted

    def _delta(self, work: RoomWork) -> list[int]:
        """The state events of a room that the client lacks, given what it had at the token."""
        begin: dict[int, int] = {}
        end: dict[int, int] = {}
        for move in work.moves:
            if move.pos <= work.upto:
                end[move.key_nid] = move.event_nid
                if move.pos < work.start:
                    begin[move.key_nid] = move.event_nid
        return self._told(work, begin, end)

    def _whole(self, work: RoomWork, state: Mapping[int, int]) -> list[int]:
        """The state events of a room, for a client that has none of it."""
        return self._told(work, undo(state, work.moves, work.start - 1), undo(state, work.moves, work.upto))

    def _told(self, work: RoomWork, begin: Mapping[int, int], end: Mapping[int, int]) -> list[int]:
        if self._reader.state_after:
            return [nid for nid in end.values() if nid]
        in_timeline = {shown.event.nid for shown in work.shown}
        told = [begin.get(key, 0) if nid in in_timeline else nid for key, nid in end.items()]
        return [nid for nid in told if nid]

    def _add_senders(
        self, works: Sequence[RoomWork], nids: dict[int, list[int]], wanted: Mapping[int, set[str]]
    ) -> None:
        """Lazy loading in increments: the senders that the device was not told of yet."""
        users = sorted({user for work in works for user in wanted[work.room_nid]})
        if not users:
            return
        found = load_member_keys(self._tx, [work.room_nid for work in works], users)
        redundant = self._reader.filter.redundant
        for work in works:
            sent = self._order.sent.get(work.room_nid, {})
            at = work.upto if self._reader.state_after else work.start - 1
            for user_id, (key_nid, event_nid) in found.get(work.room_nid, {}).items():
                if user_id not in wanted[work.room_nid]:
                    continue
                moves = [move for move in work.moves if move.key_nid == key_nid]
                nid = undo({key_nid: event_nid}, moves, at)[key_nid]
                known = sent.get(user_id)
                if nid and (redundant or known is None or known[0] != nid or known[1] > self._order.since):
                    nids[work.room_nid].append(nid)

    def _load_transactions(self, works: Sequence[RoomWork]) -> dict[int, str]:
        reader = self._reader
        if not reader.device_nid:
            return {}
        own = [
            (work.room_nid, one.event)
            for work in works
            for one in work.shown
            if one.event.sender == reader.user_id
        ]
        if not own:
            return {}
        events = {event.nid: event for _, event in own}
        rooms = {room_nid for room_nid, _ in own}
        keys = load_transaction_keys(self._tx, reader.device_nid, rooms, events.keys())
        found = {nid: transaction_id(key, events[nid]) for nid, key in keys.items()}
        return {nid: txn_id for nid, txn_id in found.items() if txn_id is not None}

    def _relate(self, works: Sequence[RoomWork]) -> dict[int, bytes]:
        """What relates to the events of rooms that the reader is in, summed up; one read for all of them."""
        reader, order = self._reader, self._order
        inside = [work for work in works if not work.left and not work.only_nid]
        room_ids = {one.event.nid: order.names[work.room_nid] for work in inside for one in work.shown}
        events = {one.event.nid: one.event for work in inside for one in work.shown}
        keys = reader.keys
        eyes = visibility_reads.Reader(reader.user_id, keys.own, keys.visibility, joined=True)
        viewer = Viewer(eyes, reader.user_nid, reader.ignored, order.upto, reader.now_ms)
        return load_bundles(self._tx, viewer, room_ids, events, self._facts, self._cache)


@dataclass(slots=True)
class _Walk:
    """Where a walk along a timeline is."""

    membership: Membership
    visibility: str


def _groups(works: Sequence[RoomWork], key: Callable[[RoomWork], object]) -> list[list[RoomWork]]:
    groups: dict[object, list[RoomWork]] = {}
    for work in works:
        groups.setdefault(key(work), []).append(work)
    return list(groups.values())


def membership_in(event: ClientEvent) -> Membership:
    """What a membership event makes of its user."""
    content = event.content_dict()
    word = content.get("membership") if isinstance(content, dict) else None
    return MEMBERSHIPS.get(word, Membership.LEAVE) if isinstance(word, str) else Membership.LEAVE


def is_set(event: ClientEvent, name: str) -> bool:
    """Whether a content has a string of that name that is not empty."""
    content = event.content_dict()
    value = content.get(name) if isinstance(content, dict) else None
    return isinstance(value, str) and value != ""
