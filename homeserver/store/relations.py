"""Relationships between events: their rows, written with the events, and the reads that aggregate and page them.

A row stands for a child in a timeline. Redacting the child ends the relationship, so the row goes; redacting the parent
does not. Aggregation in one reader's eyes is made from these rows in ``bundles``.

# spec: client-server-api#forming-relationships-between-events
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Select,
    and_,
    bindparam,
    case,
    delete,
    func,
    literal_column,
    or_,
    select,
    true,
)

from homeserver.db.schema.relations import THREAD, relations
from homeserver.db.schema.rooms import event_types, events, redactions, user_ids
from homeserver.db.statements import Statement, any_of, rows, statement
from homeserver.db.tx import Ask, Tx
from homeserver.store.history import HistoryRow
from homeserver.store.ids import stored_name
from homeserver.store.placement import Placement
from homeserver.store.relation import relation_of

REPLACE, REFERENCE, IN_THREAD = "m.replace", "m.reference", "m.thread"
ANNOTATION = "m.annotation"

_INSERT = rows(
    relations,
    "target_id",
    "room_nid",
    "rel_type",
    "pos",
    "child_nid",
    "type_nid",
    "sender_nid",
    "ts_ms",
    "sound",
    ignore=True,
)
# A redaction may have come before what it redacts.
_FORGET_REDACTED = statement(
    delete(relations).where(
        relations.c.child_nid.in_(
            select(events.c.nid)
            .select_from(events.join(redactions, redactions.c.target_id == events.c.event_id))
            .where(any_of(events.c.nid, "nids"))
        )
    )
)
_FORGET = statement(
    delete(relations).where(
        relations.c.child_nid.in_(select(events.c.nid).where(any_of(events.c.event_id, "event_ids")))
    )
)

_UPTO: ColumnElement[int] = bindparam("upto")
_parent = events.alias("parent")
_child = events.alias("child")
_OF_PARENT = relations.join(
    _parent, and_(_parent.c.event_id == relations.c.target_id, _parent.c.room_nid == relations.c.room_nid)
)
# Constants in the text: a list that is bound would be one more loop.
_AGGREGATED = [literal_column("'m.replace'"), literal_column("'m.reference'"), THREAD]
_COUNTS = statement(
    select(
        _parent.c.nid,
        relations.c.rel_type,
        relations.c.sender_nid,
        func.count(),
        func.max(relations.c.pos),
    )
    .select_from(_OF_PARENT)
    .where(
        and_(
            any_of(_parent.c.nid, "nids"),
            relations.c.rel_type.in_(_AGGREGATED),
            relations.c.pos <= _UPTO,
        )
    )
    .group_by(_parent.c.nid, relations.c.rel_type, relations.c.sender_nid)
)


class Count(NamedTuple):
    """The children of one kind that one user gave to an event."""

    parent_nid: int
    rel_type: str
    sender_nid: int
    children: int
    newest: int  # position of the newest


class Child(NamedTuple):
    """An event that relates to another."""

    parent_nid: int
    rel_type: str
    sender_nid: int
    event_id: str
    ts_ms: int
    row: HistoryRow


_CHILD = (
    _parent.c.nid,
    relations.c.rel_type,
    relations.c.sender_nid,
    _child.c.event_id,
    relations.c.ts_ms,
    relations.c.pos,
    relations.c.child_nid,
    _child.c.state_key_nid,
    _child.c.state_before,
)


def _candidates() -> Statement:
    """Of each parent the newest references by place, and the newest edits by their own time."""
    # spec: client-server-api#validity-of-replacement-events
    may_replace = and_(
        relations.c.rel_type == REPLACE,
        relations.c.sound == 1,
        relations.c.sender_nid == _parent.c.sender_nid,
        relations.c.type_nid == _parent.c.type_nid,
    )
    order = case((relations.c.rel_type == REPLACE, relations.c.ts_ms), else_=relations.c.pos)
    place = func.row_number().over(
        partition_by=(_parent.c.nid, relations.c.rel_type), order_by=(order.desc(), relations.c.pos.desc())
    )
    found = (
        select(
            _parent.c.nid.label("parent_nid"),
            relations.c.rel_type,
            relations.c.sender_nid,
            relations.c.ts_ms,
            relations.c.pos,
            relations.c.child_nid,
            place.label("place"),
        )
        .select_from(_OF_PARENT)
        .where(
            and_(
                any_of(_parent.c.nid, "nids"),
                relations.c.rel_type.in_(_AGGREGATED[:2]),
                or_(relations.c.rel_type == REFERENCE, may_replace),
                relations.c.pos <= _UPTO,
            )
        )
        .subquery("found")
    )
    most = case((found.c.rel_type == REPLACE, bindparam("edits")), else_=bindparam("references"))
    return statement(
        select(
            found.c.parent_nid,
            found.c.rel_type,
            found.c.sender_nid,
            _child.c.event_id,
            found.c.ts_ms,
            found.c.pos,
            found.c.child_nid,
            _child.c.state_key_nid,
            _child.c.state_before,
        )
        .select_from(found.join(_child, _child.c.nid == found.c.child_nid))
        .where(found.c.place <= most)
        .order_by(found.c.pos)
    )


_CANDIDATES = _candidates()
_IN_THREADS = statement(
    select(*_CHILD)
    .select_from(_OF_PARENT.join(_child, _child.c.nid == relations.c.child_nid))
    .where(
        and_(
            any_of(_parent.c.nid, "nids"),
            relations.c.rel_type == IN_THREAD,
            any_of(relations.c.pos, "positions"),
        )
    )
    .order_by(relations.c.pos.desc())
)
_USERS = statement(select(user_ids.c.nid).where(any_of(user_ids.c.user_id, "user_ids")))


# --- writing -----------------------------------------------------------------------------------------------------


def write_relations(tx: Tx, placements: Sequence[Placement]) -> None:
    """The rows of events that have their positions now. No statement where nothing relates or redacts."""
    related = [row for placed in placements if (row := _row(placed)) is not None]
    if related:
        tx.insert(_INSERT, related)
        tx.run(_FORGET_REDACTED, nids=[row[4] for row in related])
    redacted = [placed.redacts_target for placed in placements if placed.redacts_target is not None]
    if redacted:
        tx.run(_FORGET, event_ids=redacted)


def _row(placed: Placement) -> tuple[Any, ...] | None:
    content = placed.event.content
    relation = relation_of(content)
    if relation is None:
        return None
    rel_type, target_id = relation
    sound = rel_type == REPLACE and is_replacement(placed.event.type, placed.event.state_key, content)
    return (
        target_id,
        placed.room_nid,
        rel_type,
        placed.pos,
        placed.nid,
        placed.type_nid,
        placed.sender_nid,
        placed.event.origin_server_ts,
        int(sound),
    )


def is_replacement(event_type: str, state_key: str | None, content: Mapping[str, Any]) -> bool:
    """Whether an event that says that it replaces another may do so, as far as it alone can tell."""
    # spec: client-server-api#validity-of-replacement-events, #editing-encrypted-events (the new content is encrypted)
    return state_key is None and (
        event_type == "m.room.encrypted" or isinstance(content.get("m.new_content"), dict)
    )


# --- aggregating -------------------------------------------------------------------------------------------------


def load_counts(tx: Tx, parent_nids: Collection[int], upto: int) -> list[Count]:
    """What relates to some events, by kind and sender: kinds that are aggregated alone."""
    return [Count(*row) for row in tx.ask(ask_counts(parent_nids, upto))]


def ask_counts(parent_nids: Collection[int], upto: int) -> Ask:
    """What :func:`load_counts` asks."""
    return Ask(_COUNTS, {"nids": list(parent_nids), "upto": upto})


def load_candidates(
    tx: Tx, parent_nids: Collection[int], upto: int, edits: int, references: int
) -> list[Child]:
    """The newest ``edits`` that may replace their parents, and the newest references; in the order of the timeline."""
    found = tx.all(_CANDIDATES, nids=list(parent_nids), upto=upto, edits=edits, references=references)
    return [_child_of(row) for row in found]


def load_in_threads(tx: Tx, root_nids: Collection[int], positions: Collection[int]) -> list[Child]:
    """The events of some threads at these positions, the newest first."""
    return [_child_of(row) for row in tx.all(_IN_THREADS, nids=list(root_nids), positions=list(positions))]


def _child_of(row: tuple[Any, ...]) -> Child:
    # A redacted event has no row here.
    return Child(row[0], row[1], row[2], row[3], row[4], HistoryRow(row[5], row[6], row[7] or 0, row[8], 0))


def find_user_nids(tx: Tx, user_ids: Collection[str]) -> set[int]:
    """The numbers of those users who have one."""
    return set(tx.column(_USERS, user_ids=list(user_ids)))


# --- paging ------------------------------------------------------------------------------------------------------

_TYPE_NID = select(event_types.c.nid).where(event_types.c.type == bindparam("event_type")).scalar_subquery()
_IN_ROOM = relations.c.room_nid == bindparam("room_nid")
_IN_SPAN = and_(relations.c.pos > bindparam("low"), relations.c.pos <= bindparam("high"))
_ROW = (relations.c.pos, relations.c.child_nid, _child.c.state_key_nid, _child.c.state_before)
_WITH_CHILD = relations.join(_child, _child.c.nid == relations.c.child_nid)


def _kinds(by_kind: bool, by_type: bool) -> ColumnElement[bool]:
    wanted: ColumnElement[bool] = true()
    if by_kind:
        wanted = and_(wanted, relations.c.rel_type == bindparam("rel_type"))
    if by_type:
        wanted = and_(wanted, relations.c.type_nid == _TYPE_NID)
    return wanted


def _children(by_kind: bool, by_type: bool, backwards: bool) -> Statement:
    of_parent = and_(relations.c.target_id == bindparam("parent_id"), _IN_ROOM, _IN_SPAN)
    order = relations.c.pos.desc() if backwards else relations.c.pos.asc()
    return statement(
        select(*_ROW)
        .select_from(_WITH_CHILD)
        .where(and_(of_parent, _kinds(by_kind, by_type)))
        .order_by(order)
        .limit(bindparam("most"))
    )


def _level(by_kind: bool, by_type: bool) -> Statement:
    of_parents = and_(any_of(relations.c.target_id, "parent_ids"), _IN_ROOM, relations.c.pos <= _UPTO)
    return statement(
        select(*_ROW, _child.c.event_id)
        .select_from(_WITH_CHILD)
        .where(and_(of_parents, _kinds(by_kind, by_type)))
        .order_by(relations.c.pos.desc())
        .limit(bindparam("most"))
    )


_EITHER = (False, True)
_CHILDREN = {
    (by_kind, by_type, backwards): _children(by_kind, by_type, backwards)
    for by_kind in _EITHER
    for by_type in _EITHER
    for backwards in _EITHER
}
_LEVELS = {(by_kind, by_type): _level(by_kind, by_type) for by_kind in _EITHER for by_type in _EITHER}


class Kind(NamedTuple):
    """Which children are wanted; None: all."""

    rel_type: str | None = None
    event_type: str | None = None

    @property
    def params(self) -> dict[str, str]:
        """As parameters of statements, which have those alone that they use."""
        event_type = None if self.event_type is None else stored_name(self.event_type)
        found = {"rel_type": self.rel_type, "event_type": event_type}
        return {name: value for name, value in found.items() if value is not None}


def load_children(
    tx: Tx, room_nid: int, parent_id: str, kind: Kind, low: int, high: int, most: int, *, backwards: bool
) -> list[HistoryRow]:
    """At most ``most`` children of an event in ``(low, high]``."""
    query = _CHILDREN[(kind.rel_type is not None, kind.event_type is not None, backwards)]
    span = {"room_nid": room_nid, "parent_id": parent_id, "low": low, "high": high, "most": most}
    return [
        HistoryRow(row[0], row[1], row[2] or 0, row[3], 0) for row in tx.all(query, **span, **kind.params)
    ]


def load_descendants(
    tx: Tx, room_nid: int, parent_id: str, kind: Kind, upto: int, depth: int, most: int
) -> list[HistoryRow]:
    """The children of an event, theirs, and so on: ``depth`` levels, oldest first; of too many the newest of a level."""
    query = _LEVELS[(kind.rel_type is not None, kind.event_type is not None)]
    found: dict[int, HistoryRow] = {}
    seen, parent_ids = {parent_id}, [parent_id]
    for _ in range(depth):
        left = most - len(found)
        if not parent_ids or left <= 0:
            break
        level = tx.all(query, room_nid=room_nid, parent_ids=parent_ids, upto=upto, most=left, **kind.params)
        # In old room versions an event chooses its id, and so might be its own ancestor.
        level = [row for row in level if row[4] not in seen]
        parent_ids = [row[4] for row in level]
        seen.update(parent_ids)
        found.update({row[1]: HistoryRow(row[0], row[1], row[2] or 0, row[3], 0) for row in level})
    return sorted(found.values(), key=lambda row: row.pos or 0)


# --- threads of a room -------------------------------------------------------------------------------------------


def _threads(participated: bool) -> Statement:
    me: ColumnElement[int] = bindparam("user_nid")
    mine = func.max(case((relations.c.sender_nid == me, 1), else_=0))
    newest = func.max(relations.c.pos)
    of_room: Select[Any] = (
        select(relations.c.target_id, newest.label("newest"), mine.label("mine"))
        .where(and_(relations.c.rel_type == THREAD, _IN_ROOM, relations.c.pos <= _UPTO))
        .where(~any_of(relations.c.sender_nid, "ignored"))
        .group_by(relations.c.target_id)
        .having(newest <= bindparam("high"))
    )
    found = of_room.subquery("found")
    source: FromClause = found.join(_parent, _parent.c.event_id == found.c.target_id)
    wanted = _parent.c.room_nid == bindparam("room_nid")
    if participated:
        wanted = and_(wanted, or_(found.c.mine == 1, _parent.c.sender_nid == me))
    return statement(
        select(_parent.c.nid, found.c.newest)
        .select_from(source)
        .where(wanted)
        .order_by(found.c.newest.desc())
        .limit(bindparam("most"))
    )


_THREADS = {participated: _threads(participated) for participated in _EITHER}


class ThreadPlace(NamedTuple):
    """A thread's root, and where its newest event stands."""

    root_nid: int
    newest: int


