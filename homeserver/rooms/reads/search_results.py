"""The results of a search as bytes: the events, what is around each, the state of their rooms, and the groups.

# spec: client-server-api#server-side-search
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from homeserver.db.tx import Tx
from homeserver.rooms.reads.reading import (
    Archive,
    Asker,
    Found,
    before_all,
    scan,
    write_events,
    write_state,
)
from homeserver.rooms.reads.search_pages import ContextAsked, SearchAsked, Window, group_token
from homeserver.store.client_events import ClientEvent, join
from homeserver.store.history import BEGINNING, find_member_keys, load_span, state_after
from homeserver.store.search_hits import Hit
from homeserver.store.timeline import load_state
from homeserver.store.veil import load_veiled
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


class _Around(NamedTuple):
    """A result, and what is around it."""

    room_nid: int
    found: Found
    before: Sequence[Found] = ()  # the newest first
    after: Sequence[Found] = ()
    start: int = 0
    end: int = 0

    @property
    def shown(self) -> list[Found]:
        """All that the client is shown of it."""
        return [*self.before, self.found, *self.after]


def write_results(
    tx: Tx,
    archive: Archive,
    asked: SearchAsked,
    askers: Mapping[int, Asker],
    ranks: Mapping[int, float],
    shown: Sequence[tuple[Hit, Found]],
) -> bytes:
    """The members of the answer that hold events."""
    context = asked.context
    if context is None:
        around = [_Around(hit.room_nid, found) for hit, found in shown]
    else:
        around = [_look_around(tx, archive, askers[hit.room_nid], found, context) for hit, found in shown]
    written = _write_all(tx, archive, askers, around)
    profiles = (
        _load_profiles(tx, archive, askers, around) if context is not None and context.profiles else None
    )
    results: list[bytes] = []
    for place, one in enumerate(around):
        nid = one.found.row.nid
        parts = b'"rank":%b,"result":%b' % (_encode(ranks[nid]), written[nid])
        if context is not None:
            parts += b',"context":{"start":%b,"end":%b,"events_before":%b,"events_after":%b' % (
                _encode(timeline_token(one.start)),
                _encode(timeline_token(one.end)),
                join([written[each.row.nid] for each in one.before]),
                join([written[each.row.nid] for each in one.after]),
            )
            parts += b"}" if profiles is None else b',"profile_info":%b}' % _encode(profiles[place])
        results.append(b"{" + parts + b"}")
    members = b'"results":' + join(results)
    if asked.with_state:
        rooms = [askers[room_nid] for room_nid in dict.fromkeys(one.room_nid for one in around)]
        states = [_encode(asker.sight.room_id) + b":" + _write_current(tx, archive, asker) for asker in rooms]
        members += b',"state":{' + b",".join(states) + b"}"
    return members


def _look_around(tx: Tx, archive: Archive, asker: Asker, found: Found, context: ContextAsked) -> _Around:
    sight, ignored, pos = asker.sight, asker.ignored, found.row.pos
    assert pos is not None
    before = scan(
        tx, archive, sight, BEGINNING, pos - 1, context.before, None, backwards=True, ignored=ignored
    )
    after = scan(tx, archive, sight, pos, sight.upto, context.after, None, backwards=False, ignored=ignored)
    start = before.edge if before.edge is not None else before_all([found, *before.found])
    end = sight.upto if after.edge is None else after.edge
    return _Around(sight.room_nid, found, before.found, after.found, start, end)


def _write_all(
    tx: Tx, archive: Archive, askers: Mapping[int, Asker], around: Sequence[_Around]
) -> dict[int, bytes]:
    """All events by nid, those of a room together."""
    by_room: dict[int, dict[int, Found]] = {}
    for one in around:
        by_room.setdefault(one.room_nid, {}).update({each.row.nid: each for each in one.shown})
    written: dict[int, bytes] = {}
    for room_nid, of_room in by_room.items():
        texts = write_events(tx, archive, askers[room_nid], list(of_room.values()))
        written.update(zip(of_room, texts, strict=True))
    return written


def _load_profiles(
    tx: Tx, archive: Archive, askers: Mapping[int, Asker], around: Sequence[_Around]
) -> list[dict[str, dict[str, str]]]:
    """For each result the profiles of those who sent what is shown: by their memberships then, or where these come
    with what is shown by those."""
    shown = [one.shown for one in around]
    keys = find_member_keys(tx, {each.event.sender for of_one in shown for each in of_one})
    states = archive.facts.snapshots(tx, {each.row.state_before or 0 for of_one in shown for each in of_one})
    chosen: list[dict[str, int]] = []
    for of_one in shown:
        nids: dict[str, int] = {}
        for each in of_one:
            sender = each.event.sender
            nid = states[each.row.state_before or 0].get(keys.get(sender, 0))
            if not nid and each.event.type == "m.room.member" and each.event.state_key == sender:
                nid = each.row.nid
            if nid:
                nids.setdefault(sender, nid)
        chosen.append(nids)
    by_room: dict[int, set[int]] = {}
    for one, nids in zip(around, chosen, strict=True):
        by_room.setdefault(one.room_nid, set()).update(nids.values())
    profiles: dict[int, dict[str, str]] = {}
    for room_nid, wanted in by_room.items():
        # As the searcher may see them: an erased user's name is not told beside what they said.
        member_key = askers[room_nid].sight.reader.member_key
        events = load_veiled(tx, wanted, member_key, archive.facts, archive.client_events)
        profiles.update({nid: _profile(event) for nid, event in events.items()})
    return [{name: profiles[nid] for name, nid in nids.items() if nid in profiles} for nids in chosen]


def _profile(member: ClientEvent) -> dict[str, str]:
    content = member.content_dict()
    named = {name: content.get(name) for name in ("displayname", "avatar_url")}
    return {name: value for name, value in named.items() if isinstance(value, str)}


def _write_current(tx: Tx, archive: Archive, asker: Asker) -> bytes:
    """The state of the room, as it is or as it was when the searcher left."""
    sight = asker.sight
    if sight.joined:
        state = load_state(tx, [sight.room_nid]).get(sight.room_nid, {})
    else:
        newest = load_span(tx, sight.room_nid, BEGINNING, sight.upto, 1, backwards=True)
        state = state_after(tx, newest, archive.facts.bases) if newest else {}
    return join(write_state(tx, archive, asker, list(state.values())))
