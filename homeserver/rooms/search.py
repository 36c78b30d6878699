"""Search in the texts of the rooms that somebody is or was in, as far as they may see.

A search looks at a window of the newest events that fit, in the order of their time. With ``rank`` those of one window
are ordered by how well they fit: more than that nobody reads, and ranking a million would make everybody wait.

# spec: client-server-api#server-side-search
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.http.errors import MatrixError, invalid_param
from homeserver.rooms.pagination import Pagination
from homeserver.rooms.reading import (
    Archive,
    Asker,
    Filter,
    Found,
    find_seen,
    scan,
    write_events,
    write_senders,
    write_state,
)
from homeserver.rooms.search_index import SearchIndex
from homeserver.rooms.types import Requester
from homeserver.rooms.visibility import Sights
from homeserver.store.client_events import join
from homeserver.store.history import BEGINNING, HistoryRow, load_history_rows, load_span, state_after
from homeserver.store.ids import Interner
from homeserver.store.placement import Membership
from homeserver.store.search import NEWEST_PLACE, Hit, Search, find_hits, load_texts, phrases_of
from homeserver.store.timeline import load_state
from homeserver.stream.index import MembershipIndex
from homeserver.stream.tokens import timeline_token

_WINDOW = 500
# LIMIT(time): so many windows without anything that the searcher may see, then they are told to go on.
_WINDOWS_MOST = 4
_TOKEN = re.compile(r"s(\d{1,19})_(\d{1,4})(?:_([ru])(\d{1,18}))?")
_WAS_THERE = (Membership.JOIN, Membership.LEAVE, Membership.BAN)
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class ContextAsked:
    """How much around each result."""

    before: int
    after: int
    profiles: bool


@dataclass(frozen=True, slots=True)
class SearchAsked:
    """A search, as the client gave it."""

    term: str
    keys: frozenset[str]
    by_rank: bool
    limit: int
    wanted: Filter
    senders: frozenset[str] | None = None
    groups: tuple[str, ...] = ()
    context: ContextAsked | None = None
    with_state: bool = False
    token: str | None = None


@dataclass(slots=True)
class _Window:
    """Events that fit and that the searcher may see, in the order of the answer."""

    hits: list[tuple[Hit, Found]] = field(default_factory=list)
    ranks: dict[int, float] = field(default_factory=dict)
    top: int = NEWEST_PLACE  # it holds what is before this
    rest: int | None = None  # and the next one what is before this


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

    async def search(self, requester: Requester, asked: SearchAsked) -> bytes:
        """The ``room_events`` of the answer."""
        top, skip, one_room, one_sender = _parse_token(asked.token)
        await self._texts.write()
        rooms = await self._rooms(requester, asked.wanted)
        if one_room is not None:
            rooms = {nid: name for nid, name in rooms.items() if nid == one_room}
        senders: list[int] | None = None
        if asked.senders is not None:
            senders = sorted((await self._interner.find_users(sorted(asked.senders))).values())
        if one_sender is not None:
            senders = [one_sender] if senders is None or one_sender in senders else []
        phrases = phrases_of(asked.term)
        search = Search(phrases, sorted(rooms), sorted(asked.keys), senders)
        askers: dict[int, Asker | None] = {}
        window = _Window(top=top)
        for _ in range(_WINDOWS_MOST):
            await self._look(requester, asked, search, rooms, askers, window)
            if window.hits or window.rest is None:
                break
            window = replace(window, top=window.rest, rest=None)
        if asked.by_rank and window.hits:
            nids = [hit.nid for hit, _ in window.hits]
            texts = await self._database.read(load_texts, nids)
            window.ranks = {nid: _rank(texts.get(nid, []), phrases) for nid in nids}
            window.hits.sort(key=lambda one: (-window.ranks[one[0].nid], -one[0].place))
        return await self._write(asked, askers, window, skip)

    async def _rooms(self, requester: Requester, wanted: Filter) -> dict[int, str]:
        """The rooms to search: nid -> id."""
        standings = self._index.rooms_of(requester.user_nid).items()
        nids = [
            nid
            for nid, one in standings
            if one.membership in _WAS_THERE and not one.forgotten and not one.outside
        ]
        names = await self._interner.room_names(nids)
        return {nid: name for nid, name in names.items() if wanted.rooms.accepts(name)}

    async def _look(
        self,
        requester: Requester,
        asked: SearchAsked,
        search: Search,
        rooms: Mapping[int, str],
        askers: dict[int, Asker | None],
        window: _Window,
    ) -> None:
        hits = await self._database.read(find_hits, search, window.top, _WINDOW)
        for room_nid in dict.fromkeys(hit.room_nid for hit in hits):
            if room_nid not in askers:
                askers[room_nid] = await self._asker(requester, rooms[room_nid])
        window.hits = await self._database.read(_find_visible, self._archive, askers, hits, asked.wanted)
        if hits and window.top == NEWEST_PLACE:
            # The next page is of the same window, although more is said meanwhile.
            window.top = hits[0].place + 1
        window.rest = hits[-1].place if len(hits) == _WINDOW else None

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
        self, asked: SearchAsked, askers: Mapping[int, Asker | None], window: _Window, skip: int
    ) -> bytes:
        end = skip + asked.limit
        shown = window.hits[skip:end]
        more = _next_token(window, end)
        results: list[bytes] = []
        for hit, found in shown:
            asker = askers[hit.room_nid]
            assert asker is not None
            event, context = await self._database.read(
                _write_result, self._archive, asker, found, asked.context
            )
            rank = _encode(window.ranks.get(hit.nid, 1.0))
            results.append(b'{"rank":%b,"result":%b%b}' % (rank, event, context))
        parts = [
            b'"count":%d,"highlights":%b,"results":%b'
            % (len(window.hits), _encode(_highlights(asked.term)), join(results))
        ]
        if asked.with_state:
            states: list[bytes] = []
            for room_nid in dict.fromkeys(hit.room_nid for hit, _ in shown):
                asker = askers[room_nid]
                assert asker is not None
                state = await self._database.read(_write_current, self._archive, asker)
                states.append(_encode(asker.sight.room_id) + b":" + state)
            parts.append(b'"state":{' + b",".join(states) + b"}")
        if asked.groups:
            named = {one.sight.room_nid: one.sight.room_id for one in askers.values() if one is not None}
            users = await self._interner.find_users(sorted({found.event.sender for _, found in shown}))
            groups = _group(asked, window, skip, more is not None, named, users)
            parts.append(b'"groups":' + _encode(groups))
        if more is not None:
            parts.append(b'"next_batch":' + _encode(more))
        return b"{" + b",".join(parts) + b"}"


def _parse_token(token: str | None) -> tuple[int, int, int | None, int | None]:
    """A window's top, how much of it was shown, and a group's room or sender."""
    if token is None:
        return NEWEST_PLACE, 0, None, None
    found = _TOKEN.fullmatch(token)
    if found is None or not found[1].isascii() or int(found[1]) > NEWEST_PLACE:
        raise invalid_param("next_batch is not a token of a search")
    nid = int(found[4]) if found[4] else None
    return int(found[1]), int(found[2]), nid if found[3] == "r" else None, nid if found[3] == "u" else None


def _next_token(window: _Window, end: int) -> str | None:
    if end < len(window.hits):
        return f"s{window.top}_{end}"
    return f"s{window.rest}_0" if window.rest is not None else None


def _highlights(term: str) -> list[str]:
    # As they were typed: clients look for them in what they show.
    return list(dict.fromkeys(re.findall(r"\w+", term.casefold())))[:50]


def _rank(words: Sequence[str], phrases: Sequence[Sequence[str]]) -> float:
    """How closely a text fits, from 0 to 1: how often each word stands in it, for its length."""
    total = 0.0
    for phrase in phrases:
        exact = sum(word in phrase for word in words)
        near = sum(word not in phrase and word.startswith(phrase[-1]) for word in words)
        times = exact + near / 2
        total += times / (times + 1.2 * (0.25 + 0.75 * len(words) / 16))
    return round(total / max(len(phrases), 1), 6)


def _group(
    asked: SearchAsked,
    window: _Window,
    skip: int,
    goes_on: bool,
    rooms: Mapping[int, str],
    users: Mapping[str, int],
) -> dict[str, Any]:
    end = skip + asked.limit
    found: dict[str, Any] = {}
    for key in asked.groups:
        groups: dict[str, Any] = {}
        shown: dict[str, int] = {}
        for place, (hit, one) in enumerate(window.hits[:end]):
            name = rooms[hit.room_nid] if key == "room_id" else one.event.sender
            shown[name] = shown.get(name, 0) + 1
            if place < skip:
                continue
            group = groups.setdefault(name, {"results": [], "order": len(groups) + 1})
            group["results"].append(one.event.event_id)
            if goes_on and not asked.by_rank:
                # By rank there is none: the order within a group's own windows would be another.
                nid = f"r{hit.room_nid}" if key == "room_id" else f"u{users[name]}"
                group["next_batch"] = f"s{window.top}_{shown[name]}_{nid}"
        found[key] = groups
    return found


def _find_visible(
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


def _write_result(
    tx: Tx, archive: Archive, asker: Asker, found: Found, context: ContextAsked | None
) -> tuple[bytes, bytes]:
    """The event, and the member of the result that says what is around it."""
    if context is None:
        return write_events(tx, archive, asker, [found])[0], b""
    sight, ignored, pos = asker.sight, asker.ignored, found.row.pos
    assert pos is not None
    before = scan(
        tx, archive, sight, BEGINNING, pos - 1, context.before, None, backwards=True, ignored=ignored
    )
    after = scan(tx, archive, sight, pos, sight.upto, context.after, None, backwards=False, ignored=ignored)
    shown = [*before.found, found, *after.found]
    written = write_events(tx, archive, asker, shown)
    at = len(before.found)
    oldest = min(one.row.pos for one in shown[: at + 1] if one.row.pos is not None)
    start = before.edge if before.edge is not None else oldest - 1
    end = sight.upto if after.edge is None else after.edge
    profiles = b""
    if context.profiles:
        profiles = b',"profile_info":' + _encode(_profiles(write_senders(tx, archive, asker, shown)))
    return written[at], b',"context":{"start":%b,"end":%b,"events_before":%b,"events_after":%b%b}' % (
        _encode(timeline_token(start)),
        _encode(timeline_token(end)),
        join(written[:at]),
        join(written[at + 1 :]),
        profiles,
    )


def _profiles(members: Collection[bytes]) -> dict[str, dict[str, str]]:
    """What membership events say of the profiles of their users, by user id."""
    found: dict[str, dict[str, str]] = {}
    for member in map(msgspec.json.decode, members):
        content = member["content"]
        named = {name: content.get(name) for name in ("displayname", "avatar_url")}
        found[member["state_key"]] = {name: value for name, value in named.items() if isinstance(value, str)}
    return found


def _write_current(tx: Tx, archive: Archive, asker: Asker) -> bytes:
    """The state of the room, as it is or as it was when the searcher left."""
    sight = asker.sight
    if sight.joined:
        state = load_state(tx, [sight.room_nid]).get(sight.room_nid, {})
    else:
        newest = load_span(tx, sight.room_nid, BEGINNING, sight.upto, 1, backwards=True)
        state = state_after(tx, newest, archive.facts.bases) if newest else {}
    return join(write_state(tx, archive, asker, list(state.values())))
