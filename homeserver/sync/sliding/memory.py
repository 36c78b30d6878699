"""Rooms of sliding sync that the log can tell of: what many connections ask for alike is made once.

It is what ``sync.shared`` makes for classic sync with the state at the end of the timeline, picked by each connection's
wishes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from homeserver.db.threads import Database
from homeserver.store.client_events import ClientEventCache, weigh_event
from homeserver.store.ids import Interner
from homeserver.sync.filters import SyncFilter, parse_filter
from homeserver.sync.lazy import LazyMemory
from homeserver.sync.memory import stayed
from homeserver.sync.serialise import Writer
from homeserver.sync.shared import SharedRoom, SharedRooms, events_for
from homeserver.sync.sliding.news import RoomNews, RoomOrder, RoomSummary, names_of
from homeserver.sync.sliding.required import is_lazy, wants
from homeserver.sync.sliding.tables import load_room_summaries
from homeserver.sync.timelines import Reader, text_in
from homeserver.sync.window import Topic, Window

_MEMBER = "m.room.member"
# What a summary takes beside the members who are its heroes.
_SUMMARY_BYTES = 1_000


@dataclass(slots=True)
class FromLog:
    """The rooms that the log told of, and those that it could not."""

    news: dict[int, RoomNews] = field(default_factory=dict)
    others: list[RoomOrder] = field(default_factory=list)


class MemoryNews:
    """See the module."""

    def __init__(
        self,
        database: Database,
        shared: SharedRooms,
        interner: Interner,
        cache: ClientEventCache,
        lazy: LazyMemory,
    ) -> None:
        self._database = database
        self._shared = shared
        self._interner = interner
        self._cache = cache
        self._lazy = lazy
        self._everything = parse_filter("{}")
        self._filters: dict[int, SyncFilter] = {}

    def filter_for(self, limit: int) -> SyncFilter:
        """A filter that lets everything through, so many events of each room at most."""
        found = self._filters.get(limit)
        if found is None:
            plain = self._everything
            found = self._filters[limit] = replace(
                plain, key=b"sliding:%d" % limit, timeline=replace(plain.timeline, limit=limit)
            )
        return found

    async def tell(
        self, window: Window | None, orders: list[RoomOrder], reader: Reader, device: tuple[int, int]
    ) -> FromLog:
        """What happened in the rooms where the reader was and is."""
        result = FromLog()
        for order in orders:
            topic = self._topic(window, order, reader)
            if window is None or topic is None:
                result.others.append(order)
            else:
                result.news[order.room_nid] = await self._news(window, topic, order, reader, device)
        return result

    def _topic(self, window: Window | None, order: RoomOrder, reader: Reader) -> Topic | None:
        """What the log has of a room, if that is all there is to tell."""
        if window is None or not order.live or order.fresh or order.wide or order.added:
            return None
        topic = window.topics.get(order.room_nid)
        if topic is None:
            # Nothing happened; something of the user's own is to be told.
            return Topic() if order.standing.pos <= window.since else None
        if not topic.complete:
            return None
        if any(placed.redacts_target is not None for placed in topic.placements):
            return None  # it may have named the room, and its members have to be looked up
        if order.standing.pos > window.since and not stayed(topic, reader.user_nid, self._cache):
            return None
        return topic

    async def _news(
        self, window: Window, topic: Topic, order: RoomOrder, reader: Reader, device: tuple[int, int]
    ) -> RoomNews:
        if not topic.placements:
            return RoomNews(before=window.upto)
        room_nid, wishes = order.room_nid, order.relevant.wishes
        filter_ = self.filter_for(order.relevant.limit)
        reader = replace(reader, filter=filter_)
        room = self._shared.known(window, room_nid, filter_, reader.now_ms, state_after=True)
        if room is None:
            room = await self._shared.build(
                window, room_nid, filter_, reader.now_ms, reader.keys, state_after=True
            )
        lazy = is_lazy(wishes)
        state: list[bytes] = []
        members: dict[str, int] = {}
        for event, written in zip(room.state, room.written_state, strict=True):
            if (lazy and event.type == _MEMBER) or wants(wishes, event.type, event.state_key or ""):
                state.append(written)
                if event.type == _MEMBER:
                    members[event.state_key or ""] = event.nid
        name, avatar = names_of(room.state)
        timeline = events_for(room, reader)
        news = RoomNews(
            timeline,
            room.limited,
            room.before,
            len(timeline),
            state,
            name=name,
            avatar=avatar,
            members=members,
            shown=[event.nid for event, _ in room.shown],
        )
        if room.summary is not None:
            news.summary = await self._summary(window, room_nid, room, reader)
        if lazy:
            await self._add_members(news, room_nid, room, reader, device)
        return news

    async def _summary(self, window: Window, room_nid: int, room: SharedRoom, reader: Reader) -> RoomSummary:
        """Members came or went, or the room's name changed: read once for all who hear of it."""
        key = ("summary", room_nid)
        known: RoomSummary | None = window.shared.get(key)
        if known is None:
            name_nid = room.snapshot.get(reader.keys.name) if reader.keys.name else 0
            named = False
            if name_nid:
                event = (await self._shared.load_events([name_nid], reader)).get(name_nid)
                named = event is not None and text_in(event, "name") is not None
            found = await self._database.read(load_room_summaries, {room_nid: named}, self._cache)
            known = found[room_nid]
            heroes = [one.member for one in known.heroes.values() if one.member is not None]
            size = _SUMMARY_BYTES + sum(map(weigh_event, heroes))
            self._shared.keep(window, key, known, size, reader.now_ms)
        return known

    async def _add_members(
        self,
        news: RoomNews,
        room_nid: int,
        room: SharedRoom,
        reader: Reader,
        device: tuple[int, int],
    ) -> None:
        """Those who sent the events, and those that memberships are about, unless the connection was told of them."""
        needed = set(room.senders)
        needed.update(event.state_key or "" for event, _ in room.shown if event.type == _MEMBER)
        missing: dict[str, int] = {}
        sent = self._lazy.sent(device, room_nid)
        for user_id in sorted(needed.difference(news.members)):
            key = (_MEMBER, user_id)
            key_nid = self._interner.known_key(key) or await self._interner.find_key(key)
            nid = room.snapshot.get(key_nid) if key_nid else 0
            known = sent.get(user_id)
            if nid and (known is None or known[0] != nid):
                missing[user_id] = nid
        if not missing:
            return
        events = await self._shared.load_events(list(missing.values()), reader)
        writer = Writer(reader.filter, reader.now_ms)
        news.state = [
            *news.state,
            *(writer.write(events[nid]) for nid in missing.values() if nid in events),
        ]
        news.members = {**missing, **news.members}
