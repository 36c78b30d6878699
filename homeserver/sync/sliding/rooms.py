"""The rooms of an answer: gathered from the log and from the tables, and noted as told.

proposal: MSC4186 (room results)
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field

from homeserver.db.tx import Tx
from homeserver.store.client_events import ClientEventCache
from homeserver.store.ids import STRIPPED as STRIPPED_KEYS
from homeserver.store.outside import load_outside
from homeserver.store.placement import Membership
from homeserver.store.sliding_reads import NO_FACTS
from homeserver.store.visibility_reads import StateFacts
from homeserver.stream.index import Standing
from homeserver.sync.lazy import LazyMemory
from homeserver.sync.sections import Stripped, load_stripped, outside_stripped, shown_leave
from homeserver.sync.sliding.connections import GONE, JOINED, LIVE, NEVER, STRIPPED, Told
from homeserver.sync.sliding.extras import Extras, ExtrasWanted, load_extras
from homeserver.sync.sliding.facts import Facts
from homeserver.sync.sliding.lists import Relevant
from homeserver.sync.sliding.memory import MemoryNews
from homeserver.sync.sliding.news import Frame, RoomNews, RoomOrder, made_up_leave, write_room
from homeserver.sync.sliding.plan import Plan, Work
from homeserver.sync.sliding.tables import RoomsWanted, build_rooms
from homeserver.sync.timelines import Reader
from homeserver.sync.tools import SyncTools
from homeserver.sync.types import Counts, Unread

_OPEN = (Membership.INVITE, Membership.KNOCK)


@dataclass(frozen=True, slots=True)
class _Read:
    """What one read unit is to load."""

    wanted: RoomsWanted
    stripped: Mapping[int, Standing]
    outside: Mapping[int, Standing]  # of rooms that this server is not in
    strip_keys: Sequence[int]


@dataclass(slots=True)
class Gathered:
    """The rooms that there is news of, and what the client was told of them after it."""

    news: dict[int, RoomNews] = field(default_factory=dict)
    told: dict[int, Told] = field(default_factory=dict)
    extras: Extras | None = None  # what was read with them
    forgotten: list[int] = field(default_factory=list)  # rooms whose members the client is told of anew


class Rooms:
    """See the module."""

    def __init__(
        self, tools: SyncTools, facts: Facts, memory: MemoryNews, lazy: LazyMemory, unread: Unread
    ) -> None:
        self._tools = tools
        self._facts = facts
        self._memory = memory
        self._lazy = lazy
        self._unread = unread

    def note_members(self, device: tuple[int, int], gathered: Gathered, pos: int) -> None:
        """An answer leaves: these members it carries."""
        for nid in gathered.forgotten:
            self._lazy.forget_room(device, nid)
        for nid, news in gathered.news.items():
            self._lazy.note(device, nid, news.members, pos)

    # --- gathering -----------------------------------------------------------------------------------------------

    async def gather(
        self, work: Work, plan: Plan, own_key: int, extras: ExtrasWanted, foreseen: dict[int, Told] | None
    ) -> Gathered:
        """What is new of the rooms of a plan; where the tables are read, ``extras`` with them."""
        result = Gathered()
        tools = self._tools
        reader = self._reader(work, own_key)
        from_log = await self._memory.tell(work.window, plan.joined, reader, work.device)
        result.news = from_log.news
        outside = {nid: one for nid, one in plan.stripped.items() if one.outside}
        outside.update({one.room_nid: one.standing for one in plan.gone if one.standing.outside})
        gone = [one for one in plan.gone if not one.standing.outside]
        if from_log.others or gone or plan.stripped or outside:
            if not reader.keys.visibility:
                await tools.keys.ask_visibility()
                reader = self._reader(work, own_key)
            sent = {one.room_nid: dict(self._lazy.sent(work.device, one.room_nid)) for one in from_log.others}
            read = _Read(
                RoomsWanted(
                    from_log.others, gone, work.since, work.token.pos, sent, work.windows.names, extras
                ),
                plan.stripped,
                outside,
                await tools.keys.ask(STRIPPED_KEYS) if plan.stripped else (),
            )
            found, stripped, result.extras = await tools.database.read(
                _load_rooms, reader, read, tools.events, tools.facts
            )
            result.news.update(found)
            for order in plan.gone:
                if not order.since and order.room_nid in found:
                    found[order.room_nid].initial = True  # of which they have never been told
            for nid, one in stripped.items():
                hidden = plan.stripped[nid].membership == Membership.INVITE and one.sender in work.inviters
                if not hidden:
                    # spec: client-server-api#invite-permission
                    result.news[nid] = RoomNews(stripped=one.events, initial=True)
        if foreseen is None:
            self._note(work, plan, result)
        else:
            result.told = foreseen
            result.forgotten = [order.room_nid for order in plan.joined]
        return result

    def _reader(self, work: Work, own_key: int) -> Reader:
        requester = work.requester
        return Reader(
            requester.user_id,
            requester.user_nid,
            requester.device_nid,
            self._tools.keys.known(own_key),
            work.ignored,
            self._memory.filter_for(0),
            work.now_ms,
            state_after=True,
        )

    def foresee(self, work: Work, plan: Plan) -> dict[int, Told] | None:
        """What the client will have been told of each room, where no read is needed to know that; else None."""
        told: dict[int, Told] = {}
        for order in plan.joined:
            if not order.fresh:
                return None
            told[order.room_nid] = self._fresh(work, order)
        self._note_others(work, plan, told)
        return told

    def _note(self, work: Work, plan: Plan, result: Gathered) -> None:
        """What the client was told of each room."""
        for order in plan.joined:
            news = result.news.get(order.room_nid)
            if news is not None:
                result.told[order.room_nid] = self._joined(work, order, news, result)
        self._note_others(work, plan, result.told)

    def _note_others(self, work: Work, plan: Plan, told: dict[int, Told]) -> None:
        for order in plan.gone:
            told[order.room_nid] = Told(
                LIVE, NEVER, NEVER, kind=GONE, direct=self._is_direct(work, order.room_nid)
            )
        for nid in plan.stripped:
            told[nid] = Told(LIVE, NEVER, NEVER, kind=STRIPPED, direct=self._is_direct(work, nid))
        for nid, relevant in work.windows.rooms.items():
            entry = work.state.get(nid)
            if entry is None or entry.wishes is relevant.wishes or entry.kind != JOINED:
                continue
            if nid not in told and entry.wishes != relevant.wishes:
                # It is kept up to date of less than before.
                told[nid] = entry._replace(wishes=relevant.wishes)

    def _fresh(self, work: Work, order: RoomOrder) -> Told:
        relevant = order.relevant
        direct = self._is_direct(work, order.room_nid)
        return Told(LIVE, NEVER, NEVER, relevant.limit, relevant.wishes, JOINED, direct)

    def _joined(self, work: Work, order: RoomOrder, news: RoomNews, result: Gathered) -> Told:
        relevant, entry = order.relevant, work.state.get(order.room_nid)
        if news.initial or entry is None:
            result.forgotten.append(order.room_nid)
            return self._fresh(work, order)
        # With a gap the client has no more than what it is told now.
        limit = relevant.limit if news.limited or news.wide else entry.limit
        direct = self._is_direct(work, order.room_nid)
        return entry._replace(sent=LIVE, limit=limit, wishes=relevant.wishes, direct=direct)

    def _is_direct(self, work: Work, nid: int) -> bool:
        return work.windows.names.get(nid) in work.direct

    # --- writing -------------------------------------------------------------------------------------------------

    async def write(
        self, work: Work, gathered: Gathered, standings: Mapping[int, Standing]
    ) -> dict[int, bytes]:
        """The room results."""
        told = {nid: one for nid, one in gathered.news.items() if self._is_told(work, nid, one, gathered)}
        joined = [nid for nid in told if standings[nid].membership == Membership.JOIN]
        facts = await self._facts.rooms(joined)
        user_nid = work.requester.user_nid
        if len(joined) > 1:
            preparing = self._unread.prepare(user_nid, joined)
            if preparing is not None:
                await preparing
        results: dict[int, bytes] = {}
        for nid, news in told.items():
            standing = standings[nid]
            counts: Counts | None = None
            bump = standing.pos
            if standing.membership == Membership.JOIN:
                found = self._unread.unread(user_nid, nid, work.token.pos)
                counts = await found if isinstance(found, Awaitable) else found
                bump = facts.get(nid, NO_FACTS).bump_pos or standing.pos
            relevant = work.windows.rooms[nid]
            direct = self._direct_to_tell(work, nid, news, gathered)
            if news.gone and standing.membership == Membership.LEAVE and not news.state:
                news.state = _own_leave(work, work.windows.names[nid])
            frame = Frame(standing.membership, bump, relevant, direct, counts, work.stable)
            results[nid] = write_room(news, frame, work.requester.user_id)
        return results

    def _is_told(self, work: Work, nid: int, news: RoomNews, gathered: Gathered) -> bool:
        return news.told or news.read or self._direct_to_tell(work, nid, news, gathered) is not None

    def _direct_to_tell(self, work: Work, nid: int, news: RoomNews, gathered: Gathered) -> bool | None:
        """Whether a room is a direct chat, where the client does not know yet."""
        now = gathered.told.get(nid)
        before = work.state.get(nid)
        if now is None:
            return None
        if news.initial or before is None:
            return now.direct or None
        return now.direct if now.direct is not before.direct else None


def _load_rooms(
    tx: Tx, reader: Reader, read: _Read, cache: ClientEventCache, facts: StateFacts
) -> tuple[dict[int, RoomNews], dict[int, Stripped], Extras]:
    found: dict[int, RoomNews] = {}
    stripped: dict[int, Stripped] = {}
    if read.wanted.joined or read.wanted.gone:
        found = build_rooms(tx, reader, read.wanted, cache, facts)
    if read.stripped:
        stripped = load_stripped(tx, read.stripped, read.strip_keys, cache, facts.bases)
    if read.outside:
        for nid, row in load_outside(tx, reader.user_nid, read.outside).items():
            if read.outside[nid].membership in _OPEN:
                stripped[nid] = outside_stripped(row)
            else:
                shown = shown_leave(row)
                found[nid] = RoomNews(shown, before=read.wanted.upto, state=shown, gone=True)
    events = {nid: news.shown for nid, news in found.items()}
    return found, stripped, load_extras(tx, read.wanted.extras.at(events))


def vanished_room(work: Work, room_id: str) -> bytes:
    """Of a room in which the user is nothing any more, though no event says so."""
    news = RoomNews(gone=True, initial=True, state=_own_leave(work, room_id))
    frame = Frame(Membership.LEAVE, 0, Relevant(0, frozenset(), {}, False), None, None, work.stable)
    return write_room(news, frame, work.requester.user_id)


def _own_leave(work: Work, room_id: str) -> list[bytes]:
    """The state of a room that is over without an event."""
    if work.stable:
        return []
    # COMPAT(matrix-rust-sdk, 2026): it reads no ``membership``, and takes a room for joined unless the state says else.
    return [made_up_leave(work.requester.user_id, room_id, work.now_ms)]
