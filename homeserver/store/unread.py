"""What it takes to count a user's unread notifications of a room: which events to look at, and facts of the room."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import and_, bindparam, func, select

from federation.auth.power import PowerLevels, parse_power_levels
from homeserver.db.schema.rooms import event_json, members, state_log, timeline
from homeserver.db.statements import statement
from homeserver.db.tx import Tx
from homeserver.store.parsed import EventCache, load_events
from homeserver.store.placement import Membership
from homeserver.store.timeline import load_page, load_places, load_state_at

# How many changes of a name are looked through for the joining before them.
_JOIN_REACH = 20
# How far back before the main timeline's receipt events of threads are looked for.
THREAD_REACH = 2_000

_JOINED = statement(
    select(func.count()).where(
        and_(members.c.room_nid == bindparam("room_nid"), members.c.membership == bindparam("membership"))
    )
)
_NTH = statement(
    select(timeline.c.pos)
    .where(and_(timeline.c.room_nid == bindparam("room_nid"), timeline.c.pos <= bindparam("high")))
    .order_by(timeline.c.pos.desc())
    .limit(1)
    .offset(bindparam("nth"))
)
_OF_THREADS = statement(
    select(timeline.c.pos, timeline.c.event_nid)
    .select_from(timeline.join(event_json, event_json.c.nid == timeline.c.event_nid))
    .where(
        and_(
            timeline.c.room_nid == bindparam("room_nid"),
            timeline.c.pos > bindparam("low"),
            timeline.c.pos <= bindparam("high"),
            event_json.c.json.like(bindparam("text")),
        )
    )
    .order_by(timeline.c.pos.desc())
    .limit(bindparam("most"))
)


_REPLACED = statement(
    select(state_log.c.prev_nid).where(
        and_(
            state_log.c.room_nid == bindparam("room_nid"),
            state_log.c.pos == bindparam("pos"),
            state_log.c.event_nid == bindparam("event_nid"),
        )
    )
)


class Stand(NamedTuple):
    """An event's position and number."""

    pos: int
    nid: int


def load_unread(tx: Tx, room_nid: int, low: int, main: int, upto: int, most: int) -> list[Stand]:
    """The events in ``(low, upto]`` that may be unread, the newest ``most`` of them, oldest first.

    What is not after ``main`` can only be unread as part of a thread.
    """
    found = [
        Stand(one.pos, one.event_nid)
        for one in load_page(tx, room_nid, max(low, main), upto, most, backwards=True)
    ]
    if low < main and len(found) < most:
        first = tx.value(_NTH, room_nid=room_nid, high=main, nth=THREAD_REACH)
        low = low if first is None else max(low, first)
        left = most - len(found)
        # Only what relates to something can be in a thread. What merely mentions the word is looked at for nothing.
        rows = tx.all(_OF_THREADS, room_nid=room_nid, low=low, high=main, text='%"m.relates_to"%', most=left)
        found += [Stand(*row) for row in rows]
    found.reverse()
    return found


def load_joined(tx: Tx, room_nid: int) -> int:
    """How many are in a room."""
    return int(tx.value(_JOINED, room_nid=room_nid, membership=int(Membership.JOIN)))


def load_power(
    tx: Tx, room_nid: int, create_key: int, power_key: int, cache: EventCache
) -> PowerLevels | None:
    """The levels in force in a room; None where it has no create event (yet)."""
    nids = load_state_at(tx, [room_nid], [create_key, power_key]).get(room_nid, {})
    found = load_events(tx, list(nids.values()), cache)
    create = found.get(nids.get(create_key, 0))
    if create is None:
        return None
    return parse_power_levels(found.get(nids.get(power_key, 0)), create, create.rules)


def find_joining(tx: Tx, room_nid: int, pos: int, event_nid: int, cache: EventCache) -> int:
    """Where a member joined whose newest membership event is this one: it may only have changed their name."""
    for _ in range(_JOIN_REACH):
        before = tx.value(_REPLACED, room_nid=room_nid, pos=pos, event_nid=event_nid)
        event = load_events(tx, [before], cache).get(before) if before else None
        if event is None or event.content.get("membership") != "join":
            break
        place = load_places(tx, [before]).get(before)
        if place is None:
            break
        pos, event_nid = place.pos, before
    return pos
