"""Where a room's history is not known here: parents that we have not, and who may have them.

# spec: server-server-api#backfilling-and-retrieving-missing-events
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from sqlalchemy import and_, bindparam, case, exists, func, literal_column, or_, select

from homeserver.db.schema.rooms import edges, events, gaps, members, user_ids
from homeserver.db.statements import SQLITE, Statement, any_of, statement
from homeserver.db.tx import Tx
from homeserver.store.placement import Membership

_OF_ROOM = gaps.c.room_nid == bindparam("room_nid")
_HAS = statement(select(exists().where(_OF_ROOM)))
_HAS_BELOW = statement(select(exists().where(and_(_OF_ROOM, gaps.c.top == literal_column("0")))))
_CHILDREN = (
    gaps.join(edges, edges.c.parent_id == gaps.c.missing_id)
    .join(events, and_(events.c.nid == edges.c.child_nid, events.c.room_nid == gaps.c.room_nid))
    .join(user_ids, user_ids.c.nid == events.c.sender_nid)
)
_depth = func.max(events.c.depth)
_GAPS = statement(
    select(gaps.c.missing_id, _depth, func.max(user_ids.c.user_id))
    .select_from(_CHILDREN)
    .where(and_(_OF_ROOM, or_(bindparam("top") < literal_column("0"), gaps.c.top == bindparam("top"))))
    .group_by(gaps.c.missing_id)
    .order_by(_depth.desc(), gaps.c.missing_id)
    .limit(bindparam("most"))
)
_AFTER_GAPS = statement(
    select(edges.c.child_nid)
    .select_from(gaps.join(edges, edges.c.parent_id == gaps.c.missing_id))
    .where(and_(_OF_ROOM, any_of(edges.c.child_nid, "nids")))
)
_LEFT = statement(select(gaps.c.missing_id).where(and_(_OF_ROOM, any_of(gaps.c.missing_id, "ids"))))


def _servers(dialect: str) -> Any:
    place = func.instr if dialect == SQLITE else func.strpos
    server = func.substr(user_ids.c.user_id, place(user_ids.c.user_id, ":") + 1).label("server")
    inside = func.sum(case((members.c.membership == int(Membership.JOIN), 1), else_=0))
    return (
        select(server)
        .select_from(members.join(user_ids, user_ids.c.nid == members.c.user_nid))
        .where(
            and_(
                members.c.room_nid == bindparam("room_nid"),
                or_(
                    members.c.membership == int(Membership.JOIN),
                    and_(members.c.membership == int(Membership.LEAVE), members.c.outside == 0),
                ),
            )
        )
        .group_by(server)
        .order_by(inside.desc(), server)
        .limit(bindparam("most"))
    )


_SERVERS = Statement(_servers)


class Gap(NamedTuple):
    """An event that we have not and that another one names as its parent."""

    missing_id: str
    depth: int  # of the deepest of its children
    user_id: str  # the author of one of them, whose server has it


def has_gaps(tx: Tx, room_nid: int) -> bool:
    """Whether history is missing."""
    return bool(tx.value(_HAS, room_nid=room_nid))


def has_gaps_below(tx: Tx, room_nid: int) -> bool:
    """Whether history is missing below all that is here."""
    return bool(tx.value(_HAS_BELOW, room_nid=room_nid))


def load_gaps(tx: Tx, room_nid: int, top: int, most: int) -> list[Gap]:
    """Where history is missing in the hole below ``top`` (0: below everything; -1: anywhere), the newest first."""
    return [Gap(*row) for row in tx.all(_GAPS, room_nid=room_nid, top=top, most=most)]


def load_after_gaps(tx: Tx, room_nid: int, nids: Collection[int]) -> set[int]:
    """Which of these events have a parent that we have not."""
    return set(tx.column(_AFTER_GAPS, room_nid=room_nid, nids=list(nids)))


def load_gaps_left(tx: Tx, room_nid: int, missing_ids: Collection[str]) -> set[str]:
    """Which of these are still missing."""
    return set(tx.column(_LEFT, room_nid=room_nid, ids=list(missing_ids)))


def load_likely_servers(tx: Tx, room_nid: int, most: int) -> list[str]:
    """The servers in a room, those with most users first; then those that have been, who may alone have its past."""
    return tx.column(_SERVERS, room_nid=room_nid, most=most)
