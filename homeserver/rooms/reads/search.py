"""Search in the texts of the rooms that somebody is or was in, as far as they may see.

A search goes through the events that fit from the newest on, and stops where it has enough for a page. With ``rank``
those of one window, the newest few hundred, are ordered by how well they fit: more than that nobody reads, and ranking a
million would make everybody wait. How many there are in all is an estimate. See docs/how/search.md.

# spec: client-server-api#server-side-search
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from twisted.internet.defer import DeferredSemaphore

from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.http.errors import MatrixError
from homeserver.rooms.reads.pagination import Pagination
from homeserver.rooms.reads.reading import Archive, Asker, Filter, Found, find_seen
from homeserver.rooms.reads.search_index import SearchIndex
from homeserver.rooms.reads.search_pages import (
    SearchAsked,
    Start,
    Window,
    estimate,
    highlights,
    next_token,
    parse_token,
    rank_of,
)
from homeserver.rooms.reads.search_results import group_results, write_results
from homeserver.rooms.reads.visibility import Sights, find_visited
from homeserver.rooms.types import Requester
from homeserver.store.history import HistoryRow, load_history_rows
from homeserver.store.ids import Interner
from homeserver.store.placement import Membership
from homeserver.store.search import phrases_of
from homeserver.store.search_hits import NEWEST_PLACE, Hit, Search, find_encrypted, find_hits
from homeserver.stream.index import MembershipIndex

# How many that fit are looked for first, where a page of the newest is wanted, and how many else.
_FIRST, _WINDOW = 100, 500
# LIMIT(time): so many windows without enough that the searcher may see, then they are told to go on.
_WINDOWS_MOST = 4
_SLICE = 50
# Of the connections to the database that read, so many at most are taken by searches for words.
_AT_ONCE = 1
_WAS_THERE = (Membership.JOIN, Membership.LEAVE, Membership.BAN)
_encode = msgspec.json.Encoder().encode


class Searches:
    """See the module."""

    def __init__(
        self,
        database: Database,
        interner: Interner,
        index: MembershipIndex,
        sights: Sights,
        pagination: Pagination,
        archive: Archive,
        texts: SearchIndex,
    ) -> None:
        self._database = database
        self._interner = interner
        self._index = index
        self._sights = sights
        self._pagination = pagination
        self._archive = archive
        self._texts = texts
        self._turns = DeferredSemaphore(_AT_ONCE)

    async def search(self, requester: Requester, asked: SearchAsked) -> bytes:
        """The ``room_events`` of the answer."""
        start = parse_token(asked.token)
        await self._texts.write()
        rooms = await self._rooms(requester, asked.wanted)
        if start.room_nid is not None:
            rooms = {nid: name for nid, name in rooms.items() if nid == start.room_nid}
        senders: list[int] | None = None
        if asked.senders is not None:
            senders = sorted((await self._interner.find_users(sorted(asked.senders))).values())
        if start.sender_nid is not None:
            senders = [start.sender_nid] if senders is None or start.sender_nid in senders else []
        phrases = phrases_of(asked.term)
        search = Search(phrases, sorted(rooms), sorted(asked.keys), senders)
        askers: dict[int, Asker | None] = {}
        window = await self._fill(requester, asked, start, search, rooms, askers)
        return await self._write(asked, phrases, start, askers, window)

    async def _rooms(self, requester: Requester, wanted: Filter) -> dict[int, str]:
        """The rooms to search: nid -> id."""
        standings = self._index.rooms_of(requester.user_nid).items()
        known = {
            nid: not one.outside and one.membership in _WAS_THERE
            for nid, one in standings
            if not one.forgotten
        }
        nids = [nid for nid, was_there in known.items() if was_there]
        # Who is asked to come, or asks to, may have been there before, with or without others of this server.
        if waiting := [nid for nid, was_there in known.items() if not was_there]:
            key = await self._interner.find_key(("m.room.member", requester.user_id)) or 0
            nids += await self._database.read(find_visited, waiting, key, self._archive.facts)
        names = await self._interner.room_names(nids)
        return {nid: name for nid, name in names.items() if wanted.rooms.accepts(name)}

    async def _fill(
        self,
        requester: Requester,
        asked: SearchAsked,
        start: Start,
        search: Search,
        rooms: Mapping[int, str],
        askers: dict[int, Asker | None],
    ) -> Window:
        """A window with something in it; in the order of time, with enough for a page and one more."""
        window = Window(start.top)
        enough = None if asked.by_rank else asked.limit + 1
        most, below = _WINDOW if asked.by_rank else max(_FIRST, min(2 * asked.limit, _WINDOW)), start.top
        for _ in range(_WINDOWS_MOST):
            hits = await self._turns.run(self._database.read, find_hits, search, below, most)
            window.rest = hits[-1].place if len(hits) == most else None
            if start.bottom is not None and below > start.bottom:
                # Of a window that was opened with others in it: these alone.
                hits, window.rest = [hit for hit in hits if hit.place >= start.bottom], start.bottom
            for room_nid in dict.fromkeys(hit.room_nid for hit in hits):
                if room_nid not in askers:
                    askers[room_nid] = await self._asker(requester, rooms[room_nid])
            wanting = None if enough is None else enough - len(window.hits)
            seen, left = await self._database.read(
                _find_visible, self._archive, askers, hits, asked.wanted, wanting
            )
            window.hits += seen
            window.count = len(window.hits) + left
            if start.count is not None:
                window.count = start.count
            elif window.rest is not None and window.hits:
                upto = max(asker.sight.upto for asker in askers.values() if asker is not None)
                window.count = estimate([found.row.pos or 0 for _, found in window.hits], upto)
            if left:
                window.rest = window.hits[-1][0].place
            if (enough is not None and len(window.hits) >= enough) or window.rest is None:
                break
            if asked.by_rank and window.hits:
                break
            below, most = window.rest, _WINDOW
            if asked.by_rank:
                window.top = below
        if window.top == NEWEST_PLACE and window.hits:
            # The next page is of the same window, although more is said meanwhile.
            window.top = window.hits[0][0].place + 1
        return window

    async def _asker(self, requester: Requester, room_id: str) -> Asker | None:
        """Who searches a room; None where they have never been in it."""
        try:
            sight = await self._sights.find(requester, room_id)
        except MatrixError:
            return None
        if not sight.joined and sight.departed is None:
            return None
        return await self._pagination.asker(requester, sight)

    # --- the answer --------------------------------------------------------------------------------------

    async def _write(
        self,
        asked: SearchAsked,
        phrases: Sequence[Sequence[str]],
        start: Start,
        askers: Mapping[int, Asker | None],
        window: Window,
    ) -> bytes:
        skip = start.skip if asked.by_rank else 0
        end = skip + asked.limit
        ranked = window.hits if asked.by_rank else window.hits[:end]
        window.ranks = {hit.nid: rank_of(found.event, phrases) for hit, found in ranked}
        if asked.by_rank:
            window.hits.sort(key=lambda one: (-window.ranks[one[0].nid], -one[0].place))
        shown = window.hits[skip:end]
        of_shown = {nid: asker for nid, asker in askers.items() if asker is not None}
        parts = [
            b'"count":%d,"highlights":%b' % (window.count, _encode(highlights(asked.term))),
            await self._database.read(write_results, self._archive, asked, of_shown, window.ranks, shown),
        ]
        if asked.groups:
            users = await self._interner.find_users(sorted({found.event.sender for _, found in shown}))
            named = {nid: asker.sight.room_id for nid, asker in of_shown.items()}
            parts.append(b'"groups":' + _encode(group_results(asked, window, skip, named, users)))
        more = next_token(window, end, start, by_rank=asked.by_rank)
        if more is not None:
            parts.append(b'"next_batch":' + _encode(more))
        return b"{" + b",".join(parts) + b"}"


def _find_visible(
    tx: Tx,
    archive: Archive,
    askers: Mapping[int, Asker | None],
    hits: Sequence[Hit],
    wanted: Filter,
    enough: int | None,
) -> tuple[list[tuple[Hit, Found]], int]:
    """Those that the searcher may see and wants; and how many were not looked at, where they are ``enough``."""
    # spec: client-server-api#room_events (rooms that are end to end encrypted are not searched)
    encrypted = find_encrypted(tx, {hit.room_nid for hit in hits})
    hits = [hit for hit in hits if hit.room_nid not in encrypted]
    size = len(hits) if enough is None else _SLICE
    found: list[tuple[Hit, Found]] = []
    for at in range(0, len(hits), size or 1):
        found += _visible_among(tx, archive, askers, hits[at : at + size], wanted)
        if enough is not None and len(found) >= enough:
            return found, max(len(hits) - at - size, 0)
    return found, 0


def _visible_among(
    tx: Tx, archive: Archive, askers: Mapping[int, Asker | None], hits: Sequence[Hit], wanted: Filter
) -> list[tuple[Hit, Found]]:
    rows = load_history_rows(tx, [hit.nid for hit in hits])
    by_room: dict[int, tuple[Asker, list[HistoryRow]]] = {}
    for hit in hits:
        row, asker = rows.get(hit.nid), askers[hit.room_nid]
        if row is None or asker is None or row.pos is None or row.pos > asker.sight.upto or row.redacted_by:
            continue
        by_room.setdefault(hit.room_nid, (asker, []))[1].append(row)
    seen: dict[int, Found] = {}
    for asker, of_room in by_room.values():
        for one in find_seen(tx, archive, asker.sight, of_room):
            event = one.event
            if event.redacted_by:
                continue  # for this reader: what it says was erased
            if wanted.accepts(event.type, event.sender, event.has_url) and not (
                event.state_key is None and event.sender in asker.ignored
            ):
                seen[one.row.nid] = one
    return [(hit, seen[hit.nid]) for hit in hits if hit.nid in seen]
