"""What it takes to count a user's unread notifications: which events to look at, and facts of rooms.

Every read is of many rooms at once, in a number of statements that does not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import (
    CTE,
    JSON,
    ColumnElement,
    Select,
    and_,
    bindparam,
    case,
    cast,
    column,
    func,
    literal_column,
    null,
    or_,
    select,
    union_all,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.sql import ClauseElement

from federation.auth.power import PowerLevels, parse_power_levels
from federation.event import Event
from homeserver.db.schema.accounts import account_data
from homeserver.db.schema.base import BIG
from homeserver.db.schema.relations import relations
from homeserver.db.schema.rooms import (
    current_state,
    events,
    members,
    redactions,
    state_keys,
    state_log,
    timeline,
    user_ids,
)
from homeserver.db.schema.start import WELL_KNOWN_TYPES
from homeserver.db.schema.sync import thread_subscriptions
from homeserver.db.statements import SQLITE, Statement, any_of, statement
from homeserver.db.tx import Tx
from homeserver.store.events import EventRow, find_rows
from homeserver.store.parsed import EventCache, load_events
from homeserver.store.past import IS_NEWS
from homeserver.store.placement import Membership
from homeserver.store.receipts import HOPS, MAIN
from homeserver.store.relation import relation_of

# How many changes of a name are looked through for the joining before them.
_JOIN_REACH = 20
# How far back before the main timeline's receipt events of threads are looked for.
THREAD_REACH = 2_000

_CREATE, _MEMBER, _POWER = (
    WELL_KNOWN_TYPES[name] for name in ("m.room.create", "m.room.member", "m.room.power_levels")
)
_encode = msgspec.json.Encoder().encode


class Span(NamedTuple):
    """A part of a room's timeline: ``(low, high]``."""

    room_nid: int
    low: int
    high: int


class Stand(NamedTuple):
    """An event's position and number, and what decides whether it must be parsed at all."""

    pos: int
    nid: int
    sender_nid: int = 0
    type_nid: int = 0
    is_state: bool = False
    redacted: bool = False
    relates: bool = (
        False  # only what relates to another event can be in a thread; once redacted, it does not say
    )

    @property
    def may_be_in_thread(self) -> bool:
        return self.relates or self.redacted


# --- statements ------------------------------------------------------------------------------------------------


def _spans(dialect: str) -> CTE:
    """A list of spans, as one parameter, and where the newest ``most`` events of each begin.

    Materialised, or the databases look the place up again for every event of the room.
    """
    spans: ColumnElement[Any] = bindparam("spans")
    fields: list[ColumnElement[Any]]
    if dialect == SQLITE:
        each = func.json_each(spans).table_valued(column("value", JSON), name="each")
        fields = [func.json_extract(each.c.value, literal_column(f"'$[{place}]'")) for place in range(3)]
    else:
        each = func.jsonb_array_elements(cast(spans, JSONB)).table_valued(column("value", JSONB), name="each")
        fields = [each.c.value.op("->>")(literal_column(str(place))) for place in range(3)]
    room_nid, low, high = (cast(one, BIG) for one in fields)
    listed = (
        select(room_nid.label("nid"), low.label("low"), high.label("high"))
        .cte("listed")
        .prefix_with("MATERIALIZED")
    )
    nth = (
        select(timeline.c.pos)
        .where(
            and_(
                timeline.c.room_nid == listed.c.nid,
                timeline.c.pos > listed.c.low,
                timeline.c.pos <= listed.c.high,
            )
        )
        .order_by(timeline.c.pos.desc())
        .limit(1)
        .offset(bindparam("beyond"))
        .scalar_subquery()
    )
    floor = func.coalesce(nth, listed.c.low + literal_column("1"))
    return (
        select(listed.c.nid, floor.label("floor"), listed.c.high.label("top"))
        .cte("floors")
        .prefix_with("MATERIALIZED")
    )


def _stands(floors: CTE) -> Select[Any]:
    placed = floors.join(
        timeline,
        and_(
            timeline.c.room_nid == floors.c.nid,
            timeline.c.pos >= floors.c.floor,
            timeline.c.pos <= floors.c.top,
            IS_NEWS,
        ),
    )
    return (
        select(
            timeline.c.room_nid,
            timeline.c.pos,
            timeline.c.event_nid,
            events.c.sender_nid,
            events.c.type_nid,
            events.c.state_key_nid.is_not(None),
            redactions.c.by_nid.is_not(None),
            relations.c.child_nid.is_not(None),
        )
        .select_from(
            placed.join(events, events.c.nid == timeline.c.event_nid)
            .outerjoin(redactions, redactions.c.target_id == events.c.event_id)
            .outerjoin(relations, relations.c.child_nid == timeline.c.event_nid)
        )
        .order_by(timeline.c.room_nid, timeline.c.pos)
    )


