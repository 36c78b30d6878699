"""Filters that clients define beforehand. spec: client-server-api#filtering"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from federation.errors import Malformed
from federation.ids import parse_room_id, parse_user_id_historical
from homeserver.accounts.types import Requester
from homeserver.db.threads import Database
from homeserver.http.errors import bad_json, not_found
from homeserver.http.request import decode_json
from homeserver.store import filters
from homeserver.store.work import Worker

MAX_FILTER_BYTES = 65_536

_Names = Annotated[list[str], msgspec.Meta(max_length=1000)]
_Limit = Annotated[int, msgspec.Meta(gt=0)]


class EventFilter(msgspec.Struct):
    """spec: client-server-api#post_matrixclientv3useruseridfilter (EventFilter)"""

    limit: _Limit | None = None
    not_senders: _Names | None = None
    not_types: _Names | None = None
    senders: _Names | None = None
    types: _Names | None = None


class RoomEventFilter(EventFilter):
    """The same with what only rooms have."""

    unread_thread_notifications: bool | None = None
    lazy_load_members: bool | None = None
    include_redundant_members: bool | None = None
    not_rooms: _Names | None = None
    rooms: _Names | None = None
    contains_url: bool | None = None


class RoomFilter(msgspec.Struct):
    """Which rooms, and what of them."""

    not_rooms: _Names | None = None
    rooms: _Names | None = None
    ephemeral: RoomEventFilter | None = None
    include_leave: bool | None = None
    state: RoomEventFilter | None = None
    timeline: RoomEventFilter | None = None
    account_data: RoomEventFilter | None = None


class Filter(msgspec.Struct):
    """A whole filter. Unknown fields are kept, and left to those who know them."""

    event_fields: _Names | None = None
    event_format: Literal["client", "federation"] | None = None
    presence: EventFilter | None = None
    account_data: EventFilter | None = None
    room: RoomFilter | None = None


def check_filter(body: bytes) -> dict[str, Any]:
    """The filter as it is, if it has the specified shape; else 400."""
    checked: Filter = decode_json(body, Filter)
    room = checked.room or RoomFilter()
    parts = [room.ephemeral, room.state, room.timeline, room.account_data]
    room_lists = [room.rooms, room.not_rooms]
    for part in parts:
        if part is not None:
            room_lists += [part.rooms, part.not_rooms]
    user_lists: list[list[str] | None] = []
    for each in (*parts, checked.presence, checked.account_data):
        if each is not None:
            user_lists += [each.senders, each.not_senders]
    try:
        for names in room_lists:
            for name in names or ():
                parse_room_id(name)
        for names in user_lists:
            for name in names or ():
                parse_user_id_historical(name)
    except Malformed as error:
        raise bad_json(str(error)) from None
    whole: dict[str, Any] = decode_json(body)
    return whole


class Filters:
    """The filters that users have defined."""

    def __init__(self, database: Database, worker: Worker) -> None:
        self._database = database
        self._worker = worker

    async def define(self, requester: Requester, body: bytes) -> str:
        """Keep a filter; returns its id."""
        # Sorted, so that the same filter is known again however it is written.
        text = msgspec.json.encode(check_filter(body), order="sorted").decode()
        known = await self._database.read(filters.find_filter, requester.user_nid, text)
        if known is None:
            known = await self._worker.work(filters.store_filter, requester.user_nid, text)
        return str(known)

    async def get(self, requester: Requester, filter_id: str) -> bytes:
        """A filter's JSON."""
        text = None
        if filter_id.isascii() and filter_id.isdigit() and len(filter_id) <= 9:
            text = await self._database.read(filters.load_filter, requester.user_nid, int(filter_id))
        if text is None:
            raise not_found("There is no such filter")
        return text.encode()
