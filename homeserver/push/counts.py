"""Unread notifications, counted when somebody asks and not when somebody sends.

For each user and room that was asked for there is an ``Entry`` in memory: the positions of the events that notify and
are not read, by thread, up to a position. Asking again looks at what came since, in memory. After a restart an entry is
made from the timeline after the user's receipts.

1. Sending costs nothing here, whatever the number of members: the log is read when somebody asks.
2. A user's own messages notify nobody, and mark their part of the room as read (``either by using the API or by
   sending an event``): the main timeline, or the thread that they belong to.
3. LIMIT: at most ``MOST`` events are looked at to make an entry, and at most ``MOST`` unread notifications are kept of a
   thread: a count stops there.

# spec: client-server-api#receiving-notifications
# spec: client-server-api#marking-notifications-as-read
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Collection, Sequence

from twisted.internet.defer import Deferred

from federation.event import Event
from homeserver.db.threads import Database
from homeserver.push.backlog import Backlog, Found, load_backlogs, load_missing, own_thread, read_by_sending
from homeserver.push.conditions import EventView, FactMissing, Facts
from homeserver.push.entries import MOST, Counts, Entry
from homeserver.push.readers import Reader, Readers
from homeserver.push.recent import Item, Room, Verdict, make_verdict
from homeserver.store.changes import Change, Kind
from homeserver.store.parsed import EventCache
from homeserver.store.placement import Membership
from homeserver.stream.index import MembershipIndex
from homeserver.stream.log import ChangeLog

# LIMIT(memory: an entry takes some 500 bytes, and eight for each unread notification)
ENTRIES_MOST = 100_000
# LIMIT(memory: some 250 bytes an event that came into a room since somebody asked for it)
ITEMS_MOST = 200_000
ITEMS_KEPT = 100
"""So many of each room stay where there are too many: whoever looks often needs no more."""
_VIEWS = 500
_THREADS_MOST = 1_000
# LIMIT(time: a read unit is one of few threads' for as long as it takes; a thousand rooms are ten units)
_ROOMS_AT_ONCE = 100
_TRIES = 6


class Unread:
    """See the module."""

    def __init__(
        self,
        database: Database,
        readers: Readers,
        log: ChangeLog,
        index: MembershipIndex,
        events: EventCache,
    ) -> None:
        self._database = database
        self._log = log
        self._index = index
        self._events = events
        self._readers = readers
        self._seen = log.position
        self._rooms: OrderedDict[int, Room] = OrderedDict()
        self._entries = 0
        self._items = 0  # at most: counted again when it matters
        self._views: OrderedDict[int, EventView] = OrderedDict()
        self._threads: OrderedDict[int, str] = OrderedDict()  # event nid -> thread, where that took a look-up

    # --- what sync asks ----------------------------------------------------------------------------------

    def unread(self, user_nid: int, room_nid: int, upto: int) -> Counts | Awaitable[Counts]:  # noqa: ARG002
        """The counts of a user in a room, now: at ``upto`` or a little later."""
        self._follow()
        room = self._rooms.get(room_nid)
        entry = room.entries.get(user_nid) if room is not None else None
        reader = self._readers.known(user_nid)
        if room is not None and entry is not None and reader is not None and entry.upto >= room.floor:
            if not room.items or entry.upto >= room.items[-1].pos:
                return entry.tell()
            try:
                self._extend(room, entry, reader)
                return entry.tell()
            except FactMissing:
                pass
        return self._load(user_nid, room_nid)

    def prepare(self, user_nid: int, room_nids: Collection[int]) -> Awaitable[None] | None:
        """Before many rooms are asked for: make what is not in memory of them, at one go. None: nothing to wait for."""
        self._follow()
        cold = [nid for nid in room_nids if self._is_cold(user_nid, nid)]
        return self._load_many(user_nid, cold) if len(cold) > 1 else None

    async def total(self, user_nid: int) -> int:
        """How much a user has not read, of all their rooms."""
        rooms = self._index.joined_rooms(user_nid)
        preparing = self.prepare(user_nid, rooms)
        if preparing is not None:
            await preparing
        found = 0
        for room_nid in rooms:
            counts = self.unread(user_nid, room_nid, self._log.position)
            if not isinstance(counts, Counts):
                counts = await counts
            found += counts.notification_count
            found += sum(tally.notification_count for tally in counts.threads.values())
        return found

    async def is_unread(self, user_nid: int, room_nid: int, pos: int) -> bool:
        """Whether an event is a notification that a user has not read, and among those that are counted."""
        standing = self._index.standing(user_nid, room_nid)
        if standing is None or standing.membership != Membership.JOIN:
            return standing is not None and standing.membership == Membership.INVITE
        entry = await self._entry(user_nid, room_nid)
        return entry is not None and entry.has(pos)

    async def has_read(self, user_nid: int, room_nid: int, thread: str, pos: int) -> bool:
        """Whether a user has read a thread up to a position, as far as is known: by a receipt, a message or a join."""
        standing = self._index.standing(user_nid, room_nid)
        if standing is None or standing.membership != Membership.JOIN:
            return False  # whoever is only invited can read nothing
        entry = await self._entry(user_nid, room_nid)
        return entry is not None and entry.has_read(thread, pos)

    async def _entry(self, user_nid: int, room_nid: int) -> Entry | None:
        """What a user has not read of a room, now; None where it could not be found out."""
        counts = self.unread(user_nid, room_nid, self._log.position)
        if not isinstance(counts, Counts):
            await counts
        room = self._rooms.get(room_nid)
        return room.entries.get(user_nid) if room is not None else None

    # --- following the log -------------------------------------------------------------------------------

    def _follow(self) -> None:
        """Take in what was committed since the last look."""
        position = self._log.position
        if position == self._seen:
            return
        changes = self._log.since(self._seen)
        self._seen = position
        if changes is None:
            self._forget_all()
            return
        for change in changes:
            kind = change.kind
            if kind == Kind.EVENT:
                room = self._rooms.get(change.topic)
                if room is not None:
                    if change.payload is None:
                        self._forget(change.topic)
                    else:
                        room.note(change.payload, change.pos, self._events)
                        self._items += 1
            elif kind == Kind.RECEIPT:
                self._note_receipt(change)
            elif kind == Kind.TRUNCATED or kind == Kind.STATE_MOVED:
                self._forget(change.topic)
        if self._items > ITEMS_MOST:
            self._shed()

    def _shed(self) -> None:
        for room in self._rooms.values():
            room.keep_newest(ITEMS_KEPT)
        self._items = sum(len(room.items) for room in self._rooms.values())
        while self._items > ITEMS_MOST * 7 // 8:
            self._items -= len(self._rooms.popitem(last=False)[1].items)

    def _note_receipt(self, change: Change) -> None:
        room = self._rooms.get(change.topic)
        entry = room.entries.get(change.ref) if room is not None else None
        if room is None or entry is None:
            return
        receipt = change.payload
        if receipt is None or not receipt.event_pos:
            del room.entries[change.ref]
        else:
            entry.mark(receipt.thread, receipt.event_pos)

    def _forget(self, room_nid: int) -> None:
        self._rooms.pop(room_nid, None)

    def _forget_all(self) -> None:
        self._rooms.clear()
        self._entries = self._items = 0

    # --- counting ----------------------------------------------------------------------------------------

    def _extend(self, room: Room, entry: Entry, reader: Reader) -> None:
        """Look at what came since the entry was made. Raises ``FactMissing``; then nothing is lost or counted twice."""
        items = room.items
        start = len(items)
        while start and items[start - 1].pos > entry.upto:
            start -= 1
        known = room.verdicts(reader.rules)
        facts = Facts(room.joined, room.power, entry.display_name, reader.user_id, reader.threads)
        for place in range(start, len(items)):
            item = items[place]
            if item.sender == reader.user_id:
                thread = read_by_sending(self._event(item))
                if thread is not None:
                    entry.mark(thread, item.pos)
            elif not item.redacted and item.sender not in reader.ignored:
                verdict = known[place]
                if verdict is None or not verdict.holds_for(reader):
                    verdict = self._judge(item, reader, facts)
                    if verdict.is_short and verdict.holds_for(reader):
                        known[place] = verdict
                if verdict.notify:
                    entry.add(verdict.thread, item.pos, verdict.highlight)
            entry.upto = item.pos

    def _judge(self, item: Item, reader: Reader, facts: Facts) -> Verdict:
        """What somebody's rules say of an event."""
        event = self._event(item)
        view = self._view(item.nid, event)
        actions = reader.rules.evaluate(view, facts)
        return make_verdict(actions, self._thread(item.nid, event) if actions.notify else "", view)

    def _event(self, item: Item) -> Event:
        event = self._events.get(item.nid)
        if event is None:
            raise FactMissing
        return event

    def _view(self, nid: int, event: Event) -> EventView:
        views = self._views
        view = views.get(nid)
        if view is None:
            view = views[nid] = EventView(event)
            if len(views) > _VIEWS:
                views.popitem(last=False)
        return view

    def _thread(self, nid: int, event: Event) -> str:
        thread = own_thread(event)
        if thread is None:
            thread = self._threads.get(nid)
            if thread is None:
                raise FactMissing
        return thread

    # --- making entries ----------------------------------------------------------------------------------

    async def _load(self, user_nid: int, room_nid: int) -> Counts:
        entry: Entry | None = None
        for _ in range(_TRIES):
            self._follow()
            room = self._room(room_nid)
            entry = room.entries.get(user_nid)
            reader = self._readers.known(user_nid)
            if entry is not None and entry.upto < 0:
                # Another device of the user asks for the same.
                await _join(entry.waiting)
            elif entry is None or entry.upto < room.floor:
                _, (entry,) = await self._make(user_nid, [room_nid])
            elif reader is None:
                await self._readers.load(user_nid)
            else:
                try:
                    self._extend(room, entry, reader)
                    return entry.tell()
                except FactMissing:
                    await self._make_known(room, room_nid, user_nid, entry, reader)
        # It changes faster than it can be read: what was counted so far is a state that was.
        return entry.tell() if entry is not None else Counts()

    async def _load_many(self, user_nid: int, room_nids: Sequence[int]) -> None:
        for start in range(0, len(room_nids), _ROOMS_AT_ONCE):
            self._follow()
            cold = [nid for nid in room_nids[start : start + _ROOMS_AT_ONCE] if self._is_cold(user_nid, nid)]
            if cold:
                await self._make(user_nid, cold)

    def _is_cold(self, user_nid: int, room_nid: int) -> bool:
        """Whether somebody's entry has to be made, and nobody is at it."""
        room = self._rooms.get(room_nid)
        entry = room.entries.get(user_nid) if room is not None else None
        return room is None or entry is None or 0 <= entry.upto < room.floor

    def _room(self, room_nid: int) -> Room:
        room = self._rooms.get(room_nid)
        if room is None:
            room = self._rooms[room_nid] = Room(self._seen)
        self._rooms.move_to_end(room_nid)
        if self._entries > ENTRIES_MOST:
            self._entries = sum(len(one.entries) for one in self._rooms.values())
            while self._entries > ENTRIES_MOST * 7 // 8 and len(self._rooms) > 1:
                self._entries -= len(self._rooms.popitem(last=False)[1].entries)
        return room

    async def _make(self, user_nid: int, room_nids: Sequence[int]) -> tuple[Reader, list[Entry]]:
        """Entries from the database, at one go. What comes meanwhile finds them, not loaded yet, and is kept in them."""
        upto = self._seen
        who = self._readers.ask(user_nid)
        made: list[tuple[Room, Entry, Backlog]] = []
        for room_nid in room_nids:
            room = self._room(room_nid)
            entry = room.entries[user_nid] = Entry()
            made.append((room, entry, self._ask(room, room_nid, user_nid, entry)))
        self._entries += len(made)  # at most: counted again when it matters
        try:
            asks = [ask for _, _, ask in made]
            reader, founds = await self._database.read(
                load_backlogs, user_nid, who, asks, upto, MOST, self._events
            )
            self._readers.keep(who, reader)
            self._follow()
            for (room, entry, ask), found in zip(made, founds, strict=True):
                self._keep_facts(room, entry, ask, found)
                entry.fill(found)
                entry.upto = upto
        except BaseException:
            for room, entry, _ in made:
                if room.entries.get(user_nid) is entry:
                    del room.entries[user_nid]
            raise
        finally:
            for _, entry, _ in made:
                waiting, entry.waiting = entry.waiting, []
                _release(waiting)
        return reader, [entry for _, entry, _ in made]

    async def _make_known(
        self, room: Room, room_nid: int, user_nid: int, entry: Entry, reader: Reader
    ) -> None:
        """Bring into memory what an extension needs."""
        if room.loading is not None:
            # One message makes a hundred members ask for the same.
            await _join(room.loading)
            return
        room.loading = []
        try:
            nids = [item.nid for item in room.items if item.pos > entry.upto]
            ask = self._ask(room, room_nid, user_nid, entry)
            found = await self._database.read(load_missing, user_nid, reader, ask, nids, self._events)
            self._follow()
            self._keep_facts(room, entry, ask, found)
        finally:
            waiting, room.loading = room.loading, None
            _release(waiting)

    def _ask(self, room: Room, room_nid: int, user_nid: int, entry: Entry) -> Backlog:
        standing = self._index.standing(user_nid, room_nid)
        return Backlog(
            room_nid,
            Facts(room.joined, room.power, entry.display_name),
            standing.event_nid if standing is not None else 0,
            standing.pos if standing is not None else self._seen,
            room.moves,
        )

    def _keep_facts(self, room: Room, entry: Entry, ask: Backlog, found: Found) -> None:
        if room.moves == ask.moves:
            # Nothing moved while they were read.
            room.joined, room.power = found.facts.joined, found.facts.power
            entry.display_name = found.facts.display_name
        for nid, thread in found.threads.items():
            self._threads[nid] = thread
            if len(self._threads) > _THREADS_MOST:
                self._threads.popitem(last=False)


def _join(waiting: list[Deferred[None]]) -> Deferred[None]:
    """Wait with others."""
    one: Deferred[None] = Deferred()
    waiting.append(one)
    return one


def _release(waiting: list[Deferred[None]]) -> None:
    for one in waiting:
        if not one.called:  # else its client went away
            one.callback(None)
