"""Search in texts. spec: client-server-api#server-side-search"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from homeserver.http.errors import bad_json
from homeserver.http.request import Request
from homeserver.http.route import Route
from homeserver.rooms.reads.search import Searches
from homeserver.rooms.reads.search_pages import ContextAsked, SearchAsked
from homeserver.sync.filters import parse_filter

_KEYS: dict[str, str] = {"content.body": "body", "content.name": "name", "content.topic": "topic"}
_TYPES = {"m.room.message": "body", "m.room.name": "name", "m.room.topic": "topic"}
_CONTEXT, _CONTEXT_MOST = 5, 20
_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Context(msgspec.Struct):
    before_limit: _Count | None = None
    after_limit: _Count | None = None
    include_profile: bool | None = None


class _Group(msgspec.Struct):
    key: Literal["room_id", "sender"]


class _Groupings(msgspec.Struct):
    group_by: Annotated[list[_Group], msgspec.Meta(max_length=10)] | None = None


class _RoomEvents(msgspec.Struct):
    search_term: str
    keys: list[Literal["content.body", "content.name", "content.topic"]] | None = None
    filter: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    order_by: Literal["recent", "rank"] | None = None
    event_context: _Context | None = None
    include_state: bool | None = None
    groupings: _Groupings | None = None


class _Categories(msgspec.Struct):
    room_events: _RoomEvents | None = None


class _Body(msgspec.Struct):
    search_categories: _Categories


class SearchApi:
    """``/search``."""

    def __init__(self, searches: Searches) -> None:
        self._searches = searches

    def routes(self) -> list[Route]:
        return [
            Route(
                method="POST",
                template="/_matrix/client/v3/search",
                handler=self.search,
                limit="search",
                spec="client-server-api#post_matrixclientv3search",
                suspended_may=True,
            )
        ]

    async def search(self, request: Request) -> bytes:
        asked = request.json(_Body).search_categories.room_events
        if asked is None:
            return b'{"search_categories":{}}'
        found = await self._searches.search(
            request.requester, _asked(asked, request.arg("next_batch") or None)
        )
        return b'{"search_categories":{"room_events":%b}}' % found


def _asked(json: _RoomEvents, token: str | None) -> SearchAsked:
    raw = b"{}" if json.filter is msgspec.UNSET else bytes(json.filter)
    # A RoomEventFilter is the timeline part of a whole filter.
    wanted = parse_filter(b'{"room":{"timeline":%b}}' % raw).timeline
    if wanted.limit < 1:
        raise bad_json("The limit of a search must be greater than 0")
    keys = frozenset(_KEYS.values() if json.keys is None else (_KEYS[key] for key in json.keys))
    keys &= {key for event_type, key in _TYPES.items() if wanted.accepts_type(event_type)}
    context = json.event_context
    groups = json.groupings.group_by if json.groupings is not None else None
    return SearchAsked(
        json.search_term,
        keys,
        json.order_by != "recent",
        wanted.limit,
        wanted,
        wanted.senders.allowed,
        tuple(dict.fromkeys(group.key for group in groups or ())),
        None if context is None else _surroundings(context),
        bool(json.include_state),
        token,
    )


def _surroundings(context: _Context) -> ContextAsked:
    before, after = (
        _CONTEXT if count is None else min(count, _CONTEXT_MOST)
        for count in (context.before_limit, context.after_limit)
    )
    return ContextAsked(before, after, bool(context.include_profile))
