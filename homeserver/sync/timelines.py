"""Timelines from the tables: of many rooms at once, the newest events that one reader may see and wants.

Runs in a database thread. Both kinds of sync build on it: what else they tell of a room is their own.

1. The timeline is what was committed in ``(since, upto]``, the newest first until there are enough, or up to an event that
   came while what is before it was missing: what fills that hole is found by paging back.
2. Visibility is decided by what the room's state was at the event's place in our order.

spec: client-server-api#get_matrixclientv3sync
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from federation.visibility import may_see, visibility_of
from homeserver.db.tx import Ask, Tx
from homeserver.store import visibility_reads
from homeserver.store.bundles import Viewer, ask_whether, load_bundles
from homeserver.store.client_events import ClientEvent, ClientEventCache
from homeserver.store.placement import ENDED, MEMBERSHIPS, Mark, Membership
from homeserver.store.sync_reads import Summary, ask_transaction_keys, load_transaction_keys
from homeserver.store.timeline import (
    Move,
    Place,
    ask_moves_of_newest,
    ask_newest,
    ask_state_at,
    load_cited,
    load_moves,
    load_moves_of_key,
    load_moves_of_left,
    load_moves_of_newest,
    load_newest,
    load_newest_of_left,
    load_state_at,
    undo,
)
from homeserver.store.unsigned import sent_as
from homeserver.store.veil import load_veiled
from homeserver.stream.index import Standing
from homeserver.sync.filters import SyncFilter
from homeserver.sync.superseded import count_superseded

# How much further back than asked for it looks for events that pass the filter.
_REACH = (1, 5, 25)
# LIMIT(events looked at for one answer because the filter kept the first ones out)
_REACH_MOST = 20_000
_ABOVE_HOLE = int(Mark.ABOVE_HOLE)
_IDLE = int(Mark.IDLE)


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


@dataclass(slots=True)
class Shown:
    """An event of a timeline, and what the reader was when it was sent."""

    event: ClientEvent
    membership: Membership
    previous_nid: int = 0
    hide_previous: bool = False
    pos: int = 0


@dataclass(slots=True)
class RoomWork:
    """One room on its way."""

    room_nid: int
    standing: Standing
    since: int
    upto: int  # of a room that was left: where they left it
    full: bool
    fresh: bool = False  # new to the client: its other sections are told in full as well
    left: bool = False
    only_nid: int = 0  # never in it: nothing but this event
    tail_nid: int = 0  # an event of their own after they left
    known_upto: int = 0  # the client may have events of the room up to here
    limit: int = 0  # of the timeline
    places: list[Place] = field(default_factory=list)
    more: bool = False
    above_hole: bool = False  # history is or was missing before the first of the places
    moves: list[Move] = field(default_factory=list)
    keyed: dict[int, int] = field(default_factory=dict)
    shown: list[Shown] = field(default_factory=list)
    limited: bool = False
    start: int = 0
    state: list[ClientEvent] = field(default_factory=list)
    replaced: dict[int, int] = field(default_factory=dict)  # by events told as state: which one each replaced
    summary: Summary | None = None
    members: dict[str, int] = field(default_factory=dict)  # membership events that the client has after this


class Timelines:
    """The state of one read unit. ``events`` holds whatever it loaded, by nid."""

    def __init__(
        self,
        tx: Tx,
        reader: Reader,
        names: Mapping[int, str],
        cache: ClientEventCache,
        facts: visibility_reads.StateFacts,
    ) -> None:
        self._tx = tx
        self._reader = reader
        self._names = names
        self._cache = cache
        self._facts = facts
        self.events: dict[int, ClientEvent] = {}
        self._memberships: dict[int, Membership] = {}
        self._visibilities: dict[int, str] = {}
        self._decided: dict[tuple[tuple[Membership, str], Membership, str, bool], tuple[bool, bool]] = {}

    def load(self, nids: Iterable[int]) -> None:
        """Have client events at hand."""
        missing = sorted({nid for nid in nids if nid not in self.events})
        if missing:
            member_key = self._reader.keys.own
            self.events.update(load_veiled(self._tx, missing, member_key, self._facts, self._cache))

    # --- which rooms, from where to where ------------------------------------------------------------------------

    def by_moves(
        self,
        moved: Mapping[int, Standing],
        left: Mapping[int, Standing],
        since: int,
        upto: int,
        *,
        full_state: bool = False,
    ) -> list[RoomWork]:
        """Rooms where the reader's own membership changed: what they were at the token decides."""
        if not moved and not left:
            return []
        own = load_moves_of_key(self._tx, [*moved, *left], self._reader.keys.own, since, upto)
        nids = [nid for moves in own.values() for move in moves for nid in (move.event_nid, move.prev_nid)]
        self.load([nid for nid in nids if nid])
        works: list[RoomWork] = []
        for nid, standing in moved.items():
            before, steps = self._steps(own.get(nid, []), standing)
            if before == Membership.JOIN and all(one == Membership.JOIN for _, one in steps):
                works.append(RoomWork(nid, standing, since, upto, full_state))
            else:
                works.append(RoomWork(nid, standing, 0, upto, full=True, fresh=True, known_upto=since))
        for nid, standing in left.items():
            moves = own.get(nid, [])
            before, steps = self._steps(moves, standing)
            if standing.forgotten and ENDED.issuperset((before, *(one for _, one in steps))):
                continue  # it was over for them at the token, and what came after is of a room that they forgot
            work = self._left(nid, standing, before, steps, since, full_state)
            work.replaced = {move.event_nid: move.prev_nid for move in moves if move.prev_nid}
            works.append(work)
        return works

    def _steps(
        self, moves: Sequence[Move], standing: Standing
    ) -> tuple[Membership, list[tuple[int, Membership]]]:
        before = self.membership(moves[0].prev_nid) if moves else standing.membership
        return before, [(move.pos, self.membership(move.event_nid)) for move in moves]

    def membership(self, event_nid: int) -> Membership:
        """What a membership event that was loaded makes of its user."""
        known = self._memberships.get(event_nid)
        if known is None:
            event = self.events.get(event_nid)
            if event is None:
                return Membership.LEAVE
            known = self._memberships[event_nid] = membership_in(event)
        return known

    def _left(
        self,
        nid: int,
        standing: Standing,
        before: Membership,
        steps: Sequence[tuple[int, Membership]],
        since: int,
        full_state: bool,
    ) -> RoomWork:
        left_pos, again, was = 0, False, before
        for pos, membership in steps:
            if was == Membership.JOIN and membership != Membership.JOIN:
                left_pos = pos
            elif was != Membership.JOIN and membership == Membership.JOIN:
                again = True
            was = membership
        if not left_pos:
            return RoomWork(nid, standing, since, standing.pos, full=False, only_nid=standing.event_nid)
        work = RoomWork(nid, standing, since, left_pos, full=full_state, left=True)
        if again or since == 0:
            work.since, work.full, work.fresh, work.known_upto = 0, True, True, since
        if standing.pos > left_pos:
            work.tail_nid = standing.event_nid
        return work

    # --- timelines -----------------------------------------------------------------------------------------------

    def find(self, works: Sequence[RoomWork], also: Sequence[Ask] = ()) -> None:
        """The timelines of rooms that the reader is or was in; each has its ``limit``. ``also``: asked soon after."""
        wanted = list(works)
        if wanted:
            self._tx.ahead([*self._ask(wanted), *also])
        for reach in _REACH:
            if reach > 1 and sum(work.limit for work in wanted) * reach > _REACH_MOST:
                break
            self._load_places(wanted, reach)
            if reach == 1:
                self._load_keyed(wanted)
            self.load([nid for work in wanted for nid in self._to_look_at(work)])
            wanted = [work for work in wanted if not self._choose(work)]
            if not wanted:
                break
        for work in wanted:
            self._choose(work, enough=True)
        self._find_accepted(works)

    def _find_accepted(self, works: Sequence[RoomWork]) -> None:
        """What those joins of the reader's replaced by which this server came into a room: the log does not know it.

        Clients tell by the invite that a room is a direct chat.
        """
        joins = {
            one.event.nid: one
            for work in works
            for one in work.shown
            if is_membership_of(one.event, self._reader.user_id) and self._may_be_of_the_server(work, one)
        }
        if joins:
            for nid, cited in load_cited(self._tx, joins).items():
                joins[nid].previous_nid = cited

    def _may_be_of_the_server(self, work: RoomWork, shown: Shown) -> bool:
        """Whether it may be by this event that the server came into the room, for the first time or again."""
        if shown.previous_nid:
            return self.membership(shown.previous_nid) == Membership.LEAVE
        # The state of a room that was elsewhere comes with the join.
        return sum(move.pos == shown.pos for move in work.moves) > 1

    def _ask(self, works: Sequence[RoomWork]) -> list[Ask]:
        """What is asked first of rooms that are told in full."""
        asks: list[Ask] = []
        for group in _groups(works):
            if group[0].full and not group[0].left:
                nids, since = [work.room_nid for work in group], min(work.since for work in group)
                asks.append(ask_newest(nids, since, group[0].upto, group[0].limit))
                asks.append(ask_moves_of_newest(nids, since, group[0].upto, group[0].limit))
        return [*asks, ask_state_at([work.room_nid for work in works], self._keys_to_look_at)]

    @property
    def _keys_to_look_at(self) -> list[int]:
        keys = self._reader.keys
        return [key for key in (keys.own, keys.visibility, keys.name, keys.alias) if key]

    def _to_look_at(self, work: RoomWork) -> list[int]:
        """The events that decide about a room's timeline."""
        nids = [place.event_nid for place in work.places]
        nids += [nid for nid in work.keyed.values() if nid]
        if not work.full:
            # Of each key that moved, the newest: it is told, and says whether the summary changed; or what is gone.
            newest = {move.key_nid: move for move in work.moves if move.pos <= work.upto}
            nids += [move.event_nid or move.prev_nid for move in newest.values()]
        watched = (self._reader.keys.own, self._reader.keys.visibility)
        for move in work.moves:
            if move.key_nid in watched:
                nids += (move.event_nid, move.prev_nid)
        return [nid for nid in nids if nid]

    def _load_places(self, works: Sequence[RoomWork], reach: int) -> None:
        tx, own = self._tx, self._reader.keys.own
        for group in _groups(works):
            left, upto, full = group[0].left, group[0].upto, group[0].full
            # Rooms that were told of at different times are read together, from the earliest time on.
            since, most = min(work.since for work in group), group[0].limit * reach
            nids = [work.room_nid for work in group]
            ends = {work.room_nid: work.upto for work in group} if left else {}
            if left:
                places = load_newest_of_left(tx, own, ends, since, most)
            else:
                places = load_newest(tx, nids, since, upto, most)
            if not full:
                lacking = [work for work in group if not work.moves]
                moves = load_moves(tx, [work.room_nid for work in lacking], since) if lacking else {}
            elif left:
                moves = load_moves_of_left(tx, own, ends, since, most)
            else:
                moves = load_moves_of_newest(tx, nids, since, upto, most)
            for work in group:
                found = [one for one in places.get(work.room_nid, []) if one.pos > work.since]
                work.more = len(found) > most
                seen = [one for one in (found[1:] if work.more else found) if one.pos <= work.upto]
                tops = [at for at, one in enumerate(seen) if one.mark == _ABOVE_HOLE]
                work.above_hole = bool(tops)
                work.more = work.more and not tops
                work.places = seen[tops[-1] :] if tops else seen
                if work.room_nid in moves:
                    work.moves = [one for one in moves[work.room_nid] if one.pos > work.since]

    def _load_keyed(self, works: Sequence[RoomWork]) -> None:
        """The keys that decide about visibility, and whether a room has a name."""
        found = load_state_at(self._tx, [work.room_nid for work in works], self._keys_to_look_at)
        for work in works:
            work.keyed = found.get(work.room_nid, {})

    def _choose(self, work: RoomWork, *, enough: bool = False) -> bool:
        """Take the events that the reader may see and wants. False: look further back, unless that was enough."""
        reader, filter_, limit = self._reader, self._reader.filter.timeline, work.limit
        if not filter_.rooms.accepts(self._names[work.room_nid]):
            work.start = work.upto + 1
            return True
        accepted = self._visible(work)
        if reader.ignored or not filter_.everything:
            accepted = [one for one in accepted if self._passes(one.event)]
        over = 0 if reader.state_after else _superseded(work, accepted)
        if len(accepted) < limit and work.more and not enough and not over:
            return False
        dropped = max(over, len(accepted) - limit)
        work.limited = work.more or work.above_hole or dropped > 0
        accepted = accepted[dropped:]
        if accepted and (dropped or len(accepted) == limit):
            work.start = accepted[0].pos
        elif work.places and not dropped:
            work.start = work.places[0].pos
        else:
            work.start = work.upto + 1
        replaced = {move.event_nid: move.prev_nid for move in work.moves if move.prev_nid}
        if replaced:
            for shown in accepted:
                shown.previous_nid = replaced.get(shown.event.nid, 0)
        work.shown = accepted
        if work.since == 0 and work.places and not work.limited:
            first = self.events.get(work.places[0].event_nid)
            # History may go further back, here or elsewhere; or the client has a part of it already.
            work.limited = (
                first is None or first.type != "m.room.create" or work.places[0].pos <= work.known_upto
            )
        return True

    def _passes(self, event: ClientEvent) -> bool:
        reader = self._reader
        if event.state_key is None and event.sender in reader.ignored:
            return False  # spec: client-server-api#ignoring-users (state events are sent all the same)
        return reader.filter.timeline.accepts(event.type, event.sender, event.has_url)

    def _visible(self, work: RoomWork) -> list[Shown]:
        """The events that the reader may see, each with their membership at it."""
        keys, events = self._reader.keys, self.events
        own_moves = [move for move in work.moves if move.key_nid == keys.own]
        first = work.places[0].pos if work.places else 0
        standing = work.standing.membership
        found = [
            (one.pos, events[one.event_nid])
            for one in work.places
            if one.mark < _IDLE and one.event_nid in events
        ]
        if standing == Membership.JOIN and not any(move.pos >= first for move in own_moves):
            return [Shown(event, standing, pos=pos) for pos, event in found]
        watched = [move for move in work.moves if move.key_nid in (keys.own, keys.visibility)]
        base = undo(work.keyed, watched, first - 1)
        membership = self.membership(base.get(keys.own, 0))
        visibility = self._visibility(base.get(keys.visibility, 0))
        joins = [move.pos for move in own_moves if self.membership(move.event_nid) == Membership.JOIN]
        last_join = max(joins, default=first - 1 if standing == Membership.JOIN else 0)
        result: list[Shown] = []
        decided = self._decided  # of many rooms the few cases that there are, each once
        steps = iter([move for move in watched if move.pos >= first])
        move = next(steps, None)
        for pos, event in found:
            before = (membership, visibility)
            while move is not None and move.pos <= pos:
                if move.key_nid == keys.own:
                    membership = self.membership(move.event_nid)
                else:
                    visibility = self._visibility(move.event_nid)
                if move.pos < pos:
                    before = (membership, visibility)
                move = next(steps, None)
            case = (before, membership, visibility, last_join > pos)
            if case not in decided:
                decided[case] = _decide(*case)
            seen, hide = decided[case]
            if seen:
                # What is said of somebody they may know.
                hide = hide and not is_membership_of(event, self._reader.user_id)
                result.append(Shown(event, membership, hide_previous=hide, pos=pos))
        return result

    def _visibility(self, event_nid: int) -> str:
        known = self._visibilities.get(event_nid)
        if known is None:
            event = self.events.get(event_nid)
            if event is None:
                return visibility_of(None)
            known = self._visibilities[event_nid] = visibility_of(event.content_dict())
        return known

    def add_own_ends(self, works: Sequence[RoomWork]) -> None:
        """The reader's own event, where it is all that they may see, or where it came after they had left."""
        self.load([nid for work in works for nid in (work.only_nid, work.tail_nid) if nid])
        for work in works:
            nid = work.only_nid or work.tail_nid
            event = self.events.get(nid) if nid else None
            if event is None:
                continue
            if work.only_nid:
                work.start = work.standing.pos
            filter_ = self._reader.filter.timeline
            wanted = filter_.rooms.accepts(self._names[work.room_nid])
            if wanted and filter_.accepts(event.type, event.sender, event.has_url):
                previous = work.replaced.get(event.nid, 0)
                work.shown.append(Shown(event, work.standing.membership, previous, pos=work.standing.pos))

    def find_replaced(self, work: RoomWork, shown: Sequence[Shown]) -> None:
        """What the events of a room's state after its timeline replaced, as far as the reader may know it.

        Clients believe these events and not the timeline's, and tell by what a join replaced that a room is a direct
        chat, and by what a kick replaced the name of who is gone.
        """
        own = self._reader.keys.own
        if not work.full and not work.left and not any(move.key_nid == own for move in work.moves):
            # The reader was in the room all the time.
            work.replaced.update({move.event_nid: move.prev_nid for move in work.moves if move.prev_nid})
        for one in shown:
            if one.previous_nid and not one.hide_previous:
                work.replaced[one.event.nid] = one.previous_nid

    def sent_as(self, works: Sequence[RoomWork]) -> dict[int, bytes]:
        """By what the reader's device knows the events that they sent, by nid, as members of ``unsigned``."""
        own = self._own(works)
        if not own:
            return {}
        events = {event.nid: event for _, event in own}
        keys = load_transaction_keys(self._tx, *self._sent_by, _rooms_in(own), events.keys())
        found = {nid: sent_as(key, events[nid]) for nid, key in keys.items()}
        return {nid: member for nid, member in found.items() if member}

    @property
    def _sent_by(self) -> tuple[int, int]:
        return self._reader.user_nid, self._reader.device_nid

    def _own(self, works: Sequence[RoomWork]) -> list[tuple[int, ClientEvent]]:
        """The reader's events, with their rooms."""
        own = self._reader.user_id
        return [(work.room_nid, one.event) for work in works for one in work.shown if one.event.sender == own]

    def ahead(self, works: Sequence[RoomWork], upto: int, also: Sequence[Ask] = ()) -> None:
        """Before ``sent_as`` and ``relate``: what they ask. ``also``: what is asked after them."""
        asks = ask_whether(_inside(works), upto)
        own = self._own(works)
        if own:
            nids = dict.fromkeys(event.nid for _, event in own)
            asks.append(ask_transaction_keys(*self._sent_by, _rooms_in(own), nids))
        self._tx.ahead([*asks, *also])

    def relate(self, works: Sequence[RoomWork], upto: int) -> dict[int, bytes]:
        """What relates to the events of rooms that the reader is in, summed up; one read for all of them."""
        reader = self._reader
        room_ids = {one.event.nid: self._names[work.room_nid] for work in works for one in work.shown}
        events = _inside(works)
        keys = reader.keys
        eyes = visibility_reads.Reader(reader.user_id, keys.own, keys.visibility, joined=True)
        viewer = Viewer(eyes, reader.user_nid, reader.ignored, upto, reader.now_ms)
        return load_bundles(self._tx, viewer, room_ids, events, self._facts, self._cache)


