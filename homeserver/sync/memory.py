"""Rooms that the log can tell of: which they are, and what one reader gets of what is the same for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from homeserver.store.client_events import ClientEventCache, Key
from homeserver.store.ids import Interner
from homeserver.store.placement import Membership
from homeserver.stream.index import Standing
from homeserver.sync.lazy import LazyMemory
from homeserver.sync.sections import Piece, summary_for
from homeserver.sync.serialise import Writer, events_object
from homeserver.sync.shared import SharedRoom, SharedRooms, timeline_for
from homeserver.sync.timelines import Reader, membership_in
from homeserver.sync.window import Topic, Window

_MEMBER = "m.room.member"


@dataclass(slots=True)
class Told:
    """The rooms that memory could tell of, and those that it could not."""

    pieces: dict[int, Piece] = field(default_factory=dict)
    changed: dict[int, Standing] = field(default_factory=dict)
    moved: dict[int, Standing] = field(default_factory=dict)


class MemoryRooms:
    """See the module."""

    def __init__(
        self, shared: SharedRooms, interner: Interner, cache: ClientEventCache, lazy: LazyMemory
    ) -> None:
        self._shared = shared
        self._interner = interner
        self._cache = cache
        self._lazy = lazy

    async def tell(
        self, window: Window, changed: Mapping[int, Standing], moved: Mapping[int, Standing], reader: Reader
    ) -> Told:
        """What happened in the rooms where the reader was and is."""
        told = Told()
        for room_nid, standing in changed.items():
            topic = window.topics.get(room_nid)
            if topic is None or not topic.complete:
                told.changed[room_nid] = standing
            else:
                told.pieces[room_nid] = await self._piece(window, room_nid, topic, reader)
        for room_nid, standing in moved.items():
            topic = window.topics.get(room_nid)
            if topic is None or not topic.complete or not stayed(topic, reader.user_nid, self._cache):
                told.moved[room_nid] = standing
            else:
                told.pieces[room_nid] = await self._piece(window, room_nid, topic, reader)
        return told

    async def _piece(self, window: Window, room_nid: int, topic: Topic, reader: Reader) -> Piece:
        if not topic.placements:
            return Piece.quiet(window.upto)
        shared, filter_ = self._shared, reader.filter
        room = shared.known(window, room_nid, filter_, reader.now_ms, state_after=reader.state_after)
        if room is None:
            room = await shared.build(
                window, room_nid, filter_, reader.now_ms, reader.keys, state_after=reader.state_after
            )
        timeline = timeline_for(room, reader)
        summary = summary_for(room.summary, reader.user_id) if room.summary is not None else None
        piece = Piece(timeline, room.state_object, room.has_events, summary, room.members, sticky=room.sticky)
        if filter_.lazy:
            await self._add_members(piece, window, room_nid, room, reader)
        return piece

    async def _add_members(
        self, piece: Piece, window: Window, room_nid: int, room: SharedRoom, reader: Reader
    ) -> None:
        """Lazy loading: the senders (and heroes) that the device was not told of yet."""
        wanted = set(room.senders)
        if room.summary is not None:
            wanted.update(room.summary.heroes(reader.user_id))
        in_state = {event.nid for event in room.state}
        device = (reader.user_nid, reader.device_nid)
        missing: dict[str, int] = {}
        for user_id in sorted(wanted):
            key = (_MEMBER, user_id)
            key_nid = self._interner.known_key(key) or await self._interner.find_key(key)
            nid = room.snapshot.get(key_nid) if key_nid else 0
            if not nid or nid in in_state:
                continue
            if reader.filter.redundant or not self._lazy.knows(device, room_nid, user_id, nid, window.since):
                missing[user_id] = nid
        if not missing:
            return
        events = await self._shared.load_events(list(missing.values()), reader)
        wants = reader.filter.state
        writer = Writer(reader.filter, reader.now_ms)
        told = [
            writer.write(events[nid])
            for nid in missing.values()
            if nid in events and wants.accepts(events[nid].type, events[nid].sender, events[nid].has_url)
        ]
        piece.state = events_object([*room.written_state, *told])
        piece.has_events = piece.has_events or bool(told)
        piece.members = {**missing, **room.members}


def stayed(topic: Topic, user_nid: int, cache: ClientEventCache) -> bool:
    """Whether a user was in the room all the time, and has only another name now."""
    mine = [move for placed in topic.placements for move in placed.moves if move.member_nid == user_nid]
    if not mine or any(move.membership != Membership.JOIN for move in mine):
        return False
    before = cache.get(Key(mine[0].prev_nid, 0)) if mine[0].prev_nid else None
    return before is not None and membership_in(before) == Membership.JOIN
