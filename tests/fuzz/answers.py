"""Answers of other servers about profiles, aliases, directories and spaces: nothing but what they may be comes out."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import msgspec
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock as TaskClock
from twisted.python.failure import Failure

from federation.ids import RoomAlias, RoomId, ServerName, parse_room_id, parse_server_name
from homeserver.http.errors import MatrixError
from homeserver.peers.queries import Queries
from homeserver.peers.spaces import SpaceQueries
from homeserver.rooms.reads.room_views import view_of_remote
from homeserver.rooms.reads.space_links import links_of
from homeserver.runtime.clock import TwistedClock
from tests.fuzz.harness import JSON, main, mutated
from tests.support.peers import ScriptedPeers

ROOM = "!r:far.example"
_ROOM = {
    "room_id": ROOM,
    "num_joined_members": 3,
    "world_readable": True,
    "guest_can_join": False,
    "name": "r",
    "join_rule": "restricted",
    "room_version": "11",
    "room_type": "m.space",
    "allowed_room_ids": ["!a:b"],
    "children_state": [
        {
            "type": "m.space.child",
            "state_key": "!c:d",
            "content": {"via": ["d"], "order": "x", "suggested": True},
            "sender": "@a:d",
            "origin_server_ts": 7,
        }
    ],
}
_TEMPLATE = {
    "displayname": "Bob",
    "avatar_url": "mxc://a/b",
    "room_id": ROOM,
    "servers": ["a.example", "b.example:8448"],
    "chunk": [_ROOM],
    "next_batch": "n",
    "total_room_count_estimate": 1,
    "room": _ROOM,
    "children": [_ROOM],
    "inaccessible_children": ["!x:y"],
}
STRATEGY = st.one_of(
    mutated(_TEMPLATE), mutated(_TEMPLATE), st.dictionaries(st.text(max_size=10), JSON, max_size=5)
)


def outcome(work: Coroutine[Any, Any, Any]) -> Any:
    """What was answered, or None for a refusal of the kind that clients may get."""
    results: list[Any] = []
    Deferred.fromCoroutine(work).addBoth(results.append)
    (result,) = results
    if isinstance(result, Failure):
        error = result.value
        assert isinstance(error, MatrixError), result.getTraceback()
        assert error.status in (403, 404, 429, 502), error
        return None
    return result


def target(answer: Any) -> None:
    try:
        # What no JSON can say does not come from the wire.
        msgspec.json.encode(answer)
    except (UnicodeEncodeError, msgspec.MsgspecError, OverflowError, ValueError):
        return
    peers, clock = ScriptedPeers(lambda _: answer), TwistedClock(TaskClock())
    queries, spaces = Queries(peers, clock), SpaceQueries(peers, clock)
    profile = outcome(queries.profile("@bob:far.example", None))
    assert profile is not None
    assert all(isinstance(profile.get(name, ""), str) for name in ("displayname", "avatar_url"))
    found = outcome(queries.alias(RoomAlias("#a:far.example")))
    if found is not None:
        parse_room_id(found[0])
        assert [parse_server_name(name) for name in found[1]]
    page = outcome(queries.public_rooms(ServerName("far.example"), {}, filtered=True))
    for room in page["chunk"] if page is not None else ():
        parse_room_id(room["room_id"])
        assert type(room["num_joined_members"]) is int
    space = outcome(spaces.ask(ServerName("far.example"), RoomId(ROOM), suggested_only=False))
    if space is not None:
        for one in (space.room, *space.children.values()):
            view = view_of_remote(one)
            assert all(parse_room_id(room_id) for room_id in view.allowed_rooms)
            links, events = links_of(view.children, suggested_only=False)
            assert len(links) == len(events)
    msgspec.json.encode([profile, page])


if __name__ == "__main__":
    main(STRATEGY, target)
