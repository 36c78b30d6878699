"""The published room directory: which rooms it lists, in which order, page by page.

What is shown of a room is kept in memory as long as nothing of it changes: ``apply`` follows the log and notes the
rooms to look at again, and the next question reads those, all at once. Memory: some 1 KB for each published room.
spec: client-server-api#published-room-directory
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from federation.ids import RoomId, is_content_uri, is_room_alias
from homeserver.http.errors import UserLimitReachedError, forbidden, invalid_param, not_found
from homeserver.rooms.aliases import CANONICAL, may_send_state
from homeserver.rooms.registry import RoomRegistry
from homeserver.rooms.types import Requester
from homeserver.store.changes import Change, Kind
from homeserver.store.directory import (
    LISTED_MOST,
    RoomFacts,
    TooManyListedError,
    is_published,
    list_in_network,
    load_facts,
    load_published,
    network_name,
    set_published,
)
from homeserver.store.ids import Interner
from homeserver.store.placement import MOVING
from homeserver.store.work import Worker
from homeserver.stream.index import MembershipIndex

PAGE_MOST = 500
PAGE_DEFAULT = 100
# LIMIT(searching goes through every room, so terms are short)
TERM_LONGEST = 500

_TOKEN = re.compile(r"([fb])([0-9]{1,12})_([0-9]{1,18})", re.ASCII)

Place = tuple[int, int]  # minus the number of members, room nid: the order of the list


@dataclass(frozen=True, slots=True)
class Entry:
    """A room as the directory shows it."""

    place: Place
    shown: dict[str, Any]
    searched: str
    room_type: str | None
    published: bool = True
    networks: frozenset[str] = frozenset()
    federated: bool = True  # users of other servers could join


@dataclass(frozen=True, slots=True)
class Query:
    """What a client wants to see."""

    limit: int = PAGE_DEFAULT
    since: str | None = None
    term: str = ""
    room_types: Collection[str | None] | None = None
    network: str | None = None  # the rooms of this network alone
    all_networks: bool = False  # those of networks beside those that are published
    from_afar: bool = False  # another server asks: for rooms into which its users could come


class Directory:
    """The directory of this server."""

    def __init__(
        self, rooms: RoomRegistry, worker: Worker, interner: Interner, index: MembershipIndex
    ) -> None:
        self._rooms = rooms
        self._database = rooms.tools.database
        self._worker = worker
        self._interner = interner
        self._index = index
        self._entries: dict[int, Entry] = {}
        self._stale: dict[int, int] = {}  # rooms to look at again -> which change of theirs asks for it
        self._marks = 0
        self._listening = False
        self._loaded = False
        self._order: list[Entry] | None = None
        self._has_networks = False

    # --- one room ------------------------------------------------------------------------------------

    async def is_published(self, room_id: RoomId) -> bool:
        """Whether a room is listed; 404 for an unknown one."""
        # spec: client-server-api#get_matrixclientv3directorylistroomroomid
        room_nid = await self._interner.find_room(room_id)
        if room_nid is None:
            raise not_found("Room not found")
        return await self._database.read(is_published, room_nid)

    async def publish(
        self, requester: Requester, room_id: RoomId, published: bool, *, is_admin: bool = False
    ) -> None:
        """List a room or no longer: for those who may set its canonical alias, and administrators."""
        # spec: client-server-api#put_matrixclientv3directorylistroomroomid
        actor = await self._rooms.find(room_id)
        if not is_admin:
            allowed = await actor.run(lambda turn: may_send_state(turn, requester.user_id, CANONICAL))
            if not allowed:
                raise forbidden("You may not change this room's visibility in the directory")
        await self._worker.work(set_published, actor.room_nid, published)

    async def list_in_network(self, service_id: str, network_id: str, room_id: RoomId, listed: bool) -> None:
        """List a room in a network of an application service, or no longer."""
        # spec: application-service-api#put_matrixclientv3directorylistappservicenetworkidroomid
        room_nid = await self._interner.find_room(room_id)
        if room_nid is None:
            raise not_found("Room not found")
        try:
            await self._worker.work(list_in_network, service_id, network_id, room_nid, listed)
        except TooManyListedError:
            raise UserLimitReachedError(f"At most {LISTED_MOST} rooms can be listed in networks") from None

    # --- the list ------------------------------------------------------------------------------------

    async def page(self, query: Query) -> dict[str, Any]:
        """A page of the list: rooms with many members first, then by age; those alone in which this server is."""
        # spec: client-server-api#post_matrixclientv3publicrooms
        order = await self._sorted()
        if query.network is not None:
            order = [entry for entry in order if query.network in entry.networks]
        elif not query.all_networks and self._has_networks:
            order = [entry for entry in order if entry.published]
        if query.from_afar:
            order = [entry for entry in order if entry.federated]
        if query.term or query.room_types is not None:
            order = _filtered(order, query)
        limit = min(query.limit or PAGE_DEFAULT, PAGE_MOST)
        start, end = _bounds(order, query.since, limit)
        result: dict[str, Any] = {
            "chunk": [entry.shown for entry in order[start:end]],
            "total_room_count_estimate": len(order),
        }
        if end < len(order) and end > 0:
            result["next_batch"] = _token("f", order[end - 1].place)
        if start > 0:
            first = order[start].place if start < len(order) else (0, 2**53)
            result["prev_batch"] = _token("b", first)
        return result

    async def _sorted(self) -> list[Entry]:
        if not self._loaded:
            self._listening = True
            published = await self._database.read(load_published)
            if not self._loaded:
                self._loaded = True
                self._mark(published)
        while self._stale:
            marks = dict(self._stale)
            found = {facts.room_nid: facts for facts in await self._database.read(load_facts, sorted(marks))}
            for room_nid, mark in marks.items():
                # Where the mark is another one, the room changed meanwhile; where it is gone, somebody else was here.
                if self._stale.get(room_nid) == mark:
                    del self._stale[room_nid]
                    self._keep(room_nid, found.get(room_nid))
        if self._order is None:
            # Nobody joins a room by a server that is not in it. It stays among the entries: its next move may be that
            # somebody comes back.
            living = [entry for nid, entry in self._entries.items() if self._index.local_members(nid)]
            self._order = sorted(living, key=lambda entry: entry.place)
            self._has_networks = any(entry.networks for entry in self._order)
        return self._order

    def _keep(self, room_nid: int, facts: RoomFacts | None) -> None:
        self._order = None
        if facts is None:
            self._entries.pop(room_nid, None)
        else:
            self._entries[room_nid] = _entry(facts)

    def _mark(self, room_nids: Iterable[int]) -> None:
        self._marks += 1
        self._stale.update((room_nid, self._marks) for room_nid in room_nids)

    kinds = MOVING | {Kind.DIRECTORY}  # what ``apply`` looks at

    def apply(self, changes: Sequence[Change]) -> None:
        """Note the rooms that must be looked at again. Subscribed to the log."""
        if not self._listening:
            return
        for change in changes:
            if change.kind == Kind.DIRECTORY:
                self._mark((change.topic,))
            elif change.kind == Kind.EVENT and (change.topic in self._entries or change.topic in self._stale):
                # A redaction may take a name away; messages change nothing that is shown.
                placed = change.payload
                if placed is None or placed.moves or placed.redacts_target is not None:
                    self._mark((change.topic,))
            elif change.kind == Kind.STATE_MOVED:
                self._mark((change.topic,))


def _filtered(order: list[Entry], query: Query) -> list[Entry]:
    words = query.term.casefold()
    types = query.room_types
    return [
        entry for entry in order if words in entry.searched and (types is None or entry.room_type in types)
    ]


def _bounds(order: list[Entry], since: str | None, limit: int) -> tuple[int, int]:
    """Where the page lies. A token names a place in the order and not a number of rooms, so it survives changes."""
    if not since:
        return 0, min(limit, len(order))
    match = _TOKEN.fullmatch(since)
    if match is None:
        raise invalid_param("since is not a token of this list")
    place = (-int(match[2]), int(match[3]))
    if match[1] == "f":
        start = bisect_right(order, place, key=lambda entry: entry.place)
        return start, min(start + limit, len(order))
    end = bisect_left(order, place, key=lambda entry: entry.place)
    return max(0, end - limit), end


def _token(direction: str, place: Place) -> str:
    return f"{direction}{-place[0]}_{place[1]}"


def _text(facts: RoomFacts, event_type: str, key: str) -> str | None:
    value = facts.contents.get(event_type, {}).get(key)
    return value if isinstance(value, str) and value else None


def _plain_topic(facts: RoomFacts) -> str | None:
    """The topic's text/plain form where it has forms, else the plain field."""
    # spec: client-server-api#mroomtopic
    block = facts.contents.get("m.room.topic", {}).get("m.topic")
    forms = block.get("m.text") if isinstance(block, dict) else None
    for form in forms if isinstance(forms, list) else ():
        if isinstance(form, dict) and form.get("mimetype", "text/plain") == "text/plain":
            body = form.get("body")
            if isinstance(body, str) and body:
                return body
    return _text(facts, "m.room.topic", "topic")


