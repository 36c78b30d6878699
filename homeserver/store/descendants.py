"""What builds on an event, as far as it is here: its children, theirs, and so on."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from sqlalchemy import CTE, Select, and_, bindparam, select

from homeserver.db.schema.rooms import edges, events
from homeserver.db.statements import any_of, statement
from homeserver.db.tx import Tx
from homeserver.store.parsed import EventCache, load_events

_child, _further = events.alias("child"), edges.alias("further")


def build_descent(children: Select[Any]) -> CTE:
    """The numbers (``nid``) of all events that build on some, of which ``children`` selects those that do so directly."""
    found = children.cte("above", recursive=True)
    return found.union(
        select(_further.c.child_nid).select_from(
            found.join(_child, _child.c.nid == found.c.nid).join(
                _further, _further.c.parent_id == _child.c.event_id
            )
        )
    )


_above = build_descent(
    select(edges.c.child_nid.label("nid")).where(edges.c.parent_id == bindparam("event_id"))
)
# As many as are wanted and no more are found: neither database goes on when it has them.
_some = select(_above.c.nid).limit(bindparam("most")).subquery()
_DESCENDANTS = statement(
    select(events.c.nid, events.c.event_id, events.c.state_before, events.c.state_after)
    .select_from(_some.join(events, events.c.nid == _some.c.nid))
    .where(and_(events.c.room_nid == bindparam("room_nid"), events.c.state_before.is_not(None)))
)
_PARENTS = statement(select(edges.c.parent_id).where(any_of(edges.c.parent_id, "ids")).distinct())


class Descendant(NamedTuple):
    """An event with a place in the graph; states are the numbers of their snapshots."""

    nid: int
    event_id: str
    prev_event_ids: tuple[str, ...]
    before: int
    after: int


def find_parents(tx: Tx, event_ids: Collection[str]) -> set[str]:
    """Those of some events that others here stand on."""
    return set(tx.column(_PARENTS, ids=list(event_ids)))


def load_descendants(
    tx: Tx, room_nid: int, event_id: str, most: int, cache: EventCache
) -> list[Descendant] | None:
    """Everything of a room that builds on an event, in no particular order; None where that is more than ``most``."""
    rows = tx.all(_DESCENDANTS, event_id=event_id, room_nid=room_nid, most=most + 1)
    if len(rows) > most:
        return None
    parsed = load_events(tx, [row[0] for row in rows], cache)
    return [
        Descendant(nid, name, tuple(parsed[nid].prev_event_ids), before, before if after is None else after)
        for nid, name, before, after in rows
    ]
