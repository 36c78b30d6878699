"""Invariants of joins that are not complete, or were not."""

from __future__ import annotations

from sqlalchemy import Table, and_, or_, select

from homeserver.db.schema.rooms import earlier_joins, events, hearsay, partial_joins
from homeserver.db.schema.stream import stream
from homeserver.store.checks.rules import Rule, points_nowhere, rule


def _rules_of(table: Table) -> tuple[Rule, ...]:
    placed = table.join(events, events.c.nid == table.c.join_nid)
    return (
        points_nowhere(table.c.join_nid, events.c.nid),
        rule(
            f"{table.name} names no event of the room that has its place",
            select(table.c.room_nid, table.c.join_nid)
            .select_from(placed)
            .where(or_(events.c.room_nid != table.c.room_nid, events.c.state_before.is_(None))),
        ),
    )


PARTIAL = (
    *_rules_of(partial_joins),
    *_rules_of(earlier_joins),
    *_rules_of(hearsay),
    rule(
        "members are awaited of a stay that is over",
        select(earlier_joins.c.room_nid, earlier_joins.c.join_nid).where(earlier_joins.c.attempts < 1),
    ),
    rule(
        "a join is of this stay and of an earlier one",
        select(earlier_joins.c.room_nid, earlier_joins.c.join_nid).where(
            and_(
                partial_joins.c.room_nid == earlier_joins.c.room_nid,
                partial_joins.c.join_nid == earlier_joins.c.join_nid,
            )
        ),
    ),
    *(
        rule(
            f"a join is complete, and is in {table.name}",
            select(hearsay.c.room_nid, hearsay.c.join_nid).where(
                and_(hearsay.c.room_nid == table.c.room_nid, hearsay.c.join_nid == table.c.join_nid)
            ),
        )
        for table in (partial_joins, earlier_joins)
    ),
    rule(
        "a join was not complete up to a position that is still to come",
        select(hearsay.c.room_nid, hearsay.c.join_nid).where(hearsay.c.upto > stream.c.pos),
    ),
)
