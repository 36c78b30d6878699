"""A room's news from the log, without SQL, built once for all its steady members.

What differs between readers is spliced in by ``for_reader``: their own transaction ids, whom they ignore, threads that
they took part in, the members that their device was not told of. What is not in memory (the content that a state event replaced, a summary, an event
redacted a moment after it came) is read once for all of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from weakref import ref

from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.store.client_events import (
    ClientEvent,
    ClientEventCache,
    Key,
    from_placement,
    weigh_event,
)
from homeserver.store.placement import Membership, Placement
from homeserver.store.state import Snapshot
from homeserver.store.sync_reads import Summary, load_summaries
from homeserver.store.unsigned import sent_as
from homeserver.store.veil import load_veiled
from homeserver.store.visibility_reads import StateFacts
from homeserver.sync.filters import SyncFilter
from homeserver.sync.related import Relations, find_children, find_related
from homeserver.sync.serialise import Writer, events_object, timeline_object
from homeserver.sync.superseded import count_superseded
from homeserver.sync.timelines import Keys, Reader, is_set
from homeserver.sync.window import Window

_MEMBER = "m.room.member"
# An event's age is told; a room that was built longer ago is built again.
FRESH_MS = 2_000
# LIMIT(memory, of all windows together: anybody may ask with a new filter each time, for events as large as they come)
SHARED_BYTES: Final = 32 * 1024 * 1024
# What a room takes beside its events.
_ROOM_BYTES = 2_000


@dataclass(slots=True)
class SharedRoom:
    """See the module."""

    built_ms: int
    shown: list[tuple[ClientEvent, Placement]]
    previous: dict[int, ClientEvent]
    written: list[bytes]
    limited: bool
    before: int
    timeline: bytes
    state: list[ClientEvent]
    written_state: list[bytes]
    state_object: bytes
    senders: frozenset[str]
    own: dict[int, list[int]]  # device -> which of the events it sent
    relations: Relations | None  # what relates to these events
    members: dict[str, int]  # membership events in here
    summary: Summary | None
    snapshot: Snapshot  # what lazily loaded members are looked up in
    has_events: bool
    sticky: frozenset[int]  # of the events shown: those that are sticky


@dataclass(frozen=True, slots=True)
class _Extras:
    """What had to be read."""

    events: dict[int, ClientEvent]  # what some events replaced, and events that are redacted
    summary: Summary | None


class _Kept(NamedTuple):
    """Something that is shared, and where: a window goes when nobody looks at it any more."""

    window: ref[Window]
    key: tuple[Any, ...]
    value: object
    size: int
    built_ms: int


class SharedRooms:
    """Builds them, and keeps them with their window: not for long, and of all windows no more than ``SHARED_BYTES``."""

    def __init__(self, database: Database, cache: ClientEventCache, facts: StateFacts) -> None:
        self._database = database
        self._cache = cache
        self._facts = facts
        self._kept: deque[_Kept] = deque()  # what was built first is over first
        self._bytes = 0

    def keep(self, window: Window, key: tuple[Any, ...], value: object, size: int, now_ms: int) -> None:
        """Share something with whoever looks at the same window; the oldest goes where there is too much."""
        kept = self._kept
        window.shared[key] = value
        kept.append(_Kept(ref(window), key, value, size, now_ms))
        self._bytes += size
        # However large it is, the last one stays: others are about to ask for it.
        while len(kept) > 1 and (self._bytes > SHARED_BYTES or now_ms - kept[0].built_ms > FRESH_MS):
            oldest = kept.popleft()
            self._bytes -= oldest.size
            its_window = oldest.window()
            if its_window is not None and its_window.shared.get(oldest.key) is oldest.value:
                del its_window.shared[oldest.key]

    def known(
        self, window: Window, room_nid: int, filter_: SyncFilter, now_ms: int, *, state_after: bool
    ) -> SharedRoom | None:
        """What was built a moment ago."""
        room: SharedRoom | None = window.shared.get((room_nid, filter_.key, state_after))
        return room if room is not None and now_ms - room.built_ms <= FRESH_MS else None

    async def build(
        self,
        window: Window,
        room_nid: int,
        filter_: SyncFilter,
        now_ms: int,
        keys: Keys,
        *,
        state_after: bool,
    ) -> SharedRoom:
        """What happened in a room."""
        placements = window.topics[room_nid].placements
        chosen = _choose(placements, filter_, self._cache, state_after=state_after)
        extras = _Extras({}, None)
        told = [*chosen.shown, *(chosen.state if state_after else ())]
        previous = [placed.prev_nid for _, placed in told if placed.prev_nid]
        targets = {placed.redacts_target for placed in placements if placed.redacts_target is not None}
        redacted = (
            [placed.nid for placed in placements if placed.event.event_id in targets] if targets else []
        )
        changed = any(_names(placed.type_nid) for placed in placements if placed.state_key_nid is not None)
        names: list[int] = []
        if changed or targets:
            last = placements[-1].state_after
            names = [nid for nid in (last.get(keys.name), last.get(keys.alias)) if nid]
            # What named the room may be redacted; nearly always it is a message that is, and nothing is to be read.
            changed = changed or self._may_be_among(targets, names)
        if previous or redacted or changed:
            wanted = [*previous, *redacted]
            extras = await self._database.read(
                _load_extras, room_nid, wanted, names if changed else (), self._cache, self._facts, changed
            )
        relations = _relate(placements, extras, self._cache, now_ms)
        room = _write(chosen, extras, relations, filter_, now_ms, state_after=state_after)
        self.keep(window, (room_nid, filter_.key, state_after), room, _weigh(room), now_ms)
        return room

    def _may_be_among(self, event_ids: Collection[str], nids: Sequence[int]) -> bool:
        """Whether some of these events go by some of these ids, as far as memory knows."""
        for nid in nids:
            event = self._cache.get(Key(nid, 0))
            if event is None or event.event_id in event_ids:
                return True
        return False

    async def load_events(self, nids: Sequence[int], reader: Reader) -> dict[int, ClientEvent]:
        """Client events (members that a device was not told of)."""
        return await self._database.read(load_veiled, list(nids), reader.keys.own, self._facts, self._cache)


@dataclass(slots=True)
class _Chosen:
    """The events of a timeline and the state before it."""

    shown: list[tuple[ClientEvent, Placement]]
    limited: bool
    before: int
    state: list[tuple[ClientEvent, Placement]]
    snapshot: Snapshot


def client_event(placed: Placement, cache: ClientEventCache) -> ClientEvent:
    """The client event of what was just stored, not redacted."""
    key = Key(placed.nid, 0)
    event = cache.get(key)
    if event is None:
        event = from_placement(placed)
        cache.put(key, event)
    return event


# Member, canonical alias, name: see store/ids.py.
_NAMING = (2, 6, 7)


def _names(type_nid: int) -> bool:
    return type_nid in _NAMING


def _choose(
    placements: Sequence[Placement], filter_: SyncFilter, cache: ClientEventCache, *, state_after: bool
) -> _Chosen:
    limit, wanted = filter_.timeline.limit, filter_.timeline
    shown: list[tuple[ClientEvent, Placement]] = []
    limited = False
    first = len(placements)
    for place in range(len(placements) - 1, -1, -1):
        placed = placements[place]
        event = client_event(placed, cache)
        if placed.idle or not wanted.accepts(event.type, event.sender, event.has_url):
            continue
        if len(shown) == limit:
            limited = True
            break
        shown.append((event, placed))
        first = place
    if not limited:
        first = 0  # nothing was cut off
    shown.reverse()
    if not state_after and len(shown) < len(placements) - first:
        over = _superseded(placements, shown)
        if over:
            shown, limited = shown[over:], True
            first = len(placements)
            if shown:
                first = next(at for at, placed in enumerate(placements) if placed is shown[0][1])
    in_timeline = {event.nid for event, _ in shown}
    told: dict[int, Placement] = {}
    for place, placed in enumerate(placements):
        # What the timeline does not say must stand in the state: see sync/bulk.py.
        key = placed.state_key_nid
        if key is not None and (state_after or place < first or placed.nid not in in_timeline):
            told[key] = placed
    state = [
        (event, placed) for placed in told.values() if _passes(event := client_event(placed, cache), filter_)
    ]
    if first < len(placements):
        before, snapshot = placements[first].pos - 1, placements[first].state_before
    else:
        before, snapshot = placements[-1].pos, placements[-1].state_after
    return _Chosen(shown, limited, before, state, placements[-1].state_after if state_after else snapshot)


def _superseded(placements: Sequence[Placement], shown: Sequence[tuple[ClientEvent, Placement]]) -> int:
    """How many events of a timeline it must not begin with."""
    keyed = [(one.state_key_nid, one.nid) for one in reversed(placements) if one.state_key_nid is not None]
    return count_superseded(keyed, [event.nid for event, _ in shown])


def _passes(event: ClientEvent, filter_: SyncFilter) -> bool:
    return filter_.state.accepts(event.type, event.sender, event.has_url)


def _load_extras(
    tx: Tx,
    room_nid: int,
    nids: Sequence[int],
    names: Sequence[int],
    cache: ClientEventCache,
    facts: StateFacts,
    summarise: bool,
) -> _Extras:
    wanted = sorted({*nids, *names})
    # What an erased user's state said before it was replaced: for all, as if none of them had been there before.
    events = load_veiled(tx, wanted, 0, facts, cache)
    if not summarise:
        return _Extras(events, None)
    named = [events[nid] for nid in names if nid in events]
    unnamed = not any(is_set(event, name) for event in named for name in ("name", "alias"))
    summaries = load_summaries(tx, [room_nid], {room_nid} if unnamed else ())
    return _Extras(events, summaries[room_nid])


def _relate(
    placements: Sequence[Placement], extras: _Extras, cache: ClientEventCache, now_ms: int
) -> Relations | None:
    children = find_children(placements)
    if not children:
        return None
    wanted = {placed.nid for found in children.values() for placed in found}
    seen = {
        placed.nid: extras.events.get(placed.nid) or client_event(placed, cache)
        for placed in placements
        if placed.nid in wanted or placed.event.event_id in children
    }
    related = find_related(children, seen)
    return Relations(placements[0].event.room_id, now_ms, related) if related else None


def _write(
    chosen: _Chosen,
    extras: _Extras,
    relations: Relations | None,
    filter_: SyncFilter,
    now_ms: int,
    *,
    state_after: bool,
) -> SharedRoom:
    writer = Writer(filter_, now_ms)
    shown = [(extras.events.get(event.nid, event), placed) for event, placed in chosen.shown]
    previous = {
        event.nid: extras.events[placed.prev_nid]
        for event, placed in shown
        if placed.prev_nid in extras.events
    }
    written = [
        writer.write(
            event,
            Membership.JOIN,
            previous.get(event.nid),
            relations=relations.find(event, "", frozenset()) if relations is not None else b"",
        )
        for event, _ in shown
    ]
    state = [extras.events.get(event.nid, event) for event, _ in chosen.state]
    # What for: see ``Timelines.find_replaced``.
    replaced = {placed.nid: placed.prev_nid for _, placed in chosen.state} if state_after else {}
    written_state = writer.write_state(state, replaced, extras.events)
    own: dict[int, list[int]] = {}
    members = {event.state_key or "": event.nid for event in state if event.type == _MEMBER}
    for place, (event, placed) in enumerate(shown):
        if placed.transaction is not None:
            own.setdefault(placed.transaction.device_nid, []).append(place)
        if event.type == _MEMBER and event.state_key is not None:
            members[event.state_key] = event.nid
    return SharedRoom(
        now_ms,
        shown,
        previous,
        written,
        chosen.limited,
        chosen.before,
        timeline_object(written, chosen.limited, chosen.before),
        state,
        written_state,
        events_object(written_state),
        frozenset(event.sender for event, _ in shown),
        own,
        relations,
        members,
        extras.summary,
        chosen.snapshot,
        bool(shown or chosen.limited or state) or (extras.summary is not None and filter_.wants_summaries),
        frozenset(event.nid for event, _ in shown if event.sticky_ms),
    )


def _weigh(room: SharedRoom) -> int:
    """Roughly how many bytes a room takes."""
    events = [event for event, _ in room.shown]
    objects = sum(map(weigh_event, (*events, *room.state, *room.previous.values())))
    # What was written stands there event by event, and as a whole.
    return _ROOM_BYTES + objects + 2 * (len(room.timeline) + len(room.state_object))


def timeline_for(room: SharedRoom, reader: Reader) -> bytes:
    """The timeline as one steady member's device gets it."""
    written = events_for(room, reader)
    return room.timeline if written is room.written else timeline_object(written, room.limited, room.before)


