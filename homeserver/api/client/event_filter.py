"""The ``filter`` argument of endpoints that list the events of one room.

# spec: client-server-api#filtering
"""

from __future__ import annotations

import msgspec

from homeserver.http.errors import bad_json
from homeserver.http.request import Request, decode_json
from homeserver.sync.filters import EventFilter, parse_filter

# LIMIT(compiling a filter takes time in proportion)
_MAX_TEXT = 32 * 1024


def event_filter(request: Request) -> EventFilter | None:
    """The filter of the query, compiled; None where there is none."""
    text = request.arg("filter")
    if not text:
        return None
    if len(text) > _MAX_TEXT:
        raise bad_json("The filter is too large")
    timeline = decode_json(text.encode(), dict)
    if not timeline:
        return None
    # A RoomEventFilter is the timeline part of a whole filter.
    return parse_filter(msgspec.json.encode({"room": {"timeline": timeline}})).timeline


def page_limit(request: Request, wanted: EventFilter | None, maximum: int) -> int:
    """How many events to list: the query's limit, else the filter's, else the specification's 10."""
    return request.int_arg(
        "limit", 10 if wanted is None else min(wanted.limit, maximum), maximum=maximum, clamp=True
    )
