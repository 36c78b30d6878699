"""Redactions that take along what relates to their target, and for how long.

spec: https://github.com/matrix-org/matrix-spec-proposals/pull/3912
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import and_, bindparam, delete, select

from homeserver.db.schema.relations import related_redactions, relations
from homeserver.db.schema.rooms import events, rooms, user_ids
from homeserver.db.statements import rows, statement
from homeserver.db.tx import Tx

_R = related_redactions.c
_KEY = ("target_id", "room_nid", "rel_type", "sender_nid")
_PUT = rows(related_redactions, *_KEY, "until_ts_ms", keys=_KEY, update=("until_ts_ms",))
_SWEEP = statement(delete(related_redactions).where(_R.until_ts_ms <= bindparam("now_ms")))
_ALL = statement(
    select(_R.target_id, _R.room_nid, rooms.c.room_id, _R.rel_type, user_ids.c.user_id, _R.until_ts_ms)
    .select_from(
        related_redactions.join(rooms, rooms.c.nid == _R.room_nid).join(
            user_ids, user_ids.c.nid == _R.sender_nid
        )
    )
    .where(_R.until_ts_ms > bindparam("now_ms"))
    .order_by(_R.until_ts_ms.desc())
    .limit(bindparam("most"))
)
# A child that is redacted has no row.
_FROM_CHILDREN = relations.join(events, events.c.nid == relations.c.child_nid)
_of_target = and_(
    relations.c.target_id == bindparam("target"),
    relations.c.room_nid == bindparam("room"),
    relations.c.pos > bindparam("after"),
)
_children = (
    select(relations.c.pos, events.c.event_id)
    .select_from(_FROM_CHILDREN)
    .where(_of_target)
    .order_by(relations.c.pos)
    .limit(bindparam("most"))
)
_CHILDREN = statement(_children)
_CHILDREN_OF_KIND = statement(_children.where(relations.c.rel_type == bindparam("kind")))

ANY = "*"
"""Every way of relating to an event."""


class Watched(NamedTuple):
    """What relates to an event in one way (or ``ANY``) is redacted in a user's name, until then."""

    target_id: str
    room_nid: int
    room_id: str
    rel_type: str
    sender_id: str
    until_ts_ms: int


def watch(
    tx: Tx, target_id: str, room_nid: int, rel_types: Sequence[str], sender_nid: int, now_ms: int, until: int
) -> None:
    """What relates to an event in these ways is to be redacted, what comes later too; forget what is over."""
    tx.run(_SWEEP, now_ms=now_ms)
    tx.insert(_PUT, [(target_id, room_nid, one, sender_nid, until) for one in rel_types])


def load_watched(tx: Tx, now_ms: int, most: int) -> list[Watched]:
    """Those that are not over (at the start), the newest of too many."""
    return [Watched(*row) for row in tx.all(_ALL, now_ms=now_ms, most=most)]


def load_to_redact(tx: Tx, watched: Watched, after: int, most: int) -> list[tuple[int, str]]:
    """The children that are not redacted yet, by place and id, from a place on."""
    where = {"target": watched.target_id, "room": watched.room_nid, "after": after, "most": most}
    if watched.rel_type == ANY:
        found = tx.all(_CHILDREN, **where)
    else:
        found = tx.all(_CHILDREN_OF_KIND, **where, kind=watched.rel_type)
    return [(row[0], row[1]) for row in found]