def events_for(room: SharedRoom, reader: Reader) -> list[bytes]:
    """Its events, as that device gets them; the very list of the room's where nothing differs."""
    ignored, device_nid = reader.ignored, reader.device_nid
    own = [*room.own.get(device_nid, ()), *room.own.get(-reader.user_nid, ())] if room.own else ()
    some_ignored = bool(ignored) and not ignored.isdisjoint(room.senders)
    relations = room.relations
    if relations is None:
        theirs: Sequence[int] = own
    else:
        differ = [
            at for at, (event, _) in enumerate(room.shown) if relations.differs(event.event_id, ignored)
        ]
        theirs = sorted({*own, *differ})
    if not theirs and not some_ignored:
        return room.written
    written = list(room.written)
    writer = Writer(reader.filter, room.built_ms)
    for place in theirs:
        event, placed = room.shown[place]
        transaction = placed.transaction
        mine = transaction is not None and transaction.is_for(reader.user_nid, device_nid)
        written[place] = writer.write(
            event,
            Membership.JOIN,
            room.previous.get(event.nid),
            sent_as(transaction.txn_key, event) if transaction is not None and mine else b"",
            relations=relations.find(event, reader.user_id, ignored) if relations is not None else b"",
        )
    if some_ignored:
        # spec: client-server-api#ignoring-users (state events are sent all the same)
        kept = [event.state_key is not None or event.sender not in ignored for event, _ in room.shown]
        written = [data for data, keep in zip(written, kept, strict=True) if keep]
    return written
