"""The list of what a user was notified of, or would have been: found by looking, not by writing.

Nothing is stored for a notification: in a room of ten thousand each message would be ten thousand rows that nearly nobody
ever asks for (docs/decisions/0014-notifications-are-found-by-looking.md). A page is made from the newest events of the
user's rooms, by their rules of today. What is listed is what the rooms still hold since the user joined them.

# spec: client-server-api#get_matrixclientv3notifications
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import msgspec

from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.push.backlog import fill_facts
from homeserver.push.conditions import EventView, FactMissing, Facts
from homeserver.push.counts import Unread
from homeserver.push.readers import Reader, Readers
from homeserver.push.rules import NOTHING, Actions
from homeserver.store.client_events import ClientEventCache, join, load_client_events
from homeserver.store.ids import Interner
from homeserver.store.parsed import EventCache, load_events
from homeserver.store.placement import Membership
from homeserver.store.unread import Span, Stand, find_joinings, load_stands
from homeserver.stream.index import MembershipIndex, Standing
from homeserver.stream.log import ChangeLog

LIMIT: Final = 20
LIMIT_MOST: Final = 100
# LIMIT(time: a page looks at so many events, at least two of each room, and goes on with the next where it found none)
_EVENTS_MOST: Final = 2_000
_ROOM_LEAST: Final = 2
_TURNS: Final = 4

_encode = msgspec.json.Encoder().encode


class Owner(Protocol):
    """Whose list."""

    @property
    def user_nid(self) -> int: ...


class _Found(NamedTuple):
    """One notification."""

    pos: int
    room_nid: int
    nid: int
    actions: Actions


@dataclass(frozen=True, slots=True)
class _Ask:
    """Which part of which rooms, and how much of it."""

    rooms: Mapping[int, Standing]
    before: int
    limit: int
    only_highlights: bool


class NotificationList:
    """See the module."""

    def __init__(
        self,
        database: Database,
        interner: Interner,
        index: MembershipIndex,
        log: ChangeLog,
        readers: Readers,
        unread: Unread,
        events: EventCache,
        client_events: ClientEventCache,
    ) -> None:
        self._database = database
        self._interner = interner
        self._index = index
        self._log = log
        self._readers = readers
        self._unread = unread
        self._events = events
        self._client_events = client_events

    async def page(self, owner: Owner, before: int | None, limit: int, *, only_highlights: bool) -> bytes:
        """The newest notifications before a position, as JSON."""
        user_nid = owner.user_nid
        reader = await self._readers.load(user_nid)
        upto = self._log.position + 1 if before is None else min(before, self._log.position + 1)
        found: list[_Found] = []
        for _ in range(_TURNS):
            ask = _Ask(self._rooms(user_nid), upto, limit - len(found), only_highlights)
            more, upto = await self._database.read(_load, ask, reader, self._events)
            found += more
            if len(found) >= limit or not upto:
                break
        events = await self._database.read(_load_events, [one.nid for one in found], self._client_events)
        names = await self._interner.room_names({one.room_nid for one in found})
        parts: list[bytes] = []
        for one in found:
            event = events.get(one.nid)
            if event is not None:
                parts.append(
                    b'{"actions":%b,"event":%b,"read":%b,"room_id":%b,"ts":%d}'
                    % (
                        _encode(list(one.actions.json)),
                        event[0],
                        b"false"
                        if await self._unread.is_unread(user_nid, one.room_nid, one.pos)
                        else b"true",
                        _encode(names.get(one.room_nid, "")),
                        event[1],
                    )
                )
        token = b',"next_token":"%d"' % upto if upto else b""
        return b'{"notifications":%b%b}' % (join(parts), token)

    def _rooms(self, user_nid: int) -> dict[int, Standing]:
        return {
            nid: one
            for nid, one in self._index.rooms_of(user_nid).items()
            if one.membership == Membership.JOIN or (one.membership == Membership.INVITE and not one.outside)
        }


def _load(tx: Tx, ask: _Ask, reader: Reader, events: EventCache) -> tuple[list[_Found], int]:
    """Notifications, the newest first, and the position before which there may be more (0: nowhere)."""
    joined = {nid: one.pos for nid, one in ask.rooms.items() if one.membership == Membership.JOIN}
    lows = find_joinings(tx, reader.user_id, joined, events)
    spans = [Span(nid, low, ask.before - 1) for nid, low in lows.items() if low < ask.before - 1]
    most = max(_ROOM_LEAST, _EVENTS_MOST // max(len(spans), 1))
    stands = load_stands(tx, spans, most)
    # Beyond the oldest event that was looked at in a room of which there is more, the order is not known.
    horizon = max((some[0].pos for some in stands.values() if len(some) == most), default=0)
    invites = {
        nid: [Stand(one.pos, one.event_nid)]
        for nid, one in ask.rooms.items()
        if one.membership == Membership.INVITE and one.pos < ask.before
    }
    found = [
        one
        for one in _evaluate(tx, {**stands, **invites}, ask.rooms, reader, events)
        if one.pos >= horizon and (one.actions.highlight or not ask.only_highlights)
    ]
    found.sort(reverse=True)
    if len(found) > ask.limit:
        return found[: ask.limit], found[ask.limit - 1].pos
    return found, horizon


def _evaluate(
    tx: Tx,
    stands: Mapping[int, Sequence[Stand]],
    rooms: Mapping[int, Standing],
    reader: Reader,
    events: EventCache,
) -> list[_Found]:
    loaded = load_events(
        tx, [one.nid for some in stands.values() for one in some if not one.redacted], events
    )
    facts = {nid: Facts(user_id=reader.user_id, threads=reader.threads) for nid in stands}
    found: list[_Found] = []
    unclear: list[tuple[int, Stand, EventView]] = []
    for room_nid, some in stands.items():
        for stand in some:
            event = loaded.get(stand.nid)
            if event is None or event.sender == reader.user_id or reader.ignores(event):
                continue
            view = EventView(event)
            try:
                actions = reader.rules.evaluate(view, facts[room_nid])
            except FactMissing:
                unclear.append((room_nid, stand, view))
                continue
            if actions.notify:
                found.append(_Found(stand.pos, room_nid, stand.nid, actions))
    if unclear:
        wanted = {room_nid: rooms[room_nid].event_nid for room_nid, _, _ in unclear}
        fill_facts(tx, {nid: facts[nid] for nid in wanted}, wanted, events)
        for room_nid, stand, view in unclear:
            actions = _evaluate_again(reader, view, facts[room_nid])
            if actions.notify:
                found.append(_Found(stand.pos, room_nid, stand.nid, actions))
    return found


def _evaluate_again(reader: Reader, view: EventView, facts: Facts) -> Actions:
    try:
        return reader.rules.evaluate(view, facts)
    except FactMissing:
        return NOTHING  # a room without a create event has no facts


def _load_events(tx: Tx, nids: Sequence[int], cache: ClientEventCache) -> dict[int, tuple[bytes, int]]:
    """Events as clients see them, and their timestamps; none that was redacted meanwhile."""
    return {
        nid: (event.render(), event.ts_ms)
        for nid, event in load_client_events(tx, nids, cache).items()
        if not event.redacted_by
    }
