"""What sliding sync reads of rooms and users beside timelines: facts that lists filter by, and state that is asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import and_, bindparam, literal, literal_column, or_, select

from homeserver.db.schema.accounts import account_data, receipts
from homeserver.db.schema.rooms import (
    current_state,
    event_types,
    events,
    rooms,
    state_keys,
    timeline,
)
from homeserver.db.schema.start import WELL_KNOWN_TYPES
from homeserver.db.statements import any_of, statement
from homeserver.db.tx import Ask, Tx
from homeserver.store.account_data import TAG
from homeserver.store.client_events import ClientEventCache, load_client_events
from homeserver.store.events import load_rows
from homeserver.store.ids import stored_name
from homeserver.store.outside import load_outside
from homeserver.store.past import IS_NEWS
from homeserver.store.placement import MEMBERSHIPS, Membership
from homeserver.store.receipts import CHANGE_COLUMNS, CHANGE_ROWS, ReceiptChange
from homeserver.store.state import BaseCache
from homeserver.store.stripped import load_stripped_state
from homeserver.store.timeline import load_moves_of_key

DIRECT = "m.direct"
# proposal: MSC4186 (bump_stamp); and the names that clients use until these are stable everywhere
BUMPS: frozenset[str] = frozenset(
    {
        "m.room.create",
        "m.room.message",
        "m.room.encrypted",
        "m.sticker",
        "m.call.invite",
        "m.poll.start",
        "org.matrix.msc3381.poll.start",
        "m.beacon_info",
        "org.matrix.msc3672.beacon_info",
    }
)
# LIMIT(memberships that are looked at to know which rooms somebody was removed from: the newest)
LEFT_MOST = 1_000

_OFFERED = frozenset({Membership.INVITE, Membership.KNOCK})
_INSIDE = _OFFERED | {Membership.JOIN}
_CREATE, _MEMBER, _NAME, _ENCRYPTION, _CHILD = (
    WELL_KNOWN_TYPES[name]
    for name in ("m.room.create", "m.room.member", "m.room.name", "m.room.encryption", "m.space.child")
)
_C, _K = current_state.c, state_keys.c
_WITH_KEYS = current_state.join(state_keys, _K.nid == _C.state_key_nid)
_FACT_KEYS = select(_K.nid).where(
    and_(_K.state_key == "", _K.type_nid.in_([literal(one) for one in (_CREATE, _NAME, _ENCRYPTION)]))
)
_KEYS_OF_FACTS = statement(_FACT_KEYS)
_FACTS = statement(
    select(_C.room_nid, _K.type_nid, _C.event_nid)
    .select_from(_WITH_KEYS)
    .where(and_(any_of(_C.room_nid, "room_nids"), _C.state_key_nid.in_(_FACT_KEYS)))
)
_BUMP_TYPES = select(event_types.c.nid).where(event_types.c.type.in_([literal(one) for one in sorted(BUMPS)]))
_newest_bump = (
    select(timeline.c.pos)
    .select_from(timeline.join(events, events.c.nid == timeline.c.event_nid))
    # Fetched history is no activity; most of it lies below zero, and is not even looked at.
    .where(
        and_(
            timeline.c.room_nid == rooms.c.nid,
            timeline.c.pos > literal_column("0"),
            IS_NEWS,
            events.c.type_nid.in_(_BUMP_TYPES),
        )
    )
    .order_by(timeline.c.pos.desc())
    .limit(1)
    .scalar_subquery()
)
_BUMPED = statement(select(rooms.c.nid, _newest_bump).where(any_of(rooms.c.nid, "room_nids")))
_CHILDREN = statement(
    select(_C.room_nid, _C.event_nid)
    .select_from(_WITH_KEYS)
    .where(and_(any_of(_C.room_nid, "room_nids"), _K.type_nid == _CHILD))
)
_ACCOUNT = statement(
    select(account_data.c.room_nid, account_data.c.type, account_data.c.content).where(
        and_(
            account_data.c.user_nid == bindparam("user_nid"),
            account_data.c.type.in_([literal(DIRECT), literal(TAG)]),
        )
    )
)
_STATE_COLUMNS = (_C.room_nid, _C.state_key_nid, _C.event_nid)
_NAMED_TYPES = select(event_types.c.nid).where(any_of(event_types.c.type, "types"))
_STATE_OF_TYPES = statement(
    select(*_STATE_COLUMNS)
    .select_from(_WITH_KEYS)
    .where(and_(any_of(_C.room_nid, "room_nids"), _K.type_nid.in_(_NAMED_TYPES)))
)
_STATE_BUT_MEMBERS = statement(
    select(*_STATE_COLUMNS)
    .select_from(_WITH_KEYS)
    .where(and_(any_of(_C.room_nid, "room_nids"), _K.type_nid != _MEMBER))
)
_R = receipts.c
_RECEIPTS_AT = statement(
    select(*CHANGE_COLUMNS)
    .select_from(CHANGE_ROWS)
    .where(
        and_(
            any_of(_R.room_nid, "room_nids"),
            _R.pos <= bindparam("upto"),
            or_(_R.user_nid == bindparam("user_nid"), any_of(_R.event_nid, "event_nids")),
        )
    )
    .order_by(_R.room_nid, _R.pos)
)

_decode = msgspec.json.Decoder().decode


class RoomFacts(NamedTuple):
    """What a room is."""

    encrypted: bool
    room_type: str | None
    name: str | None
    bump_pos: int  # of its newest "proper" activity; 0: none


NO_FACTS = RoomFacts(False, None, None, 0)


class UserFacts(NamedTuple):
    """What rooms are to a user."""

    direct: frozenset[str]  # ids of the rooms that are direct chats
    tags: Mapping[int, frozenset[str]]
    removed: frozenset[int]  # rooms that they were in, and that somebody else put them out of
    strangers: frozenset[int]  # rooms that they are out of and were never in, asked or asking
    last_told: Mapping[int, int]  # of rooms that they are out of: see _last_told


def load_room_facts(tx: Tx, room_nids: Collection[int], cache: ClientEventCache) -> dict[int, RoomFacts]:
    """Facts of rooms, as they are now in the database."""
    keyed: dict[int, dict[int, int]] = {}
    for room_nid, type_nid, event_nid in tx.all(_FACTS, room_nids=list(room_nids)):
        keyed.setdefault(room_nid, {})[type_nid] = event_nid
    wanted = [state[one] for state in keyed.values() for one in (_CREATE, _NAME) if one in state]
    found = load_client_events(tx, wanted, cache)
    bumped: dict[int, int | None] = dict(tx.all(_BUMPED, room_nids=list(room_nids)))

    def text(room_nid: int, type_nid: int, name: str) -> str | None:
        event = found.get(keyed.get(room_nid, {}).get(type_nid, 0))
        content = event.content_dict() if event is not None else None
        value = content.get(name) if isinstance(content, dict) else None
        return value if isinstance(value, str) else None

    return {
        nid: RoomFacts(
            _ENCRYPTION in keyed.get(nid, {}),
            text(nid, _CREATE, "type"),
            text(nid, _NAME, "name"),
            bumped.get(nid) or 0,
        )
        for nid in room_nids
    }


def load_outside_facts(tx: Tx, user_nid: int, room_nids: Collection[int]) -> dict[int, RoomFacts]:
    """Facts of rooms that this server is not in, as far as whoever invited a user told of them."""
    found: dict[int, RoomFacts] = {}
    for nid, row in load_outside(tx, user_nid, room_nids).items():
        contents: dict[str, Any] = {}
        for event in _decode(row.stripped):
            if isinstance(event, dict) and event.get("state_key") == "":
                contents[str(event.get("type"))] = event.get("content")
        found[nid] = _facts_of(contents)
    return {nid: found.get(nid, NO_FACTS) for nid in room_nids}


def load_told_facts(
    tx: Tx, event_nids: Collection[int], cache: ClientEventCache, bases: BaseCache
) -> dict[int, RoomFacts]:
    """Facts of rooms as they were before some memberships of people who are not in them: by the membership's event."""
    keys = [nid for (nid,) in tx.all(_KEYS_OF_FACTS)]
    state = load_stripped_state(tx, event_nids, keys, cache, bases)
    return {
        nid: _facts_of({one.type: one.content_dict() for one in state.get(nid, ()) if one.state_key == ""})
        for nid in event_nids
    }


