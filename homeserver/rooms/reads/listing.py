"""Every room that this server knows, for those in charge: found by name, in many orders, page by page.

Nothing of it is kept: each question goes through the facts of all rooms, some at a time, so that others are served between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from federation.ids import RoomId
from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.http.errors import not_found
from homeserver.rooms.directory import is_federated
from homeserver.store.events import load_head
from homeserver.store.ids import Interner
from homeserver.store.room_listing import (
    ListedRoom,
    RoomMore,
    load_joined_names,
    load_listed_rooms,
    load_local_members_of,
    load_more,
    load_room_nids,
)

# Rooms that are read in one unit of work.
_AT_ONCE: Final = 500
_FIELDS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "name": ("m.room.name", "name"),
        "canonical_alias": ("m.room.canonical_alias", "alias"),
        "encryption": ("m.room.encryption", "algorithm"),
        "join_rules": ("m.room.join_rules", "join_rule"),
        "guest_access": ("m.room.guest_access", "guest_access"),
        "history_visibility": ("m.room.history_visibility", "history_visibility"),
        "room_type": ("m.room.create", "type"),
        "topic": ("m.room.topic", "topic"),
        "avatar": ("m.room.avatar", "url"),
        "replacement_room": ("m.room.tombstone", "replacement_room"),
    }
)


@dataclass(frozen=True, slots=True)
class RoomsWanted:
    """Which rooms, and in which order; None: whatever they are."""

    term: str = ""
    public: bool | None = None
    empty: bool | None = None
    order_by: str = "name"
    backwards: bool = False


class RoomDetails(NamedTuple):
    """One room, whole."""

    room: ListedRoom
    more: RoomMore


def text_of(room: ListedRoom, name: str) -> str | None:
    """What the room's state says for one of the fields that are texts; events may say anything, which is None then."""
    event_type, key = _FIELDS[name]
    value = room.facts.contents.get(event_type, {}).get(key)
    return value if isinstance(value, str) and value else None


def is_federatable(room: ListedRoom) -> bool:
    """Whether users of other servers may join."""
    return is_federated(room.facts)


def _by_text(name: str) -> Callable[[ListedRoom], Any]:
    return lambda room: (text_of(room, name) or "").casefold()


# What is counted comes with the most first; ``version`` too.
_ORDERS: Final[Mapping[str, Callable[[ListedRoom], Any]]] = MappingProxyType(
    {
        **{
            name: _by_text(name)
            for name in (
                "name",
                "canonical_alias",
                "encryption",
                "join_rules",
                "guest_access",
                "history_visibility",
            )
        },
        "creator": lambda room: room.creator_id or "",
        "version": lambda room: tuple(-ord(letter) for letter in room.facts.version.zfill(10)),
        "federatable": is_federatable,
        "public": lambda room: room.facts.published,
        "joined_members": lambda room: -room.facts.joined,
        "joined_local_members": lambda room: -room.joined_local,
        "state_events": lambda room: -room.state_events,
    }
)
_OLD_NAMES: Final = MappingProxyType({"alphabetical": "name", "size": "joined_members"})
ORDERS: Final = frozenset(_ORDERS) | frozenset(_OLD_NAMES)


class RoomListing:
    """See the module."""

    def __init__(self, database: Database, interner: Interner) -> None:
        self._database = database
        self._interner = interner

    async def page(self, wanted: RoomsWanted, skip: int, most: int) -> tuple[list[ListedRoom], int]:
        """A page of the rooms, and how many there are in all. ``order_by`` MUST be one of ``ORDERS``."""
        nids = await self._database.read(load_room_nids)
        found: list[ListedRoom] = []
        for start in range(0, len(nids), _AT_ONCE):
            rooms = await self._database.read(load_listed_rooms, nids[start : start + _AT_ONCE])
            found += [room for room in rooms if _fits(room, wanted)]
        key = _ORDERS[_OLD_NAMES.get(wanted.order_by, wanted.order_by)]
        # Who is equal stays in the order of the room ids, either way.
        found.sort(key=lambda room: room.facts.room_id)
        found.sort(key=key, reverse=wanted.backwards)
        return found[skip : skip + most], len(found)

    async def details(self, room_id: RoomId) -> RoomDetails:
        """One room; 404 where this server does not know its state."""
        found = await self._database.read(_load_details, await self._nid(room_id))
        if found is None:
            raise _no_room()
        return found

    async def joined(self, room_id: RoomId) -> list[str]:
        """Who is in a room, by user id."""
        return await self._database.read(load_joined_names, await self._nid(room_id))

    async def is_known(self, room_id: RoomId) -> bool:
        """Whether this server has anything to do with a room: knows its state, or has a user who is invited there."""
        nid = await self._interner.find_room(room_id)
        return nid is not None and await self._database.read(_has_traces, nid)

    async def _nid(self, room_id: RoomId) -> int:
        nid = await self._interner.find_room(room_id)
        if nid is None or await self._interner.room_version(nid) is None:
            raise _no_room()
        return nid


def _fits(room: ListedRoom, wanted: RoomsWanted) -> bool:
    if wanted.public is not None and room.facts.published is not wanted.public:
        return False
    if wanted.empty is not None and (room.facts.joined == 0) is not wanted.empty:
        return False
    if not wanted.term:
        return True
    term = wanted.term.casefold()
    name = (text_of(room, "name") or "").casefold()
    alias = (text_of(room, "canonical_alias") or "").casefold().partition(":")[0]
    return term in name or term in alias or wanted.term in room.facts.room_id


def _load_details(tx: Tx, room_nid: int) -> RoomDetails | None:
    rooms = load_listed_rooms(tx, [room_nid])
    return RoomDetails(rooms[0], load_more(tx, room_nid)) if rooms and rooms[0].state_events else None


def _has_traces(tx: Tx, room_nid: int) -> bool:
    return bool(load_local_members_of(tx, room_nid) or load_head(tx, room_nid))


def _no_room() -> Exception:
    return not_found("Room not found")
