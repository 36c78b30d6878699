"""Where history goes that comes after what followed it.

1. An event whose parents are missing, in a room that has a timeline, stands above a *hole*: ``HOLE`` positions below its own
   stay free. What fills the hole gets these, from the top down, and so stands where it was said.
2. What is missing below a room's first event (this server came in with it) goes below all positions, to negative ones. So
   does what finds its hole full.
3. What was fetched is no news: no sync, no count and no other server is told of it. Readers find it as they page back.

# spec: server-server-api#backfilling-and-retrieving-missing-events
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy import ColumnElement, FromClause, and_, bindparam, func, literal_column, or_, select

from homeserver.db.schema.rooms import gaps, timeline
from homeserver.db.statements import any_of, statement
from homeserver.db.tx import Tx
from homeserver.store.placement import PAST, Mark, Placement

# Positions are cheap: 64 bits of them. A gap of more events is filled in part here and in part below.
HOLE: Final = 65_536
# Rows of the timeline of which clients are told; and rule 3, of those.
IS_TOLD: Final[ColumnElement[bool]] = timeline.c.mark < literal_column(str(int(Mark.IDLE)))
IS_NEWS: Final[ColumnElement[bool]] = timeline.c.mark < literal_column(str(int(Mark.HISTORY)))


def is_past(places: FromClause) -> ColumnElement[bool]:
    """Whether a row of the timeline (or of an alias of it) was backfilled."""
    return or_(*(places.c.mark == literal_column(str(int(mark))) for mark in PAST))


_TOPS = statement(
    select(gaps.c.missing_id, gaps.c.top).where(
        and_(gaps.c.room_nid == bindparam("room_nid"), any_of(gaps.c.missing_id, "ids"))
    )
)
_IN_ROOM = timeline.c.room_nid == bindparam("room_nid")
_OLDEST = statement(select(func.min(timeline.c.pos)).where(_IN_ROOM))
_LOWEST = statement(
    select(func.min(timeline.c.pos)).where(
        and_(_IN_ROOM, timeline.c.pos >= bindparam("low"), timeline.c.pos <= bindparam("top"))
    )
)
_lowest_in_hole = (
    select(func.min(timeline.c.pos))
    .where(
        and_(
            timeline.c.room_nid == gaps.c.room_nid,
            timeline.c.pos >= gaps.c.top - literal_column(str(HOLE)),
            timeline.c.pos <= gaps.c.top,
        )
    )
    .scalar_subquery()
)
_OPEN = statement(
    select(gaps.c.top, _lowest_in_hole)
    .where(
        and_(
            gaps.c.room_nid == bindparam("room_nid"),
            gaps.c.top > bindparam("low"),
            gaps.c.top <= bindparam("high"),
        )
    )
    .group_by(gaps.c.room_nid, gaps.c.top)
    .order_by(gaps.c.top.desc())
    .limit(3)
)


class Hole(NamedTuple):
    """History that is missing in the middle of a timeline."""

    top: int  # where the event above it stands
    edge: int  # the point below what is filled of it


def find_open_hole(tx: Tx, room_nid: int, low: int, high: int) -> Hole | None:
    """The newest hole of a room that opens in ``(low, high]`` or just at ``high``."""
    for top, lowest in tx.all(_OPEN, room_nid=room_nid, low=low, high=high + HOLE + 1):
        if lowest is not None and low < lowest <= high + 1:
            return Hole(top, lowest - 1)
    return None


def place_history(tx: Tx, placements: Sequence[Placement]) -> dict[int, int]:
    """Give backfilled events, the oldest first, their positions: by nid, the top of the hole that each is in (0: in none).

    What fills no gap itself is before something that does.
    """
    tops: dict[int, int] = {}
    for room_nid in sorted({placed.room_nid for placed in placements}):
        of_room = [placed for placed in placements if placed.room_nid == room_nid]
        above: dict[str, int] = dict(
            tx.all(_TOPS, room_nid=room_nid, ids=[one.event.event_id for one in of_room])
        )
        lowest: dict[int, int] = {}
        for placed in reversed(of_room):
            top = above.get(placed.event.event_id, 0)
            placed.pos, top = _take(tx, room_nid, top, lowest)
            tops[placed.nid] = top
            for parent_id in placed.event.prev_event_ids:
                above[parent_id] = min(above.get(parent_id, top), top)
    return tops


def _take(tx: Tx, room_nid: int, top: int, lowest: dict[int, int]) -> tuple[int, int]:
    """The next free position below what is in a hole, or below everything; and which it was."""
    if top and top not in lowest:
        lowest[top] = tx.value(_LOWEST, room_nid=room_nid, low=top - HOLE, top=top) or top
    if top and lowest[top] > top - HOLE:
        lowest[top] -= 1
        return lowest[top], top
    if 0 not in lowest:
        lowest[0] = min(tx.value(_OLDEST, room_nid=room_nid) or 0, 0)
    lowest[0] -= 1
    return lowest[0], 0