def is_federated(facts: RoomFacts) -> bool:
    """Whether users of other servers could join the room. # spec: client-server-api#mroomcreate"""
    return facts.contents.get("m.room.create", {}).get("m.federate") is not False


def shown_of(facts: RoomFacts) -> dict[str, Any]:
    """A room as lists show it."""
    # spec: client-server-api#get_matrixclientv3publicrooms (PublishedRoomsChunk)
    shown: dict[str, Any] = {
        "room_id": facts.room_id,
        "num_joined_members": facts.joined,
        "world_readable": _text(facts, "m.room.history_visibility", "history_visibility") == "world_readable",
        "guest_can_join": _text(facts, "m.room.guest_access", "guest_access") == "can_join",
    }
    optional = {
        "canonical_alias": _text(facts, CANONICAL, "alias"),
        "name": _text(facts, "m.room.name", "name"),
        "topic": _plain_topic(facts),
        "avatar_url": _text(facts, "m.room.avatar", "url"),
        "join_rule": _text(facts, "m.room.join_rules", "join_rule") or "invite",
        "room_type": _text(facts, "m.room.create", "type"),
    }
    # Events may say anything; clients are promised what has this form.
    if not is_room_alias(optional["canonical_alias"]):
        optional["canonical_alias"] = None
    if not is_content_uri(optional["avatar_url"]):
        optional["avatar_url"] = None
    shown.update((key, value) for key, value in optional.items() if value is not None)
    return shown


def _entry(facts: RoomFacts) -> Entry:
    shown = shown_of(facts)
    words = (shown.get("name"), shown.get("topic"), shown.get("canonical_alias"), facts.room_id)
    searched = "\n".join(word.casefold() for word in words if word)
    networks = frozenset(network_name(*one) for one in facts.networks)
    place = (-facts.joined, facts.room_nid)
    return Entry(
        place, shown, searched, shown.get("room_type"), facts.published, networks, is_federated(facts)
    )
