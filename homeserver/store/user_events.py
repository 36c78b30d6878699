"""What a user has sent into a room, newest first. There is no index for it: the room's timeline is gone through in pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy import and_, bindparam, or_, select

from homeserver.db.schema.rooms import events, redactions, timeline
from homeserver.db.schema.start import WELL_KNOWN_TYPES
from homeserver.db.statements import statement
from homeserver.db.tx import Tx
from homeserver.store.history import BEGINNING, find_floor

# LIMIT(so much of a timeline is gone through in one unit of work)
PIECE: Final = 5_000

_MEMBER = WELL_KNOWN_TYPES["m.room.member"]
_REDACTION = WELL_KNOWN_TYPES["m.room.redaction"]
_SENT = statement(
    select(events.c.event_id, redactions.c.by_nid)
    .select_from(
        timeline.join(events, events.c.nid == timeline.c.event_nid).outerjoin(
            redactions, redactions.c.target_id == events.c.event_id
        )
    )
    .where(
        and_(
            timeline.c.room_nid == bindparam("room_nid"),
            timeline.c.pos > bindparam("low"),
            timeline.c.pos <= bindparam("high"),
            events.c.sender_nid == bindparam("sender_nid"),
            events.c.ts_ms >= bindparam("after_ms"),
            events.c.ts_ms <= bindparam("before_ms"),
            events.c.type_nid != _REDACTION,
            or_(events.c.state_key_nid.is_(None), events.c.type_nid == _MEMBER),
        )
    )
    .order_by(timeline.c.pos.desc())
    .limit(bindparam("most"))
)


class Sent(NamedTuple):
    """An event, and whether it is redacted already."""

    event_id: str
    is_redacted: bool


class Span(NamedTuple):
    """Whose events, from when to when (inclusive, by what the events say)."""

    room_nid: int
    sender_nid: int
    after_ms: int
    before_ms: int


def load_sent(tx: Tx, span: Span, high: int, most: int) -> tuple[Sequence[Sent], int | None]:
    """Messages and memberships that a user has sent, at or below a place in the timeline; where to go on, if anywhere.

    Other state is the room's, and redactions are no content.
    """
    low = find_floor(tx, span.room_nid, high, PIECE)
    found = tx.all(
        _SENT,
        room_nid=span.room_nid,
        low=BEGINNING if low is None else low,
        high=high,
        sender_nid=span.sender_nid,
        after_ms=span.after_ms,
        before_ms=span.before_ms,
        most=most,
    )
    return [Sent(event_id, by_nid is not None) for event_id, by_nid in found], low
