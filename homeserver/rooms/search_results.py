"""The results of a search as bytes: the events, what is around each, the state of their rooms, and the groups.

# spec: client-server-api#server-side-search
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from homeserver.db.tx import Tx
from homeserver.rooms.reading import Archive, Asker, Found, scan, write_events, write_senders, write_state
from homeserver.rooms.search_pages import ContextAsked, SearchAsked, Window, group_token
from homeserver.store.client_events import join
from homeserver.store.history import BEGINNING, load_span, state_after
from homeserver.store.search_hits import Hit
from homeserver.store.timeline import load_state
from homeserver.stream.tokens import timeline_token

_encode = msgspec.json.Encoder().encode


def group_results(
    asked: SearchAsked, window: Window, skip: int, rooms: Mapping[int, str], users: Mapping[str, int]
) -> dict[str, Any]:
    """The ``groups`` of the answer: of each room or sender on the page its results, and where to go on with them."""
    end = skip + asked.limit
    answer: dict[str, Any] = {}
    for key in asked.groups:
        groups: dict[str, Any] = {}
        members: dict[str, list[int]] = {}
        tokens: dict[str, str] = {}
        for place, (hit, found) in enumerate(window.hits):
            name = rooms[hit.room_nid] if key == "room_id" else found.event.sender
            members.setdefault(name, []).append(place)
            if skip <= place < end:
                group = groups.setdefault(name, {"results": [], "order": len(groups) + 1})
                group["results"].append(found.event.event_id)
                tokens[name] = f"r{hit.room_nid}" if key == "room_id" else f"u{users[name]}"
        for name, group in groups.items():
            more = group_token(window, tokens[name], members[name], end, by_rank=asked.by_rank)
            if more is not None:
                group["next_batch"] = more
        answer[key] = groups
    return answer


def write_results(
    tx: Tx,
    archive: Archive,
    asked: SearchAsked,
    askers: Mapping[int, Asker],
    ranks: Mapping[int, float],
    shown: Sequence[tuple[Hit, Found]],
) -> bytes:
    """The members of the answer that hold events."""
    written = _write_plain(tx, archive, askers, shown) if asked.context is None else {}
    results: list[bytes] = []
    for hit, found in shown:
        context = b""
        event = written.get(hit.nid)
        if event is None:
            assert asked.context is not None
            event, context = _write_around(tx, archive, askers[hit.room_nid], found, asked.context)
        results.append(b'{"rank":%b,"result":%b%b}' % (_encode(ranks[hit.nid]), event, context))
    members = b'"results":' + join(results)
    if asked.with_state:
        rooms = [askers[room_nid] for room_nid in dict.fromkeys(hit.room_nid for hit, _ in shown)]
        states = [_encode(asker.sight.room_id) + b":" + _write_current(tx, archive, asker) for asker in rooms]
        members += b',"state":{' + b",".join(states) + b"}"
    return members


def _write_plain(
    tx: Tx, archive: Archive, askers: Mapping[int, Asker], shown: Sequence[tuple[Hit, Found]]
) -> dict[int, bytes]:
    """The events by nid, those of a room together."""
    by_room: dict[int, list[Found]] = {}
    for hit, found in shown:
        by_room.setdefault(hit.room_nid, []).append(found)
    written: dict[int, bytes] = {}
    for room_nid, of_room in by_room.items():
        texts = write_events(tx, archive, askers[room_nid], of_room)
        written |= {one.row.nid: text for one, text in zip(of_room, texts, strict=True)}
    return written


def _write_around(
    tx: Tx, archive: Archive, asker: Asker, found: Found, context: ContextAsked
) -> tuple[bytes, bytes]:
    """The event, and the member of the result that says what is around it."""
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
        profiles = b',"profile_info":' + _encode(_profiles(write_senders(tx, archive, asker, shown), shown))
    return written[at], b',"context":{"start":%b,"end":%b,"events_before":%b,"events_after":%b%b}' % (
        _encode(timeline_token(start)),
        _encode(timeline_token(end)),
        join(written[:at]),
        join(written[at + 1 :]),
        profiles,
    )


def _profiles(members: Collection[bytes], shown: Sequence[Found]) -> dict[str, dict[str, str]]:
    """The profiles of those who sent some events: by their memberships then, or by the event with which they came."""
    contents = {member["state_key"]: member["content"] for member in map(msgspec.json.decode, members)}
    for one in shown:
        event = one.event
        if event.type == "m.room.member" and event.state_key == event.sender and event.sender not in contents:
            contents[event.sender] = event.content_dict()
    found: dict[str, dict[str, str]] = {}
    for user_id, content in contents.items():
        named = {name: content.get(name) for name in ("displayname", "avatar_url")}
        found[user_id] = {name: value for name, value in named.items() if isinstance(value, str)}
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
