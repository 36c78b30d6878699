"""Whom of many one event notifies, now: for those who are told at once.

An event is evaluated once for each set of rules, and not for each of those who have it: of the thousands in a room
nearly all have the default rules, and those can tell only whom an event names (``conditions.named_in``).

Rules, and what they ask of the room, are those of the moment and not of the event's: a follower is a moment behind.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from federation.auth.power import PowerLevels
from federation.event import Event
from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.push.conditions import EventView, FactMissing, Facts, named_in, thread_root
from homeserver.push.readers import Reader, Readers
from homeserver.push.rules import NOTHING, Actions, CompiledRules
from homeserver.store.changes import Change, Kind
from homeserver.store.parsed import EventCache, load_events
from homeserver.store.placement import Placement
from homeserver.store.unread import load_joined, load_power
from homeserver.stream.index import MembershipIndex

# LIMIT(memory: some hundred bytes of each, and its power levels)
_ROOMS_MOST = 5_000


@dataclass(frozen=True, slots=True)
class _RoomFacts:
    """What rules may ask of a room."""

    joined: int
    power: PowerLevels | None


class Evaluator:
    """See the module. ``note`` each change before what it brings is evaluated."""

    def __init__(
        self, database: Database, readers: Readers, index: MembershipIndex, events: EventCache
    ) -> None:
        self._database = database
        self._readers = readers
        self._index = index
        self._events = events
        self._rooms: OrderedDict[int, _RoomFacts] = OrderedDict()

    def note(self, change: Change) -> None:
        """What is known of a room may not be true any more."""
        if change.kind == Kind.EVENT:
            placed: Placement | None = change.payload
            if placed is None or not placed.linear or placed.event.state_key is not None:
                self._rooms.pop(change.topic, None)
        elif change.kind in (Kind.STATE_MOVED, Kind.TRUNCATED, Kind.JOIN_PROGRESS):
            self._rooms.pop(change.topic, None)

    async def evaluate(
        self, room_nid: int, event: Event, user_nids: Sequence[int]
    ) -> list[tuple[int, Actions]]:
        """Whom of these the event notifies, and how. Its sender is not among them."""
        readers = await self._readers.load_many(user_nids)
        view = EventView(event)
        named = named_in(view)
        root = thread_root(view)
        # By rules, and by whether they subscribed to the thread that it is in.
        decided: dict[tuple[CompiledRules, bool | None], Actions] = {}
        found: list[tuple[int, Actions]] = []
        for user_nid, reader in readers.items():
            if reader.ignores(event):
                continue
            alone = reader.rules.by_name or reader.user_id in named
            among = reader.rules, None if root is None or reader.threads is None else root in reader.threads
            actions = None if alone else decided.get(among)
            if actions is None:
                actions = await self._decide(room_nid, view, user_nid, reader)
                if not alone:
                    decided[among] = actions
            if actions.notify:
                found.append((user_nid, actions))
        return found

    async def _decide(self, room_nid: int, view: EventView, user_nid: int, reader: Reader) -> Actions:
        known = self._rooms.get(room_nid)
        facts = Facts(user_id=reader.user_id, threads=reader.threads)
        if known is not None:
            facts = replace(facts, joined=known.joined, power=known.power)
        try:
            return reader.rules.evaluate(view, facts)
        except FactMissing:
            pass
        if known is None:
            known = await self._database.read(_load_facts, room_nid, self._events)
            self._rooms[room_nid] = known
            if len(self._rooms) > _ROOMS_MOST:
                self._rooms.popitem(last=False)
            facts = replace(facts, joined=known.joined, power=known.power)
        if reader.rules.by_name:
            facts.display_name = await self._display_name(user_nid, room_nid)
        try:
            return reader.rules.evaluate(view, facts)
        except FactMissing:
            return NOTHING  # a room without a create event has no facts

    async def _display_name(self, user_nid: int, room_nid: int) -> str:
        standing = self._index.standing(user_nid, room_nid)
        if standing is None or not standing.event_nid:
            return ""
        found = await self._database.read(load_events, [standing.event_nid], self._events)
        event = found.get(standing.event_nid)
        name = event.content.get("displayname") if event is not None else None
        return name if isinstance(name, str) else ""


def _load_facts(tx: Tx, room_nid: int, events: EventCache) -> _RoomFacts:
    return _RoomFacts(load_joined(tx, [room_nid])[room_nid], load_power(tx, [room_nid], events).get(room_nid))