def _build_newest(dialect: str) -> ClauseElement:
    return _stands(_spans(dialect))


def _build_related(dialect: str) -> ClauseElement:
    return _stands(_spans(dialect)).where(
        or_(relations.c.child_nid.is_not(None), redactions.c.by_nid.is_not(None))
    )


_NEWEST = Statement(_build_newest)
_RELATED = Statement(_build_related)
_JOINED = statement(
    select(members.c.room_nid, func.count())
    .where(and_(any_of(members.c.room_nid, "room_nids"), members.c.membership == int(Membership.JOIN)))
    .group_by(members.c.room_nid)
)
_OWN_KEY = (
    select(state_keys.c.nid)
    .where(and_(state_keys.c.type_nid == _MEMBER, state_keys.c.state_key == bindparam("user_id")))
    .scalar_subquery()
)
_RANKED = (
    select(
        state_log.c.room_nid,
        state_log.c.pos,
        state_log.c.prev_nid,
        func.row_number()
        .over(partition_by=state_log.c.room_nid, order_by=state_log.c.pos.desc())
        .label("rank"),
    )
    .where(and_(any_of(state_log.c.room_nid, "room_nids"), state_log.c.state_key_nid == _OWN_KEY))
    .subquery("ranked")
)
_OWN_MOVES = statement(
    select(_RANKED.c.room_nid, _RANKED.c.pos, _RANKED.c.prev_nid)
    .where(_RANKED.c.rank <= _JOIN_REACH)
    .order_by(_RANKED.c.room_nid, _RANKED.c.rank)
)
_LEVELS = statement(
    select(current_state.c.room_nid, state_keys.c.type_nid, current_state.c.event_nid)
    .select_from(current_state.join(state_keys, state_keys.c.nid == current_state.c.state_key_nid))
    .where(
        and_(
            any_of(current_state.c.room_nid, "room_nids"),
            state_keys.c.type_nid.in_([literal_column(str(_CREATE)), literal_column(str(_POWER))]),
            state_keys.c.state_key == literal_column("''"),
        )
    )
)
_DATA = (
    select(user_ids.c.nid, user_ids.c.user_id, account_data.c.type, account_data.c.content)
    .select_from(
        user_ids.outerjoin(
            account_data,
            and_(
                account_data.c.user_nid == user_ids.c.nid,
                account_data.c.room_nid == literal_column("0"),
                any_of(account_data.c.type, "types"),
            ),
        )
    )
    .where(any_of(user_ids.c.nid, "user_nids"))
)
# In the same statement, as rows without a user id: whoever asks for the one has to know the other.
_THREADS = (
    select(
        thread_subscriptions.c.user_nid,
        literal_column("''"),
        case(
            (thread_subscriptions.c.subscribed == literal_column("1"), literal_column("'on'")), else_=null()
        ),
        events.c.event_id,
    )
    .select_from(thread_subscriptions.join(events, events.c.nid == thread_subscriptions.c.root_nid))
    .where(any_of(thread_subscriptions.c.user_nid, "user_nids"))
)
_PERSONAL = statement(union_all(_DATA, _THREADS))


# --- which events ----------------------------------------------------------------------------------------------


def load_stands(tx: Tx, spans: Sequence[Span], most: int) -> dict[int, list[Stand]]:
    """The newest ``most`` events of each span, oldest first, by room."""
    return _by_room(tx.all(_NEWEST, spans=_encode(spans).decode(), beyond=most - 1)) if spans else {}


def load_related(tx: Tx, spans: Sequence[Span]) -> dict[int, list[Stand]]:
    """As :func:`load_stands`, of the newest ``THREAD_REACH`` those that may be in a thread."""
    if not spans:
        return {}
    return _by_room(tx.all(_RELATED, spans=_encode(spans).decode(), beyond=THREAD_REACH - 1))


def _by_room(found: Sequence[Any]) -> dict[int, list[Stand]]:
    result: dict[int, list[Stand]] = {}
    for room_nid, pos, nid, sender_nid, type_nid, is_state, redacted, relates in found:
        result.setdefault(room_nid, []).append(
            Stand(pos, nid, sender_nid, type_nid, bool(is_state), bool(redacted), bool(relates))
        )
    return result