def _facts_of(contents: Mapping[str, Any]) -> RoomFacts:
    """Facts of a room by the contents of its state. Of its activity they tell nothing."""

    def text(kind: str, name: str) -> str | None:
        content = contents.get(kind)
        value = content.get(name) if isinstance(content, dict) else None
        return value if isinstance(value, str) else None

    return RoomFacts(
        "m.room.encryption" in contents, text("m.room.create", "type"), text("m.room.name", "name"), 0
    )


def load_children(tx: Tx, room_nids: Collection[int], cache: ClientEventCache) -> dict[int, frozenset[str]]:
    """The rooms that spaces name as theirs, by id."""
    # spec: client-server-api#mspacechild (a child without via is none)
    rows = tx.all(_CHILDREN, room_nids=list(room_nids))
    found = load_client_events(tx, [row[1] for row in rows], cache)
    children: dict[int, set[str]] = {nid: set() for nid in room_nids}
    for room_nid, event_nid in rows:
        event = found.get(event_nid)
        if event is None or event.state_key is None:
            continue
        content = event.content_dict()
        if isinstance(content, dict) and isinstance(content.get("via"), list) and content["via"]:
            children[room_nid].add(event.state_key)
    return {nid: frozenset(names) for nid, names in children.items()}


def load_user_facts(
    tx: Tx, user_nid: int, user_id: str, own_key: int, left: Sequence[int], cache: ClientEventCache
) -> UserFacts:
    """Facts of a user. ``left``: the rooms that they are out of; the last are looked at."""
    direct: frozenset[str] = frozenset()
    tags: dict[int, frozenset[str]] = {}
    for room_nid, type_, content in tx.all(_ACCOUNT, user_nid=user_nid):
        if type_ == TAG:
            tags[room_nid] = parse_tags(content)
        elif room_nid == 0:
            direct = parse_direct(content)
    removed: set[int] = set()
    strangers: set[int] = set()
    told: dict[int, int] = {}
    newest = list(left)[-LEFT_MOST:]
    if newest and own_key:
        moves = load_moves_of_key(tx, newest, own_key, -(2**62), 2**62)
        nids = {nid for found in moves.values() for move in found for nid in (move.event_nid, move.prev_nid)}
        own = load_client_events(tx, sorted(nids - {0}), cache)
        for room_nid, found in moves.items():
            was = [_membership(own.get(move.event_nid)) for move in found]
            before = _membership(own.get(found[-1].prev_nid))
            last = own.get(found[-1].event_nid)
            if _INSIDE.isdisjoint((*was, before)):
                strangers.add(room_nid)
            first = _membership(own.get(found[0].prev_nid))
            told[room_nid] = _last_told(first, zip([move.event_nid for move in found], was, strict=True))
            banned = was[-1] == Membership.BAN and Membership.JOIN in was
            kicked = was[-1] == Membership.LEAVE and before == Membership.JOIN
            if banned or (kicked and last is not None and last.sender != user_id):
                removed.add(room_nid)
    # Of an event whose state this server never knew, the state would be taken for what it is now.
    known = {nid for nid, row in load_rows(tx, sorted({*told.values()} - {0})).items() if row.state_before}
    told = {room_nid: nid for room_nid, nid in told.items() if nid in known}
    return UserFacts(direct, tags, frozenset(removed), frozenset(strangers), told)


