"""What a notification says of an event and its room: names, as they are when it is made.

# spec: push-gateway-api#post_matrixpushv1notify
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import and_, bindparam, select

from federation.errors import Malformed
from federation.event import Event, parse_stored
from federation.ids import EventId
from federation.versions import ROOM_VERSIONS
from homeserver.db.schema.rooms import current_state, event_json, events, redactions, state_keys
from homeserver.db.schema.start import WELL_KNOWN_TYPES
from homeserver.db.statements import any_of, statement
from homeserver.db.tx import Tx
from homeserver.store.directory import load_room_facts
from homeserver.store.events import load_redactions
from homeserver.store.outside import load_outside
from homeserver.store.parsed import EventCache, load_events
from homeserver.store.receipts import MAIN, find_thread
from homeserver.store.sync_reads import Summary, load_summaries

# Of a member event that was redacted there is no name.
_MEMBERS = statement(
    select(state_keys.c.state_key, event_json.c.json)
    .select_from(
        current_state.join(state_keys, state_keys.c.nid == current_state.c.state_key_nid)
        .join(event_json, event_json.c.nid == current_state.c.event_nid)
        .join(events, events.c.nid == current_state.c.event_nid)
        .outerjoin(redactions, redactions.c.target_id == events.c.event_id)
    )
    .where(
        and_(
            current_state.c.room_nid == bindparam("room_nid"),
            state_keys.c.type_nid == WELL_KNOWN_TYPES["m.room.member"],
            any_of(state_keys.c.state_key, "user_ids"),
            redactions.c.by_nid.is_(None),
        )
    )
)
_NAMED = ("m.room.name", "m.room.canonical_alias")


class _Content(msgspec.Struct):
    displayname: Any = None


class _Member(msgspec.Struct):
    content: _Content


_decode_member = msgspec.json.Decoder(_Member).decode
_decode_stripped = msgspec.json.Decoder(list[dict[str, Any]]).decode


@dataclass(frozen=True, slots=True)
class Told:
    """An event and its room, as far as they are the same for everybody who hears of them."""

    event: Event
    thread: str  # MAIN or the root of the thread that it is in
    name: str | None  # of the room
    alias: str | None
    names: Mapping[str, str]  # display names of the sender, and of those who name a room without a name
    summary: Summary | None = None  # of a room that has neither name nor alias

    def room_name(self, user_id: str) -> str | None:
        """What one of the members sees above the room."""
        # spec: client-server-api#calculating-the-display-name-for-a-room
        if self.name or self.summary is None:
            return self.name or self.alias
        heroes = [self.names.get(one, one) for one in self.summary.heroes(user_id)]
        others = self.summary.joined + self.summary.invited - 1 - len(heroes)
        if not heroes:
            return None
        if others > 0:
            return f"{', '.join(heroes)} and {others} others"
        return heroes[0] if len(heroes) == 1 else f"{', '.join(heroes[:-1])} and {heroes[-1]}"


def load_told(tx: Tx, room_nid: int, event_nid: int, cache: EventCache) -> Told | None:
    """An event of the timeline; None where it was redacted."""
    event = load_events(tx, [event_nid], cache).get(event_nid)
    if event is None or load_redactions(tx, [event_nid]):
        return None
    facts = load_room_facts(tx, [room_nid], _NAMED)
    contents = facts[0].contents if facts else {}
    name, alias = (
        _text(contents.get("m.room.name", {}).get("name")),
        _text(contents.get("m.room.canonical_alias", {}).get("alias")),
    )
    summary = None
    wanted: set[str] = {str(event.sender)}
    if not name and not alias:
        summary = load_summaries(tx, [room_nid], [room_nid])[room_nid]
        wanted |= {*summary.present, *summary.gone}
    names = load_member_names(tx, room_nid, sorted(wanted))
    return Told(event, find_thread(tx, event, room_nid, cache)[0], name, alias, names, summary)


def load_member_names(tx: Tx, room_nid: int, user_ids: Collection[str]) -> dict[str, str]:
    """The display names that users have in a room; who has none is absent."""
    found: dict[str, str] = {}
    for user_id, json in tx.all(_MEMBERS, room_nid=room_nid, user_ids=list(user_ids)):
        name = _text(_decode_member(json).content.displayname)
        if name:
            found[user_id] = name
    return found


def load_told_outside(tx: Tx, user_nid: int, room_nid: int) -> Told | None:
    """A membership of a room that this server is not in; None where the room is here now, or nothing is known."""
    row = load_outside(tx, user_nid, [room_nid]).get(room_nid)
    if row is None or row.version not in ROOM_VERSIONS:
        return None
    try:
        event = parse_stored(EventId(row.event_id), row.event.encode(), ROOM_VERSIONS[row.version])
        stripped = _decode_stripped(row.stripped)
    except (Malformed, msgspec.DecodeError, KeyError):
        return None
    # What another server says of the room is shown, and may have any shape.
    said: dict[tuple[Any, Any], Any] = {
        (one.get("type"), one.get("state_key")): one.get("content") for one in stripped
    }
    name = _member(said.get(("m.room.name", "")), "name")
    alias = _member(said.get(("m.room.canonical_alias", "")), "alias")
    sender = _member(said.get(("m.room.member", event.sender)), "displayname")
    return Told(event, MAIN, name, alias, {str(event.sender): sender} if sender else {})


def _member(content: Any, name: str) -> str | None:
    return _text(content.get(name)) if isinstance(content, dict) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
