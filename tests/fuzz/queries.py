"""What clients put into query strings and small bodies: tokens, filters, and the query itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from hypothesis import strategies as st

from homeserver.http.errors import MatrixError
from homeserver.http.request import parse_query
from homeserver.stream.tokens import parse_sync_token, parse_timeline_token, timeline_token
from homeserver.sync.filters import parse_filter, pick_fields
from tests.fuzz.harness import JSON, TEXT, main, mutated

_EVENTS = {
    "limit": 10,
    "types": ["m.room.*"],
    "not_types": ["m.*"],
    "senders": ["@a:b"],
    "not_senders": ["@c:d"],
    "lazy_load_members": True,
    "include_redundant_members": False,
    "contains_url": True,
    "rooms": ["!r:b"],
    "not_rooms": [],
}
_FILTER = {
    "event_fields": ["content.body", "type"],
    "event_format": "client",
    "presence": _EVENTS,
    "account_data": _EVENTS,
    "room": {"timeline": _EVENTS, "state": _EVENTS, "ephemeral": _EVENTS, "include_leave": True, "rooms": []},
}
_EVENT = {"type": "m.room.message", "content": {"body": "x", "a.b": {"c": 1}}, "sender": "@a:b"}
_TOKEN = st.from_regex(r"[a-z]?-?[0-9]{0,25}([_~.][a-z0-9]{0,12}){0,3}", fullmatch=True)
STRATEGY = st.tuples(
    st.one_of(TEXT, _TOKEN),
    st.one_of(JSON, mutated(_FILTER)),
    st.one_of(st.binary(max_size=60), st.from_regex(rb"([a-c]=[%0-9a-f+]{0,6}&?){0,5}", fullmatch=True)),
)


def refused_properly(call: Callable[[], Any]) -> Any:
    """Run a parser: it may refuse, as a client error, but nothing else may come out of it."""
    try:
        return call()
    except MatrixError as error:
        assert 400 <= error.status < 500, error.status
        return None


def target(value: tuple[str, Any, bytes]) -> None:
    token, wanted, query = value
    position = refused_properly(partial(parse_timeline_token, token))
    if position is not None:
        assert parse_timeline_token(timeline_token(position)) == position
        # Positions are columns of eight bytes.
        assert -(2**63) <= position < 2**63
    since = refused_properly(partial(parse_sync_token, token, "boot"))
    if since is not None:
        assert 0 <= since.pos < 2**63
    try:
        text = msgspec.json.encode(wanted)
    except (UnicodeEncodeError, msgspec.MsgspecError, OverflowError):
        text = token.encode("utf-8", "replace")
    parsed = refused_properly(partial(parse_filter, text))
    if parsed is not None:
        for part in (parsed.timeline, parsed.state, parsed.ephemeral, parsed.presence, parsed.account_data):
            assert part.limit >= 0
            part.accepts("m.room.message", "@a:b", has_url=True)
        picked = pick_fields(_EVENT, parsed.event_fields or ())
        assert set(picked) <= set(_EVENT)
    found = refused_properly(partial(parse_query, query))
    if found is not None:
        for name, values in found.items():
            assert values
            assert "\0" not in name + "".join(values)
            (name + "".join(values)).encode("utf-8")


if __name__ == "__main__":
    main(STRATEGY, target)