def _last_told(before: Membership, steps: Iterable[tuple[int, Membership]]) -> int:
    """The event of a user's memberships up to which they may know what the room is: the newest by which they left it, or
    an offer that told them; 0: there is none."""
    told = 0
    for event_nid, membership in steps:
        if membership in _OFFERED or (before == Membership.JOIN and membership != Membership.JOIN):
            told = event_nid
        before = membership
    return told


def _membership(event: Any) -> Membership:
    content = event.content_dict() if event is not None else None
    word = content.get("membership") if isinstance(content, dict) else None
    return MEMBERSHIPS.get(word, Membership.LEAVE) if isinstance(word, str) else Membership.LEAVE


def parse_direct(content: str) -> frozenset[str]:
    """The rooms of an ``m.direct``; a client may have written anything there."""
    # spec: client-server-api#mdirect
    body = _decode(content)
    if not isinstance(body, dict):
        return frozenset()
    lists = (one for one in body.values() if isinstance(one, list))
    return frozenset(room_id for one in lists for room_id in one if isinstance(room_id, str))


def parse_tags(content: str) -> frozenset[str]:
    """The names of an ``m.tag``."""
    # spec: client-server-api#mtag
    body = _decode(content)
    tags = body.get("tags") if isinstance(body, dict) else None
    return frozenset(tags) if isinstance(tags, dict) else frozenset()


def load_state_of_types(
    tx: Tx, room_nids: Collection[int], types: Collection[str] | None
) -> dict[int, dict[int, int]]:
    """The current state of rooms, of some types or (None) of all but members: room -> state key nid -> event nid."""
    found = tx.ask(ask_state_of_types(room_nids, types)) if types is None or types else []
    states: dict[int, dict[int, int]] = {}
    for room_nid, key_nid, event_nid in found:
        states.setdefault(room_nid, {})[key_nid] = event_nid
    return states


def ask_state_of_types(room_nids: Collection[int], types: Collection[str] | None) -> Ask:
    """What :func:`load_state_of_types` asks."""
    if types is None:
        return Ask(_STATE_BUT_MEMBERS, {"room_nids": list(room_nids)})
    return Ask(_STATE_OF_TYPES, {"room_nids": list(room_nids), "types": sorted(map(stored_name, types))})


def load_receipts_at(
    tx: Tx, user_nid: int, room_nids: Collection[int], event_nids: Collection[int], upto: int
) -> list[ReceiptChange]:
    """Somebody's own receipts in some rooms, and everybody's at some events."""
    found = tx.ask(ask_receipts_at(user_nid, room_nids, event_nids, upto))
    return [ReceiptChange(*row) for row in found]


def ask_receipts_at(user_nid: int, room_nids: Collection[int], event_nids: Collection[int], upto: int) -> Ask:
    """What :func:`load_receipts_at` asks."""
    params = {
        "user_nid": user_nid,
        "room_nids": list(room_nids),
        "event_nids": list(event_nids),
        "upto": upto,
    }
    return Ask(_RECEIPTS_AT, params)
