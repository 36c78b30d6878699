"""Rooms from the tables: many at once, in a few reads, whatever the log has forgotten.

Runs in a database thread, in one read unit. For each room: its timeline (``timelines``), and the state that leads to it.

1. ``state`` plus the timeline MUST give the state at ``upto``: an event that changed the state and is not in the
   timeline (cut off, filtered out) is in ``state``.

spec: client-server-api#get_matrixclientv3sync
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from homeserver.db.tx import Tx
from homeserver.store import visibility_reads
from homeserver.store.client_events import ERASED, ClientEvent, ClientEventCache
from homeserver.store.sync_reads import load_raw_events, load_summaries
from homeserver.store.timeline import load_member_keys, load_state, load_state_without_members, undo
from homeserver.stream.index import Standing
from homeserver.sync.lazy import Sent
from homeserver.sync.serialise import Writer
from homeserver.sync.timelines import Reader, RoomWork, Timelines, is_membership_of, is_set

_MEMBER = "m.room.member"


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


@dataclass(frozen=True, slots=True)
class Built:
    """The rooms, and what it takes to write their events."""

    rooms: list[RoomWork]
    events: Mapping[int, ClientEvent]
    sent_as: Mapping[int, bytes]
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
        self._timelines = Timelines(tx, reader, order.names, cache, facts)
        self._events = self._timelines.events
        self._lazy = reader.filter.lazy

    def build(self) -> Built:
        order, timelines = self._order, self._timelines
        works = [
            *self._steady(),
            *timelines.by_moves(
                order.moved, order.left, order.since, order.upto, full_state=order.full_state
            ),
        ]
        for work in works:
            work.limit = self._reader.filter.timeline.limit
        open_works = [work for work in works if not work.only_nid]
        timelines.find(open_works)
        timelines.add_own_ends(works)
        self._summarise(open_works)
        self._find_states(open_works)
        if self._reader.state_after:
            for work in works:
                self._add_own_end(work)
                timelines.find_replaced(work, work.shown)
        before = [one.previous_nid for work in works for one in work.shown if one.previous_nid]
        timelines.load([*before, *(nid for work in works for nid in work.replaced.values())])
        for work in works:
            work.members.update({one.state_key or "": one.nid for one in work.state if one.type == _MEMBER})
            for shown in work.shown:
                if shown.event.type == _MEMBER and shown.event.state_key is not None:
                    work.members[shown.event.state_key] = shown.event.nid
        raw: dict[int, bytes] | None = None
        if self._reader.filter.federation_format:
            told = [one.event for work in works for one in work.shown]
            told += [one for work in works for one in work.state]
            erased = {one.nid for one in told if one.redacted_by == ERASED}
            raw = load_raw_events(self._tx, [one.nid for one in told], erased)
        writer = Writer(self._reader.filter, self._reader.now_ms, raw)
        timelines.ahead(works if raw is None else (), order.upto)
        related = timelines.relate(works, order.upto) if raw is None else {}
        return Built(works, self._events, timelines.sent_as(works), related, writer)

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

    # --- state ---------------------------------------------------------------------------------------------------

    def _summarise(self, works: Sequence[RoomWork]) -> None:
        wanted = [
            work
            for work in works
            if not work.left and (work.full or self._is_touched(work) or self._lost_its_name(work))
        ]
        if not wanted:
            return
        unnamed = {work.room_nid for work in wanted if not self._is_named(work)}
        found = load_summaries(self._tx, [work.room_nid for work in wanted], unnamed)
        for work in wanted:
            work.summary = found[work.room_nid]

    def _is_touched(self, work: RoomWork) -> bool:
        """Whether state that changed may have changed the summary."""
        keys = self._reader.keys
        return any(
            move.key_nid in (keys.name, keys.alias) or self._is_member(move.event_nid or move.prev_nid)
            for move in work.moves
            if move.pos > work.since
        )

    def _is_member(self, event_nid: int) -> bool:
        event = self._events.get(event_nid)
        return event is not None and event.type == _MEMBER

    def _lost_its_name(self, work: RoomWork) -> bool:
        """Whether what named a room is redacted: since the token, perhaps, and the redaction may be in the gap."""
        keys = self._reader.keys
        events = [self._events.get(work.keyed.get(key_nid, 0)) for key_nid in (keys.name, keys.alias)]
        return any(event is not None and event.redacted_by > 0 for event in events)

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
        self._timelines.load([nid for found in nids.values() for nid in found])
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
            if self._reader.state_after:
                # Who was invited or removed: clients must not take their name from the timeline.
                members = (shown.event for shown in work.shown if shown.event.type == _MEMBER)
                wanted.update(event.state_key or "" for event in members)
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

    def _add_own_end(self, work: RoomWork) -> None:
        """The reader's own event where it came after they had left: nothing else tells clients what they are now."""
        event = self._events.get(work.only_nid or work.tail_nid)
        wants = self._reader.filter.state
        if event is None or not wants.rooms.accepts(self._order.names[work.room_nid]):
            return
        if wants.accepts(event.type, event.sender, event.has_url):
            others = [one for one in work.state if not is_membership_of(one, self._reader.user_id)]
            work.state = [*others, event]

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