def find_joinings(tx: Tx, user_id: str, member_pos: Mapping[int, int], cache: EventCache) -> dict[int, int]:
    """Where a user joined rooms, given where their newest membership stands: it may only have changed their name."""
    found = dict(member_pos)
    moves: dict[int, list[tuple[int, int]]] = {}
    if member_pos:
        for room_nid, pos, prev_nid in tx.all(_OWN_MOVES, room_nids=list(member_pos), user_id=user_id):
            if pos <= member_pos[room_nid]:  # else it came after the moment that is asked for
                moves.setdefault(room_nid, []).append((pos, prev_nid))
    # Nearly always the newest says it all; those of whom it does not are looked through at once.
    for reach in (1, _JOIN_REACH):
        prev_nids = [prev_nid for each in moves.values() for _, prev_nid in each[:reach] if prev_nid]
        before = load_events(tx, prev_nids, cache)
        for room_nid, each in list(moves.items()):
            for pos, prev_nid in each[:reach]:
                found[room_nid] = pos
                event = before.get(prev_nid)
                if event is None or event.content.get("membership") != "join":
                    del moves[room_nid]
                    break
    return found


# --- facts -----------------------------------------------------------------------------------------------------


def load_joined(tx: Tx, room_nids: Collection[int]) -> dict[int, int]:
    """How many are in rooms."""
    found: dict[int, int] = dict(tx.all(_JOINED, room_nids=list(room_nids))) if room_nids else {}
    return {nid: int(found.get(nid, 0)) for nid in room_nids}


def load_power(tx: Tx, room_nids: Collection[int], cache: EventCache) -> dict[int, PowerLevels]:
    """The levels in force in rooms; a room that has no create event (yet) is absent."""
    nids: dict[int, dict[int, int]] = {}
    for room_nid, type_nid, event_nid in tx.all(_LEVELS, room_nids=list(room_nids)):
        nids.setdefault(room_nid, {})[type_nid] = event_nid
    loaded = load_events(tx, [nid for each in nids.values() for nid in each.values()], cache)
    found: dict[int, PowerLevels] = {}
    for room_nid, each in nids.items():
        create = loaded.get(each.get(_CREATE, 0))
        if create is not None:
            found[room_nid] = parse_power_levels(loaded.get(each.get(_POWER, 0)), create, create.rules)
    return found


@dataclass(slots=True)
class Personal:
    """What decides about a user's notifications, wherever they are."""

    user_id: str = ""
    stored: dict[str, str] = field(default_factory=dict)  # account data by type, as JSON
    threads: set[str] | None = None  # the roots that they subscribed to; None: they never did such a thing


def load_personal(tx: Tx, user_nids: Collection[int], types: Collection[str]) -> dict[int, Personal]:
    """Users' ids, their global account data of some types, and their threads. Who is no user is absent."""
    found: dict[int, Personal] = {}
    for nid, user_id, type_, content in tx.all(_PERSONAL, user_nids=list(user_nids), types=list(types)):
        one = found.setdefault(nid, Personal())
        if not user_id:
            one.threads = one.threads or set()
            if type_ is not None:
                one.threads.add(content)
            continue
        one.user_id = user_id
        if type_ is not None:
            one.stored[type_] = content
    return found


def find_threads(tx: Tx, wanted: Mapping[int, tuple[int, Event]], cache: EventCache) -> dict[int, str]:
    """The threads (MAIN or their roots) that events are in: nid -> (room nid, event) in, nid -> thread out."""
    # spec: client-server-api#threaded-read-receipts. As ``receipts.find_thread``, many a step.
    found: dict[int, str] = {}
    going = {nid: (room_nid, event, {str(event.event_id)}) for nid, (room_nid, event) in wanted.items()}
    for hop in range(HOPS + 1):
        parents: dict[int, str] = {}
        for nid, (_, event, seen) in going.items():
            relation = relation_of(event.content) if event.state_key is None else None
            if relation is not None and relation[0] == "m.thread":
                found[nid] = relation[1]
            elif relation is not None and hop < HOPS and relation[1] not in seen:
                parents[nid] = relation[1]
        if not parents:
            break
        rows = find_rows(tx, sorted(set(parents.values())))
        steps: dict[int, EventRow] = {}
        for nid, parent_id in parents.items():
            row = rows.get(parent_id)
            if row is not None and row.room_nid == going[nid][0]:
                steps[nid] = row
        loaded = load_events(tx, sorted({row.nid for row in steps.values()}), cache)
        going = {
            nid: (row.room_nid, loaded[row.nid], going[nid][2] | {row.event_id}) for nid, row in steps.items()
        }
    return {nid: found.get(nid, MAIN) for nid in wanted}