def load_threads(
    tx: Tx,
    room_nid: int,
    user_nid: int,
    ignored: Collection[int],
    upto: int,
    high: int,
    most: int,
    *,
    participated: bool,
) -> list[ThreadPlace]:
    """The threads of a room by their newest events (none by an ignored user), newest first, from ``high`` on."""
    # spec: client-server-api#get_matrixclientv1roomsroomidthreads
    found = tx.all(
        _THREADS[participated],
        room_nid=room_nid,
        user_nid=user_nid,
        ignored=list(ignored),
        upto=upto,
        high=high,
        most=most,
    )
    return [ThreadPlace(*row) for row in found]


# --- annotations -------------------------------------------------------------------------------------------------

_ANNOTATIONS = statement(
    select(relations.c.child_nid).where(
        and_(
            relations.c.target_id == bindparam("target"),
            relations.c.room_nid == bindparam("room"),
            relations.c.rel_type == ANNOTATION,
            relations.c.sender_nid == bindparam("sender"),
            relations.c.type_nid == bindparam("type"),
        )
    )
)


def find_annotations(tx: Tx, room_nid: int, target_id: str, sender_nid: int, type_nid: int) -> list[int]:
    """A user's annotations of an event by events of one type."""
    return tx.column(_ANNOTATIONS, target=target_id, room=room_nid, sender=sender_nid, type=type_nid)