def _superseded(work: RoomWork, accepted: Sequence[Shown]) -> int:
    """How many events of a timeline it must not begin with."""
    if len(accepted) == len(work.places):
        return 0
    changes = ((move.key_nid, move.event_nid) for move in reversed(work.moves) if move.pos <= work.upto)
    return count_superseded(changes, [one.event.nid for one in accepted])


def _rooms_in(events: Iterable[tuple[int, ClientEvent]]) -> set[int]:
    return {room_nid for room_nid, _ in events}


def _inside(works: Sequence[RoomWork]) -> dict[int, ClientEvent]:
    """The events shown of rooms that the reader is in."""
    inside = [work for work in works if not work.left and not work.only_nid]
    return {one.event.nid: one.event for work in inside for one in work.shown}


def _decide(
    before: tuple[Membership, str], membership: Membership, visibility: str, later: bool
) -> tuple[bool, bool]:
    """Whether somebody may see an event, and whether they may not see what it replaced.

    Given what they and the room were before it and after it, and whether they joined later.
    """
    # spec: client-server-api#room-history-visibility (before or after, whichever allows)
    sides = ((before[1], before[0]), (visibility, membership))
    seen = any(may_see(rule, member.word, later) for rule, member in sides)
    return seen, before[0] != Membership.JOIN and not may_see(before[1], None, later)


def _groups(works: Sequence[RoomWork]) -> list[list[RoomWork]]:
    """Rooms whose places can be read together: of rooms that were left, each up to where it was."""
    groups: dict[object, list[RoomWork]] = {}
    for work in works:
        key = (work.left, 0 if work.left else work.upto, work.full, work.limit)
        groups.setdefault(key, []).append(work)
    return list(groups.values())


def is_membership_of(event: ClientEvent, user_id: str) -> bool:
    """Whether it says what somebody is to the room."""
    return event.type == "m.room.member" and event.state_key == user_id


def membership_in(event: ClientEvent) -> Membership:
    """What a membership event makes of its user."""
    content = event.content_dict()
    word = content.get("membership") if isinstance(content, dict) else None
    return MEMBERSHIPS.get(word, Membership.LEAVE) if isinstance(word, str) else Membership.LEAVE


def is_set(event: ClientEvent, name: str) -> bool:
    """Whether a content has a string of that name that is not empty."""
    return text_in(event, name) is not None


def text_in(event: ClientEvent, name: str) -> str | None:
    """A string of that name in a content, if it is one and not empty."""
    content = event.content_dict()
    value = content.get(name) if isinstance(content, dict) else None
    return value if isinstance(value, str) and value else None
